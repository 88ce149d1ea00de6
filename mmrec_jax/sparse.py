"""The sparse variant's feed-forward layer: experts chosen for chunks of tokens by hashing."""

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.config import ModelConfig
from mmrec_jax.layers import Buffer, dropout
from mmrec_jax.remat import kept


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
            The two experts' indices [..., 2], and how sure the choice is: the mean distance from
            the hyperplanes [...].
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
        """x [B, T, D] -> [B, T, D]; chunks routed with less certainty than the threshold give 0."""
        batch, tokens, dim = x.shape
        padding = -tokens % self.chunk_size
        chunks = jnp.pad(x, ((0, 0), (0, padding), (0, 0))).reshape(batch, -1, self.chunk_size, dim)
        experts, certainty = self.router(chunks.mean(axis=2))
        weights = self.expert_weights[...]
        first, second = (
            kept(jnp.einsum("bnci,bnio->bnco", chunks, weights[experts[..., choice]]), "product")
            for choice in range(2)
        )
        out = jnp.where((certainty >= router_threshold)[..., None, None], (first + second) / 2, 0)
        out = dropout(out, self.dropout, dropout_key)
        return out.reshape(batch, -1, dim)[:, :tokens]
