"""One layer of the model: projections, decay, recurrence, memory attention, feed-forward."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mmrec_jax.config import ModelConfig, Remat
from mmrec_jax.layers import MLP, Linear, RMSNorm, bias, cut, dropout, joined, linear
from mmrec_jax.matmul import dot
from mmrec_jax.memory import LongTermMemory, MultiMemoryAttention
from mmrec_jax.recurrence import previous_states, recurrence
from mmrec_jax.remat import policy
from mmrec_jax.sparse import SparseFFN

FFN_TOKENS = 4096
"""Tokens, of all sequences together, that go through the feed-forward layer at once."""


class BlockOutput(NamedTuple):
    """What a block computes.

    Attributes:
        y: [B, T, D].
        h: the recurrence's state after the last token that is not padding [B, D].
        planning_loss: section 2.10; 0 unless config.use_uboo.
        max_state: largest |h| of all tokens; it grows without bound where decay stays near 1.
        mean_decay: mean of g, weighted if there are weights.
    """

    y: jax.Array
    h: jax.Array
    planning_loss: jax.Array
    max_state: jax.Array
    mean_decay: jax.Array


def _clip_decay(decay: jax.Array) -> jax.Array:
    return jnp.clip(decay, 1e-6, 1 - 1e-6)


def _mean(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    """The mean of [B, T, D], weighted by [B, T]."""
    return jnp.mean(values if weights is None else values * weights[..., None])


class MDI(nnx.Module):
    """The memory's decay and integration: the decay networks, the h gate, the planners."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        dim = config.model_dim
        self.W_g = linear(2 * dim, dim, rngs=rngs)
        self.W_gamma = MLP(dim, config.inner_dim, dim, rngs=rngs)
        self.W_context = MLP(dim, config.inner_dim, dim, rngs=rngs)
        if config.use_uboo:
            self.W_planning_error = MLP(dim, dim, dim, rngs=rngs)
            self.W_planning_target = MLP(dim, dim, dim, rngs=rngs)

    def decay(self, z: jax.Array, k: jax.Array) -> jax.Array:
        """g from z and k, all [B, T, D] (section 2.3)."""
        return _clip_decay(jax.nn.sigmoid(self.W_gamma(z)) * jax.nn.sigmoid(self.W_context(k)))

    def planning_loss(
        self,
        z: jax.Array,
        decay: jax.Array,
        gate_z: jax.Array,
        previous: jax.Array,
        weights: jax.Array | None = None,
    ) -> jax.Array:
        """Mean squared error of the planned update, a scalar (section 2.10).

        Args:
            z, decay, gate_z, previous: [B, T, D].
            weights: see `MMRecBlock.__call__`.
        """
        dim = z.shape[-1]
        m = jax.nn.sigmoid(gate_z + dot(previous, self.W_g.kernel[dim:]))
        update = (1 - m) * previous + m * z + decay * previous
        error = self.W_planning_error(jax.lax.stop_gradient(update))
        return _mean(jnp.square(error - self.W_planning_target(previous)), weights)


class MMRecBlock(nnx.Module):
    """The block of section 2."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        dim = config.model_dim
        self.config = config
        if config.use_hem:
            self.W_fused = Linear(
                dim, config.fused_projection_dim, kernel_init=_fused_xavier(config), rngs=rngs
            )
        else:
            self.W_q = linear(dim, dim, rngs=rngs)
            self.W_k = linear(dim, dim, rngs=rngs)
            self.W_v = linear(dim, dim, rngs=rngs)
            self.W_z = linear(dim, dim, rngs=rngs)
        self.W_g = linear(dim, dim, rngs=rngs)
        self.norm1 = RMSNorm(dim)
        self.norm2 = RMSNorm(dim)
        if config.use_dpg:
            self.W_gamma_down = linear(dim, config.dpg_rank, rngs=rngs)
            self.W_gamma_up = linear(config.dpg_rank, dim, rngs=rngs)
        self.mdi = MDI(config, rngs=rngs)
        self.multi_mem_attention = MultiMemoryAttention(config, rngs=rngs)
        self.ffn: SparseFFN | MLP
        if config.use_sparse:
            self.ffn = SparseFFN(config, rngs=rngs)
        else:
            self.ffn = MLP(dim, config.ffn_dim, dim, dropout=config.dropout, rngs=rngs)

    def project(self, n: jax.Array) -> tuple[jax.Array, ...]:
        """q, k, v, z of the normalised input, all [B, T, D] (section 2.2)."""
        if not self.config.use_hem:
            return self.W_q(n), self.W_k(n), self.W_v(n), self.W_z(n)
        used = 4 * n.shape[-1]
        fused = dot(n, self.W_fused.kernel[:, :used]) + bias(self.W_fused)[:used]
        return tuple(jnp.split(fused, 4, axis=-1))

    def decay(self, z: jax.Array, k: jax.Array) -> jax.Array:
        """g, from z and k, all [B, T, D] (section 2.3)."""
        if not self.config.use_dpg:
            return self.mdi.decay(z, k)
        return _clip_decay(jax.nn.sigmoid(self.W_gamma_up(jax.nn.relu(self.W_gamma_down(z)))))

    def __call__(
        self,
        x: jax.Array,
        memory: LongTermMemory | None,
        h: jax.Array,
        *,
        weights: jax.Array | None = None,
        router_threshold: jax.Array | float = 0.0,
        dropout_key: jax.Array | None = None,
        remat: Remat = "products",
    ) -> BlockOutput:
        """Runs the block over a sequence.

        Args:
            x: [B, T, D].
            memory: the memory's last level [S, D] or [B, S, D] (section 2.5); None for zeros.
            h: the recurrence's state before the first token [B, D]; zeros at a sequence's start.
            weights: [B, T], how much each token counts in the means, 1 in all; tokens of weight 0
                are padding, which only follows others. None lets all count alike.
            router_threshold: see SparseFFN; without effect in other variants.
            dropout_key: None switches dropout off.
            remat: what of the feed-forward layer the backward pass computes again.
        """
        dim = x.shape[-1]
        q, k, v, z = self.project(self.norm1(x))
        decay = self.decay(z, k)
        mdi_kernel = self.mdi.W_g.kernel[...]
        gate_z = dot(z, mdi_kernel[:dim]) + bias(self.mdi.W_g)
        W_h = jnp.concatenate([self.W_g.kernel[...], mdi_kernel[dim:]], axis=1)
        states = recurrence(z, decay, gate_z, W_h, bias(self.W_g), h)

        planning_loss = jnp.zeros(())
        if self.config.use_uboo:
            planning_loss = self.mdi.planning_loss(
                z, self.mdi.decay(z, k), gate_z, previous_states(states, h), weights
            )

        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        attended = self.multi_mem_attention(states, q, memory)
        r = x + dropout(states + attended + 0.1 * v, self.config.dropout, keys[0])
        n = self.norm2(r)
        if isinstance(self.ffn, SparseFFN):
            if weights is not None:  # a chunk is routed as if it ended where the tokens do
                n = jnp.where(weights[..., None] > 0, n, 0)
            out = self.ffn(n, router_threshold=router_threshold, dropout_key=keys[1])
        else:
            out = _in_pieces(self.ffn, n, keys[1], remat)
        sizes, last = jnp.abs(states), states[:, -1]
        if weights is not None:
            sizes = jnp.where(weights[..., None] > 0, sizes, 0)
            ends = jnp.maximum((weights > 0).sum(axis=1) - 1, 0)
            last = jnp.take_along_axis(states, ends[:, None, None], axis=1)[:, 0]
        return BlockOutput(r + out, last, planning_loss, sizes.max(), _mean(decay, weights))


def _in_pieces(ffn: MLP, x: jax.Array, key: jax.Array | None, remat: Remat) -> jax.Array:
    """The feed-forward layer of [B, T, D], few tokens at a time.

    Memory is bounded but for what `remat` keeps.
    """
    batch, tokens, _ = x.shape
    size = max(FFN_TOKENS // batch, 1)
    if tokens <= size:
        return ffn(x, dropout_key=key)
    count = -(-tokens // size)
    pieces = cut(x, -(-tokens // count))  # alike, with less than a token a piece of padding
    keys = None if key is None else jax.random.split(key, count)
    graphdef, state = nnx.split(ffn)

    def piece(x: jax.Array, key: jax.Array | None) -> jax.Array:
        return nnx.merge(graphdef, state)(x, dropout_key=key)

    piece = jax.checkpoint(piece, policy=policy(remat), prevent_cse=False)
    out = jax.lax.map(lambda each: piece(*each), (pieces, keys))
    return joined(out)[:, :tokens]


def _fused_xavier(config: ModelConfig) -> nnx.Initializer:
    """Each of Q, K, V, Z, P, E is drawn as if it were a layer of its own (section 4)."""
    dim = config.model_dim
    widths = (dim, dim, dim, dim, config.fused_projection_dim - 5 * dim, dim)
    xavier = nnx.initializers.xavier_uniform()

    def init(key: jax.Array, shape: Any, dtype: DTypeLike = jnp.float32, **_: object) -> jax.Array:
        keys = jax.random.split(key, len(widths))
        parts = [xavier(k, (dim, width), dtype) for k, width in zip(keys, widths, strict=True)]
        return jnp.concatenate(parts, axis=1)

    return init
