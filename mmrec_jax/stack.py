"""Runs blocks in order, and the norm after them, over a sequence.

A sequence is run in pieces, one after the other. Only a `DecodeState` passes from piece to piece
(section 3.5). Without `chunk_size` the whole sequence is one piece; `chunk_size` cuts it (section
3.1). Reading a prompt keeps the state at its end, and decoding continues from that state.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block import Health, MMRecBlock
from mmrec_jax.block_forms import Blocks, item, listed, stacked
from mmrec_jax.config import ModelConfig, Remat, chunk_size_for
from mmrec_jax.decode_state import (
    DecodeState,
    memory_per_sequence,
    select,
    with_full_chunks_written,
)
from mmrec_jax.layers import RMSNorm, join_tokens, split_tokens
from mmrec_jax.memory import LongTermMemory, pool_layers
from mmrec_jax.remat import policy


class StackOutput(NamedTuple):
    """What a stack of blocks computes.

    Attributes:
        y: the normalised output [B, T, D].
        memory: the new long-term memory, one per layer, each [B, M, D].
        auxiliary_loss: lambda_P times the planning losses of all layers (section 2.10).
        health: one per layer [L].
    """

    y: jax.Array
    memory: list[LongTermMemory]
    auxiliary_loss: jax.Array
    health: Health


class BlockStack(nnx.Module):
    """Blocks in order, then a norm: what MMRecModel and ExpertModule have in common."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.blocks: Blocks = nnx.List(
            [MMRecBlock(config, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm = RMSNorm(config.model_dim)

    def hidden_states(
        self,
        x: jax.Array,
        memory: Sequence[LongTermMemory] | None = None,
        *,
        real: jax.Array | None = None,
        chunk_size: int | None = None,
        router_threshold: float = 0.0,
        dropout_key: jax.Array | None = None,
        remat: Remat = "products",
    ) -> StackOutput:
        """Runs all blocks and the norm over a sequence (sections 2 and 3.1).

        Args:
            x: embeddings [B, T, D].
            memory: one per layer; None for zeros.
            real: which tokens are not padding [B, T] bool; padding comes only after real tokens.
                None means all.
            chunk_size: cut the sequence into pieces of so many tokens, run them in order, and pass
                each layer's memory from piece to piece; None runs it whole, but in pieces of
                8,192 tokens if it has more than 32,768.
            router_threshold: the certainty below which the sparse layer gives 0.
            dropout_key: None switches dropout off.
            remat: what the backward pass computes again instead of saving it, see `Remat`.

        Raises:
            ValueError: the memory or chunk_size does not fit.
        """
        start = self.first_state(x.shape[0], memory, chunk_size_for(x.shape[1], chunk_size))
        y, health, state = _run(
            *stacked(self.blocks), x, start, real, router_threshold, dropout_key, remat
        )
        auxiliary_loss = self.config.lambda_P * health.planning_loss.sum()
        return StackOutput(self.norm(y), state.long_term_memory(), auxiliary_loss, health)

    def start_decoding(
        self,
        batch: int,
        memory: Sequence[LongTermMemory] | None = None,
        *,
        chunk_size: int | None = None,
    ) -> DecodeState:
        """The state before the first token of `batch` sequences (section 3.5).

        Args:
            batch: B.
            memory: one per layer; None for zeros.
            chunk_size: as in `hidden_states`; None never cuts, however far decoding goes, unless
                more than 32,768 tokens come in one call.

        Raises:
            ValueError: the memory or chunk_size does not fit, or the variant cannot be decoded
                token by token.
        """
        if self.config.use_sparse:
            raise ValueError(
                "the sparse variant routes whole chunks of tokens, later ones included: it has no "
                "token-by-token decoding"
            )
        state = self.first_state(batch, memory, chunk_size)
        if chunk_size is None:
            return state
        return dataclasses.replace(state, memory=memory_per_sequence(state))

    def prefill_hidden_states(
        self,
        x: jax.Array,
        lengths: jax.Array,
        memory: Sequence[LongTermMemory] | None = None,
        *,
        chunk_size: int | None = None,
    ) -> tuple[jax.Array, DecodeState]:
        """Reads whole prompts, in one pass over all tokens (section 3.5).

        Args:
            x: embeddings [B, T, D]; after a prompt's end comes padding.
            lengths: the number of tokens of each prompt, from 1 to T [B].
            memory: one per layer; None for zeros.
            chunk_size: as in `hidden_states`, where T counts padding; decoding keeps to it.

        Returns:
            The output at each prompt's last token [B, D], and the state after it.

        Raises:
            ValueError: as `start_decoding`.
        """
        chunk_size = chunk_size_for(x.shape[1], chunk_size)
        start = self.start_decoding(x.shape[0], memory, chunk_size=chunk_size)
        real = jnp.arange(x.shape[1]) < lengths[:, None]
        y, _, state = _run(*stacked(self.blocks), x, start, real)
        last = jnp.take_along_axis(y, lengths[:, None, None] - 1, axis=1)[:, 0]
        return self.norm(last), state

    def decode_hidden_states(
        self, x: jax.Array, state: DecodeState
    ) -> tuple[jax.Array, DecodeState]:
        """Continues from a state, by one token or by many (section 3.5).

        Args:
            x: embeddings [B, T, D].
            state: from `start_decoding`, `prefill_hidden_states` or an earlier call.

        Returns:
            Outputs [B, T, D], equal to those of a full pass over all tokens so far with the state's
            chunk_size, and the next state. If that is None, they equal those of a full pass that is
            not cut, however many tokens there are, until a call has more than 32,768 tokens. Its
            tokens and all later ones are cut.
        """
        layers: nnx.State | list[nnx.State]
        chunk_size = chunk_size_for(x.shape[1], state.chunk_size)
        if chunk_size != state.chunk_size:  # the full pass would be cut from its first token on
            memory = memory_per_sequence(state)
            state = dataclasses.replace(state, chunk_size=chunk_size, memory=memory)
        if x.shape[1] == 1 and isinstance(self.blocks, nnx.List):
            # A scan over layers would spend half of the time of a token on copying weights.
            graphdef, layers = listed(self.blocks)
        else:
            graphdef, layers = stacked(self.blocks)
        y, state = _continue(graphdef, layers, x, state)
        return self.norm(y), state

    def first_state(
        self, batch: int, memory: Sequence[LongTermMemory] | None, chunk_size: int | None
    ) -> DecodeState:
        """The state before the first token of `batch` sequences; see `start_decoding`."""
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        pooled = pool_layers(memory, self.config, batch)
        shape = (self.config.num_layers, batch, self.config.model_dim)
        h = jnp.zeros(shape, self.norm.scale[...].dtype)
        total = jnp.zeros(shape)  # always float32: a sum in bfloat16 would stop growing
        return DecodeState(h, pooled, total, jnp.zeros(batch, jnp.int32), chunk_size)


@functools.partial(jax.jit, static_argnames=("graphdef", "remat", "piece_tokens"))
def _run(
    graphdef: nnx.GraphDef[MMRecBlock],
    layers: nnx.State | list[nnx.State],
    x: jax.Array,
    state: DecodeState,
    real: jax.Array | None = None,
    router_threshold: jax.Array | float = 0.0,
    dropout_key: jax.Array | None = None,
    remat: Remat = "products",
    piece_tokens: int | None = None,
) -> tuple[jax.Array, Health, DecodeState]:
    """Runs all layers, piece by piece: outputs [B, T, D], each layer's health, the state.

    A piece is a chunk, from its first token on, or has `piece_tokens` tokens. Before each piece,
    the memory of the sequences whose chunk is full is written. The other arguments are those of
    `BlockStack.hidden_states`.
    """
    run_piece = functools.partial(_run_piece, graphdef, layers, router_threshold, remat)
    tokens, size = x.shape[1], piece_tokens or state.chunk_size
    if size is None or size >= tokens:
        return run_piece(state, (x, real, dropout_key))
    whole, rest = divmod(tokens, size)
    keys = None if dropout_key is None else jax.random.split(dropout_key, whole + bool(rest))
    pieces = jax.tree.map(lambda array: split_tokens(array[:, : whole * size], size), (x, real))
    y, health, after = run_piece(state, item((*pieces, keys), 0))
    if piece_tokens is None:
        # All slots of a written memory are equal, so reading one of them gives the same result.
        # With all of them, queries would get a gradient that is only rounding errors.
        slot = jnp.zeros_like(after.h)[:, :, None]
        after = dataclasses.replace(after, memory=LongTermMemory(slot, slot))

    def next_piece(state: DecodeState, inputs: Any) -> tuple[DecodeState, Any]:
        y, health, after = run_piece(with_full_chunks_written(state), inputs)
        if real is not None:  # a sequence that ended in an earlier piece keeps its last state
            after = select(inputs[1].any(axis=1), after, state)
        return after, (y, health)

    others = jax.tree.map(lambda array: array[1:whole], (*pieces, keys))
    after, (middle, healths) = jax.lax.scan(next_piece, after, others)
    ys, parts = [y, join_tokens(middle)], [jax.tree.map(lambda first: first[None], health), healths]
    if rest:
        end = jax.tree.map(lambda array: array[:, whole * size :], (x, real))
        after, (y, health) = next_piece(after, (*end, None if keys is None else keys[whole]))
        ys.append(y)
        parts.append(jax.tree.map(lambda last: last[None], health))
    if piece_tokens is None:
        before = memory_per_sequence(state)
        slots = jnp.broadcast_to(memory_per_sequence(after).k, before.k.shape)
        written = jnp.array(True) if real is None else real[:, size:].any(axis=1)
        memory = select(written, LongTermMemory(slots, slots), before)
        after = dataclasses.replace(after, memory=memory)
    counted = jnp.ones(x.shape[:2]) if real is None else real
    counts = split_tokens(counted, size).sum(axis=(1, 2))
    health = _mean_health(jax.tree.map(lambda *each: jnp.concatenate(each), *parts), counts)
    return jnp.concatenate(ys, axis=1), health, after


@functools.partial(jax.jit, static_argnames=("graphdef",))
def _continue(
    graphdef: nnx.GraphDef[MMRecBlock],
    layers: nnx.State | list[nnx.State],
    x: jax.Array,
    state: DecodeState,
) -> tuple[jax.Array, DecodeState]:
    """Runs tokens [B, T, D] after a state; each sequence may be anywhere in its chunk."""
    one_by_one = None
    if state.chunk_size is not None:
        one_by_one = 1
        # A full chunk's memory is written only when the next token comes: the memory after the last
        # token is still that of the chunk that the token completes.
        state = with_full_chunks_written(state)
    y, _, state = _run(graphdef, layers, x, state, piece_tokens=one_by_one)
    return y, state


def _run_piece(
    graphdef: nnx.GraphDef[MMRecBlock],
    layers: nnx.State | list[nnx.State],
    router_threshold: jax.Array | float,
    remat: Remat,
    state: DecodeState,
    inputs: Any,
) -> tuple[jax.Array, Health, DecodeState]:
    """Runs one piece x [B, T, D] through all layers; also returns the state after it."""
    x, real, dropout_key = inputs
    keys = None if dropout_key is None else jax.random.split(dropout_key, state.h.shape[0])

    def run_layer(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        layer, memory, h, key = inputs
        out = nnx.merge(graphdef, layer)(
            x,
            memory,
            h,
            real=real,
            router_threshold=router_threshold,
            dropout_key=key,
            remat=remat,
        )
        y = out.y if real is None else jnp.where(real[..., None], out.y, 0)
        h, total = jax.lax.stop_gradient((out.h, y.sum(axis=1, dtype=jnp.float32)))
        return out.y, (h, total, out.health)

    if isinstance(layers, list):
        outputs = []
        for index, layer in enumerate(layers):
            x, output = run_layer(x, (layer, *item((state.memory, state.h, keys), index)))
            outputs.append(output)
        h, total, health = jax.tree.map(lambda *arrays: jnp.stack(arrays), *outputs)
    else:
        body = jax.checkpoint(run_layer, policy=policy(remat), prevent_cse=False)
        x, (h, total, health) = jax.lax.scan(body, x, (layers, state.memory, state.h, keys))
    return x, health, state.after(h, total, x.shape[1] if real is None else real.sum(axis=1))


def _mean_health(pieces: Health, tokens: jax.Array) -> Health:
    """The health of a sequence, from its pieces' health [pieces, L] and their token counts."""
    shares = (tokens / tokens.sum())[:, None]
    return Health(
        (pieces.planning_loss * shares).sum(axis=0),
        pieces.max_state.max(axis=0),
        (pieces.mean_decay * shares).sum(axis=0),
    )
