"""One layer of the model, in the order of docs/model.md section 2."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mmrec_jax.config import ModelConfig, Remat
from mmrec_jax.ffn import DenseFFN, SparseFFN
from mmrec_jax.layers import MLP, Linear, RMSNorm, bias, dropout, linear
from mmrec_jax.matmul import dot
from mmrec_jax.memory import LongTermMemory, MultiMemoryAttention
from mmrec_jax.recurrence import gates, previous_states, recurrence, update

VALUE_SHARE = 0.1
"""How much of v a block adds to its state and attention (section 2.7)."""

DECAY_MARGIN = 1e-6
"""How close to 0 and to 1 the decay may come (section 2.3)."""


class Health(NamedTuple):
    """Whether a block, or each layer of a stack [L], stays stable.

    Attributes:
        planning_loss: the mean over tokens (section 2.10); 0 unless config.use_uboo.
        max_state: the largest |h| of all tokens; without bound where the decay stays near 1.
        mean_decay: the mean of g over tokens and channels.
    """

    planning_loss: jax.Array
    max_state: jax.Array
    mean_decay: jax.Array


class Mixed(NamedTuple):
    """What a block computes before its feed-forward layer.

    Attributes:
        k, v, z: projections of the normalised input [B, T, D].
        decay: g [B, T, D].
        gate_inputs: gate_z, W_h and b, as `gates` takes them.
        states: h after each token [B, T, D].
        attention: what was read from the memory [B, T, D].
    """

    k: jax.Array
    v: jax.Array
    z: jax.Array
    decay: jax.Array
    gate_inputs: tuple[jax.Array, jax.Array, jax.Array]
    states: jax.Array
    attention: jax.Array


class BlockOutput(NamedTuple):
    """What a block computes.

    Attributes:
        y: [B, T, D].
        h: the recurrence's state after the last real token of each sequence [B, D].
        health: over the real tokens.
        mixed: what it computed on the way.
    """

    y: jax.Array
    h: jax.Array
    health: Health
    mixed: Mixed


class MDI(nnx.Module):
    """The decay networks, the gate of h, and the networks of UBOO's planning loss.

    MDI is the original's name; it does not say what the letters stand for.
    """

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

    def planning_error(self, e: jax.Array, previous: jax.Array) -> jax.Array:
        """(P(stop_gradient(e_t)) - R(h_{t-1}))^2, all [B, T, D] (section 2.10)."""
        planned = self.W_planning_error(jax.lax.stop_gradient(e))
        return jnp.square(planned - self.W_planning_target(previous))


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
        self.ffn: SparseFFN | DenseFFN
        if config.use_sparse:
            self.ffn = SparseFFN(config, rngs=rngs)
        else:
            self.ffn = DenseFFN(config, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        memory: LongTermMemory | None,
        h: jax.Array,
        *,
        real: jax.Array | None = None,
        router_threshold: jax.Array | float = 0.0,
        dropout_key: jax.Array | None = None,
        remat: Remat = "products",
    ) -> BlockOutput:
        """Runs the block over a sequence; the stack writes the new memory (section 2.9).

        Args:
            x: [B, T, D].
            memory: the memory's last level [S, D] or [B, S, D] (section 2.5); None for zeros.
            h: the recurrence's state before the first token [B, D]; zeros at a sequence's start.
            real: which tokens are not padding [B, T] bool; padding comes only after real tokens.
                None means all.
            router_threshold: see SparseFFN; it has no effect in other variants.
            dropout_key: None switches dropout off.
            remat: what the backward pass computes again of the feed-forward layer.
        """
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        mixed = self.mix(x, memory, h)
        states = mixed.states
        added = states + mixed.attention + VALUE_SHARE * mixed.v
        r = x + dropout(added, self.config.dropout, keys[0])  # 2.7
        y = r + self.feed_forward(self.norm2(r), real, router_threshold, keys[1], remat)  # 2.8
        planning_loss = jnp.zeros(())
        if self.config.use_uboo:  # 2.10
            previous = previous_states(states, h)
            _, m = gates(previous, *mixed.gate_inputs)
            e = update(previous, mixed.z, self.mdi.decay(mixed.z, mixed.k), m)
            planning_loss = _mean(self.mdi.planning_error(e, previous), real)
        max_state = jnp.abs(states if real is None else jnp.where(real[..., None], states, 0)).max()
        health = Health(planning_loss, max_state, _mean(mixed.decay, real))
        return BlockOutput(y, _at_last(states, real), health, mixed)

    def mix(self, x: jax.Array, memory: LongTermMemory | None, h: jax.Array) -> Mixed:
        """The first half of the block, in which tokens meet; arguments as in `__call__`."""
        n = self.norm1(x)  # 2.1
        q, k, v, z = self.project(n)  # 2.2
        decay = self.decay(z, k)  # 2.3
        gate_inputs = self.recurrence_weights(z)  # 2.4
        states = recurrence(z, decay, *gate_inputs, h)
        attention = self.multi_mem_attention(states, q, memory)  # 2.5 and 2.6
        return Mixed(k, v, z, decay, gate_inputs, states, attention)

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

    def recurrence_weights(self, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """gate_z, W_h and b as `recurrence` takes them, for z [B, T, D] (section 2.4)."""
        dim, mdi_kernel = z.shape[-1], self.mdi.W_g.kernel[...]
        gate_z = dot(z, mdi_kernel[:dim]) + bias(self.mdi.W_g)
        W_h = jnp.concatenate([self.W_g.kernel[...], mdi_kernel[dim:]], axis=1)
        return gate_z, W_h, bias(self.W_g)

    def feed_forward(
        self,
        n: jax.Array,
        real: jax.Array | None,
        router_threshold: jax.Array | float,
        dropout_key: jax.Array | None,
        remat: Remat,
    ) -> jax.Array:
        """FFN(n), both [B, T, D] (section 2.8); the other arguments are those of `__call__`."""
        if isinstance(self.ffn, DenseFFN):
            return self.ffn.in_pieces(n, dropout_key, remat)
        if real is not None:  # a chunk is routed as if it ended with its last real token
            n = jnp.where(real[..., None], n, 0)
        return self.ffn(n, router_threshold=router_threshold, dropout_key=dropout_key)


def _clip_decay(decay: jax.Array) -> jax.Array:
    return jnp.clip(decay, DECAY_MARGIN, 1 - DECAY_MARGIN)


def _mean(values: jax.Array, real: jax.Array | None) -> jax.Array:
    """The mean of [B, T, D] over all real tokens."""
    if real is None:
        return values.mean()
    total = jnp.where(real[..., None], values, 0).sum()
    return total / (jnp.maximum(real.sum(), 1) * values.shape[-1])


def _at_last(states: jax.Array, real: jax.Array | None) -> jax.Array:
    """The state after each sequence's last real token [B, D], from all states [B, T, D]."""
    if real is None:
        return states[:, -1]
    last = jnp.maximum(real.sum(axis=1) - 1, 0)
    return jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]


def _fused_xavier(config: ModelConfig) -> nnx.Initializer:
    """Draws each of Q, K, V, Z, P, E as if it were a separate layer (section 4)."""
    dim = config.model_dim
    widths = (dim, dim, dim, dim, config.fused_projection_dim - 5 * dim, dim)
    xavier = nnx.initializers.xavier_uniform()

    def init(key: jax.Array, shape: Any, dtype: DTypeLike = jnp.float32, **_: object) -> jax.Array:
        keys = jax.random.split(key, len(widths))
        parts = [xavier(k, (dim, width), dtype) for k, width in zip(keys, widths, strict=True)]
        return jnp.concatenate(parts, axis=1)

    return init
