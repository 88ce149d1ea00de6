"""What a stack of blocks computes inside, token by token, for those who want to look at it."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block import MMRecBlock
from mmrec_jax.block_forms import item, stacked
from mmrec_jax.config import chunk_size_for
from mmrec_jax.decode_state import DecodeState, memory_per_sequence, with_full_chunks_written
from mmrec_jax.recurrence import gates, previous_states
from mmrec_jax.stack import BlockStack


class Trace(NamedTuple):
    """The inside of every layer, each [L, B, T, D].

    Attributes:
        decay: g, how much of h stays (section 2.3).
        block_gate: s, how much of the input enters h (section 2.4).
        mdi_gate: m, the share of the input in the update u (section 2.4).
        states: h after the token (section 2.4).
        memory_reads: what attention reads from the memory (section 2.6).
        outputs: what the layer gives to the next one (section 2.8).
    """

    decay: jax.Array
    block_gate: jax.Array
    mdi_gate: jax.Array
    states: jax.Array
    memory_reads: jax.Array
    outputs: jax.Array


def trace(stack: BlockStack, x: jax.Array, *, chunk_size: int | None = None) -> Trace:
    """Runs all blocks over a sequence, without dropout, and keeps what they compute.

    Args:
        stack: a base or an expert.
        x: embeddings [B, T, D].
        chunk_size: as in `BlockStack.hidden_states`.

    Raises:
        ValueError: chunk_size does not fit.
    """
    size = chunk_size_for(x.shape[1], chunk_size)
    state = stack.first_state(len(x), None, size)
    if size is not None:
        state = dataclasses.replace(state, memory=memory_per_sequence(state))
    layers = stacked(stack.blocks)
    found = []
    for start in range(0, x.shape[1], size or x.shape[1]):
        piece, state = _trace_piece(*layers, x[:, start:][:, :size], state, bool(start))
        found.append(piece)
    return Trace(*(jnp.concatenate(parts, axis=2) for parts in zip(*found, strict=True)))


@functools.partial(jax.jit, static_argnames=("graphdef", "later"))
def _trace_piece(
    graphdef: nnx.GraphDef[MMRecBlock],
    layers: nnx.State,
    x: jax.Array,
    state: DecodeState,
    later: bool,
) -> tuple[Trace, DecodeState]:
    """A piece of the sequence; before a later one, the memory of the one before it is written."""
    if later:
        state = with_full_chunks_written(state)
    traces, ends = [], []
    for index in range(len(state.h)):
        layer, memory, h = item((layers, state.memory, state.h), index)
        out = nnx.merge(graphdef, layer)(x, memory, h)
        mixed, x = out.mixed, out.y
        of_gates = gates(previous_states(mixed.states, h), *mixed.gate_inputs)
        traces.append(Trace(mixed.decay, *of_gates, mixed.states, mixed.attention, x))
        ends.append((out.h, x.sum(axis=1, dtype=jnp.float32)))
    found, (h, total) = (jax.tree.map(lambda *e: jnp.stack(e), *each) for each in (traces, ends))
    return found, state.after(h, total, x.shape[1])
