"""The state between the pieces of a sequence (section 3.5), and how memory is written."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mmrec_jax.config import MEMORY_SLOTS, POOLING
from mmrec_jax.memory import LongTermMemory, memories_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Everything that one token passes to the next, without gradient; it never grows (section 3.5).

    Attributes:
        h: each layer's recurrent state [L, B, D].
        memory: the slots that attention reads, [L, S, D] or [L, B, S, D]; None for zeros.
        total: sum of each layer's outputs since the memory was last written [L, B, D].
        tokens: the number of tokens in each sequence's sum [B].
        chunk_size: tokens after which the memory is written; None never writes it.
    """

    h: jax.Array
    memory: LongTermMemory | None
    total: jax.Array
    tokens: jax.Array
    chunk_size: int | None = dataclasses.field(metadata={"static": True})

    def long_term_memory(self) -> list[LongTermMemory]:
        """The memory that a full pass over the same tokens returns, one per layer (section 2.9)."""
        return memories_of(self.means.astype(self.h.dtype))

    def after(self, h: jax.Array, total: jax.Array, tokens: jax.Array | int) -> "DecodeState":
        """The state after a piece.

        Args:
            h: each layer's recurrent state after it [L, B, D].
            total: the sum of each layer's outputs in it [L, B, D].
            tokens: the number of its tokens, of all sequences or of each [B].
        """
        total, tokens = self.total + total, self.tokens + tokens
        return dataclasses.replace(self, h=h, total=total, tokens=tokens)

    @property
    def means(self) -> jax.Array:
        """The mean of each layer's outputs since the memory was last written [L, B, D]."""
        return self.total / jnp.maximum(self.tokens, 1)[:, None]


def with_full_chunks_written(state: DecodeState) -> DecodeState:
    """The state with the memory written, for the sequences whose chunk is full (section 3.5)."""
    assert state.chunk_size is not None
    # More than a chunk is there where decoding began without a chunk_size.
    full = state.tokens >= state.chunk_size

    def write(state: DecodeState) -> DecodeState:
        assert state.memory is not None
        means = state.means.astype(state.memory.k.dtype)
        slots = jnp.broadcast_to(means[:, :, None], state.memory.k.shape)
        zeros, total = jnp.zeros_like(state.h), jnp.zeros_like(state.total)
        memory = LongTermMemory(slots, slots)
        written = DecodeState(zeros, memory, total, jnp.zeros_like(state.tokens), state.chunk_size)
        return select(full, written, state)

    return jax.lax.cond(full.any(), write, lambda state: state, state)


def memory_per_sequence(state: DecodeState) -> LongTermMemory:
    """The state's memory as arrays [L, B, S, D], the form that writing needs."""
    layers, batch, dim = state.h.shape
    if state.memory is None:
        zeros = jnp.zeros((layers, batch, MEMORY_SLOTS // POOLING**2, dim), state.h.dtype)
        return LongTermMemory(zeros, zeros)
    k, v = (slots if slots.ndim == 4 else slots[:, None] for slots in state.memory)
    shape = (layers, batch, *k.shape[2:])
    return LongTermMemory(jnp.broadcast_to(k, shape), jnp.broadcast_to(v, shape))


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` for the sequences for which the condition [B] holds, else `old`; [B] or [L, B, ...]."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (new.ndim - 2)), new, old)

    return jax.tree.map(choose, new, old)
