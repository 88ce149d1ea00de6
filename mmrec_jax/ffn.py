"""The feed-forward layer (section 2.8): dense, or sparse experts for chunks of tokens."""

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.config import ModelConfig, Remat
from mmrec_jax.layers import MLP, Buffer, dropout, join_tokens, split_tokens
from mmrec_jax.remat import policy, saveable

PIECE_TOKENS = 4096
"""How many tokens, of all sequences together, go through the dense layer at once."""


class DenseFFN(MLP):
    """Linear D -> F, GELU, dropout, Linear F -> D, dropout; some tokens at a time.

    So its memory is bounded, except for what `remat` saves.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        dim = config.model_dim
        super().__init__(dim, config.ffn_dim, dim, dropout=config.dropout, rngs=rngs)

    def in_pieces(self, x: jax.Array, dropout_key: jax.Array | None, remat: Remat) -> jax.Array:
        """x [B, T, D] -> [B, T, D]; `remat` says what the backward pass computes again."""
        batch, tokens, _ = x.shape
        size = max(PIECE_TOKENS // batch, 1)
        if tokens <= size:
            return self(x, dropout_key=dropout_key)
        count = -(-tokens // size)
        # Pieces of equal size, with less than one token of padding in each.
        pieces = split_tokens(x, -(-tokens // count))
        keys = None if dropout_key is None else jax.random.split(dropout_key, count)
        graphdef, state = nnx.split(self)

        def piece(x: jax.Array, key: jax.Array | None) -> jax.Array:
            return nnx.merge(graphdef, state)(x, dropout_key=key)

        piece = jax.checkpoint(piece, policy=policy(remat), prevent_cse=False)
        out = jax.lax.map(lambda each: piece(*each), (pieces, keys))
        return join_tokens(out)[:, :tokens]


class Router(nnx.Module):
    """Chooses two experts by the signs of random projections (section 2.8)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        bits = config.num_experts.bit_length() - 1
        self.hyperplanes = Buffer(jax.random.normal(rngs.params(), (config.model_dim, bits)))

    def __call__(self, means: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Routes chunks by their means.

        Args:
            means: [..., D].

        Returns:
            The indices of the two experts [..., 2], and the certainty of the choice: the mean
            distance from the hyperplanes [...].
        """
        projections = means @ self.hyperplanes[...]
        powers = 1 << jnp.arange(projections.shape[-1])
        first = jnp.sum(jnp.where(projections > 0, powers, 0), axis=-1)
        distance = jnp.abs(projections)
        second = first ^ powers[jnp.argmin(distance, axis=-1)]
        return jnp.stack([first, second], axis=-1), distance.mean(axis=-1)


class SparseFFN(nnx.Module):
    """Each chunk of tokens goes through the mean of two experts' matrices (section 2.8)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        dim = config.model_dim
        self.expert_weights = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (config.num_experts, dim, dim))
        )
        self.router = Router(config, rngs=rngs)
        self.chunk_size = config.sparse_chunk_size
        self.dropout = config.dropout

    def __call__(
        self,
        x: jax.Array,
        *,
        router_threshold: jax.Array | float = 0.0,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """x [B, T, D] -> [B, T, D]; chunks whose certainty is below the threshold give 0."""
        batch, tokens, dim = x.shape
        padding = -tokens % self.chunk_size
        chunks = jnp.pad(x, ((0, 0), (0, padding), (0, 0))).reshape(batch, -1, self.chunk_size, dim)
        experts, certainty = self.router(chunks.mean(axis=2))
        weights = self.expert_weights[...]
        first, second = (
            saveable(
                jnp.einsum("bnci,bnio->bnco", chunks, weights[experts[..., choice]]), "product"
            )
            for choice in range(2)
        )
        out = jnp.where((certainty >= router_threshold)[..., None, None], (first + second) / 2, 0)
        out = dropout(out, self.dropout, dropout_key)
        return out.reshape(batch, -1, dim)[:, :tokens]
