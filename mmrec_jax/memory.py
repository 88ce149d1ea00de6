"""The external long-term memory: its slots, their hierarchy, and the attention that reads them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.config import MEMORY_SLOTS, POOLING, ModelConfig
from mmrec_jax.layers import linear


class LongTermMemory(NamedTuple):
    """Keys and values of one layer's memory.

    Attributes:
        k: [M, D], shared by the batch, or [B, M, D].
        v: likewise.
    """

    k: jax.Array
    v: jax.Array


def pool(slots: jax.Array) -> jax.Array:
    """Averages slots by 4 and by 4 again (section 2.5): [..., M, D] -> [..., S, D], S = M / 16."""
    for _ in range(2):
        shape = (*slots.shape[:-2], slots.shape[-2] // POOLING, POOLING, slots.shape[-1])
        slots = slots.reshape(shape).mean(axis=-2)
    return slots


def pool_layers(
    memory: Sequence[LongTermMemory] | None, config: ModelConfig, batch: int
) -> LongTermMemory | None:
    """Checks the memories of all layers and pools them to the slots that attention reads.

    Args:
        memory: one per layer, or None for zeros.
        config: gives the number of layers and channels.
        batch: B.

    Returns:
        Arrays [L, S, D] or, if any layer's memory has a batch axis, [L, B, S, D]; None for zeros.

    Raises:
        ValueError: the number of layers or a shape is wrong.
    """
    if memory is None:
        return None
    if len(memory) != config.num_layers:
        raise ValueError(
            f"{len(memory)} memories for {config.num_layers} layers: give one per layer"
        )
    granule = POOLING * POOLING
    for i, layer in enumerate(memory):
        for name, slots in (("k", layer.k), ("v", layer.v)):
            shape = slots.shape
            if (
                shape != layer.k.shape
                or len(shape) not in (2, 3)
                or shape[-1] != config.model_dim
                or shape[-2] % granule
                or shape[-2] != memory[0].k.shape[-2]
                or (len(shape) == 3 and shape[0] != batch)
            ):
                raise ValueError(
                    f"memory {i}.{name} has shape {tuple(shape)}: it must be [M, D] or [B, M, D], "
                    f"M the same for all, with D = {config.model_dim}, B = {batch} and M a "
                    f"multiple of {granule}"
                )

    def stack(slots: Sequence[jax.Array]) -> jax.Array:
        pooled = [pool(array) for array in slots]
        if any(array.ndim == 3 for array in pooled):
            pooled = [jnp.broadcast_to(a, (batch, *a.shape[-2:])) for a in pooled]
        return jnp.stack(pooled)

    return LongTermMemory(stack([m.k for m in memory]), stack([m.v for m in memory]))


def memories_of(means: jax.Array) -> list[LongTermMemory]:
    """Each layer's new memory, all slots the mean (section 2.9): [L, B, D] -> L x [B, M, D]."""
    layers, batch, dim = means.shape
    slots = jnp.broadcast_to(means[:, :, None], (layers, batch, MEMORY_SLOTS, dim))
    return [LongTermMemory(slots[i], slots[i]) for i in range(layers)]


class MultiMemoryAttention(nnx.Module):
    """Attention of the states over a layer's memory (section 2.6)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.W_q = linear(config.model_dim, config.model_dim, rngs=rngs)
        self.W_o = linear(config.model_dim, config.model_dim, rngs=rngs)
        self.num_heads = config.num_heads

    def __call__(self, h: jax.Array, q: jax.Array, memory: LongTermMemory | None) -> jax.Array:
        """Reads the memory.

        Args:
            h: states [B, T, D].
            q: the block's query projection [B, T, D].
            memory: the hierarchy's last level, [S, D] or [B, S, D]; None for zeros.

        Returns:
            [B, T, D].
        """
        if memory is None:
            # Values of zero average to zero whatever the scores: only the output's bias is left.
            return jnp.broadcast_to(self.W_o(jnp.zeros_like(h[0, 0])), h.shape)
        heads = (self.num_heads, h.shape[-1] // self.num_heads)
        query = (self.W_q(h) + 0.5 * q).reshape(*h.shape[:-1], *heads)
        k, v = (slots.reshape(*slots.shape[:-1], *heads) for slots in memory)
        slots = "bshd" if k.ndim == 4 else "shd"
        scores = jnp.einsum(f"bthd,{slots}->bhts", query, k) / jnp.sqrt(float(heads[1]))
        read = jnp.einsum(f"bhts,{slots}->bthd", jax.nn.softmax(scores, axis=-1), v)
        return self.W_o(read.reshape(h.shape))
