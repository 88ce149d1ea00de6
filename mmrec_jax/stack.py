"""A stack of blocks and the norm after it, run as one `lax.scan` over layers.

A model holds its blocks in one of two forms. A list, one module a layer, is the form with the
checkpoint's names. Stacked, one module whose arrays have a leading axis of layers, is the form
for training: compile time does not grow with depth, neither the model's nor the optimizer's.
`stack_blocks` and `unstack_blocks` turn one into the other; every model runs in both.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block import MMRecBlock
from mmrec_jax.config import MEMORY_SLOTS, POOLING, ModelConfig, Remat
from mmrec_jax.layers import RMSNorm, cut, joined
from mmrec_jax.memory import LongTermMemory, filled, pool_layers
from mmrec_jax.remat import policy

Blocks = nnx.List[MMRecBlock] | MMRecBlock
Model = TypeVar("Model", bound=nnx.Module)


class StackOutput(NamedTuple):
    """What a stack of blocks computes.

    Attributes:
        y: the normalised output [B, T, D].
        memory: the new long-term memory, one a layer, each [B, M, D].
        planning_loss: summed over layers (section 2.10).
        max_state: each layer's largest |h| [L].
        mean_decay: each layer's mean of g [L].
    """

    y: jax.Array
    memory: list[LongTermMemory]
    planning_loss: jax.Array
    max_state: jax.Array
    mean_decay: jax.Array


class DecodeState(NamedTuple):
    """All that decoding carries from token to token; its size does not depend on the position.

    Attributes:
        h: each layer's recurrent state [L, B, D].
        memory: what attention reads, [L, S, D] or [L, B, S, D]; None for zeros.
        total: sum of each layer's outputs since the memory was last written [L, B, D].
        tokens: how many are in each sequence's sum [B].
    """

    h: jax.Array
    memory: LongTermMemory | None
    total: jax.Array
    tokens: jax.Array

    def long_term_memory(self) -> list[LongTermMemory]:
        """The memory that a full pass over the same tokens returns, one a layer (section 2.9)."""
        return filled(self.means)

    @property
    def means(self) -> jax.Array:
        """Of each layer's outputs since the memory was last written [L, B, D]."""
        return self.total / jnp.maximum(self.tokens, 1)[:, None]


class _Layers(NamedTuple):
    """One pass over all layers.

    Attributes:
        y: [B, T, D].
        h: [L, B, D].
        means: of each layer's outputs over the tokens that are no padding [L, B, D], without
            gradient.
        planning_loss, max_state, mean_decay: [L].
    """

    y: jax.Array
    h: jax.Array
    means: jax.Array
    planning_loss: jax.Array
    max_state: jax.Array
    mean_decay: jax.Array


def stack_blocks(model: Model) -> Model:
    """A copy of the model whose lists of blocks are stacked."""
    return _convert_blocks(model, lambda blocks: nnx.merge(*_split(blocks)))


def unstack_blocks(model: Model) -> Model:
    """A copy of the model whose stacked blocks are lists again."""

    def unstack(blocks: Blocks) -> nnx.List[MMRecBlock]:
        if not isinstance(blocks, MMRecBlock):
            return blocks
        graphdef, states = _split(blocks)
        layers = jax.tree.leaves(states)[0].shape[0]
        return nnx.List(
            [
                nnx.merge(graphdef, jax.tree.map(lambda array, i=i: array[i], states))
                for i in range(layers)
            ]
        )

    return _convert_blocks(model, unstack)


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
        weights: jax.Array | None = None,
        chunk_size: int | None = None,
        router_threshold: float = 0.0,
        dropout_key: jax.Array | None = None,
        remat: Remat = "products",
    ) -> StackOutput:
        """Runs all blocks and the norm over a sequence (sections 2 and 3.1).

        Args:
            x: embeddings [B, T, D].
            memory: one a layer; None for zeros.
            weights: [B, T], how much each token counts in planning_loss and mean_decay, 1 on
                average; tokens of weight 0 are padding, which only follows others. None lets all
                count alike.
            chunk_size: pieces that the sequence is cut into, run in order, each layer's memory
                carried from piece to piece; None runs it whole.
            router_threshold: certainty below which the sparse layer gives 0.
            dropout_key: None switches dropout off.
            remat: what the backward pass computes again instead of keeping it, see `Remat`.

        Raises:
            ValueError: the memory or chunk_size does not fit.
        """
        _check_chunk_size(chunk_size)
        pooled = pool_layers(memory, self.config, x.shape[0])
        graphdef, states = _split(self.blocks)
        out = _run(
            graphdef, states, x, pooled, weights, router_threshold, dropout_key, chunk_size, remat
        )
        return StackOutput(
            self.norm(out.y),
            filled(out.means),
            out.planning_loss.sum(),
            out.max_state,
            out.mean_decay,
        )

    def start_decoding(
        self, batch: int, memory: Sequence[LongTermMemory] | None = None
    ) -> DecodeState:
        """The state before the first token of `batch` sequences (section 3.5).

        Raises:
            ValueError: the memory does not fit, or the variant cannot be decoded token by token.
        """
        if self.config.use_sparse:
            raise ValueError(
                "the sparse variant routes whole chunks of tokens, later ones included: it has no "
                "token-by-token decoding"
            )
        zeros = jnp.zeros((self.config.num_layers, batch, self.config.model_dim))
        pooled = pool_layers(memory, self.config, batch)
        return DecodeState(zeros, pooled, zeros, jnp.zeros(batch, jnp.int32))

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
            x: embeddings [B, T, D]; what is behind a prompt's end is padding.
            lengths: tokens of each prompt, from 1 to T [B].
            memory: one a layer; None for zeros.
            chunk_size: as in `hidden_states`.

        Returns:
            The output at each prompt's last token [B, D], and the state after it.

        Raises:
            ValueError: as `start_decoding`, or chunk_size is below 1.
        """
        _check_chunk_size(chunk_size)
        start = self.start_decoding(x.shape[0], memory)
        y, state = _prefill(*_split(self.blocks), x, lengths, start, chunk_size)
        last = jnp.take_along_axis(y, lengths[:, None, None] - 1, axis=1)[:, 0]
        return self.norm(last), state

    def decode_hidden_states(
        self, x: jax.Array, state: DecodeState, *, chunk_size: int | None = None
    ) -> tuple[jax.Array, DecodeState]:
        """Goes on from a state, by one token or by many (section 3.5).

        Args:
            x: embeddings [B, T, D].
            state: from `start_decoding` or an earlier call.
            chunk_size: as in `hidden_states`; the same in all calls of one sequence.

        Returns:
            [B, T, D], equal to the full pass over all tokens so far, and the next state.

        Raises:
            ValueError: chunk_size is below 1.
        """
        _check_chunk_size(chunk_size)
        states: nnx.State | list[nnx.State]
        if x.shape[1] == 1 and isinstance(self.blocks, nnx.List):
            # A scan over layers would take half the time of a token to get weights from the stack.
            graphdef, states = _each(self.blocks)
        else:
            graphdef, states = _split(self.blocks)
        if chunk_size is None:
            y, state = _decode(graphdef, states, x, state)
        else:
            state = state._replace(memory=_batched(state.memory, state.h))
            y, state = _decode_chunked(graphdef, states, x, state, chunk_size)
        return self.norm(y), state


def _check_chunk_size(chunk_size: int | None) -> None:
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")


def _convert_blocks(model: Model, convert: Callable[[Blocks], Any]) -> Model:
    model = nnx.clone(model)
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, BlockStack):
            module.blocks = convert(module.blocks)
    return model


def _split(blocks: Blocks) -> tuple[nnx.GraphDef[MMRecBlock], nnx.State]:
    if isinstance(blocks, MMRecBlock):
        return nnx.split(blocks)
    graphdef, states = _each(blocks)
    return graphdef, jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)


def _each(blocks: nnx.List[MMRecBlock]) -> tuple[nnx.GraphDef[MMRecBlock], list[nnx.State]]:
    graphdefs, states = zip(*(nnx.split(block) for block in blocks), strict=True)
    return graphdefs[0], list(states)


def _batched(memory: LongTermMemory | None, h: jax.Array) -> LongTermMemory:
    layers, batch, dim = h.shape
    shape = (layers, batch, MEMORY_SLOTS // POOLING**2, dim)
    if memory is None:
        return LongTermMemory(jnp.zeros(shape), jnp.zeros(shape))
    k, v = (slots if slots.ndim == 4 else slots[:, None] for slots in memory)
    shape = (layers, batch, k.shape[2], dim)
    return LongTermMemory(jnp.broadcast_to(k, shape), jnp.broadcast_to(v, shape))


def _layers(
    graphdef: nnx.GraphDef[MMRecBlock],
    states: nnx.State | list[nnx.State],
    x: jax.Array,
    memory: LongTermMemory | None,
    h: jax.Array,
    weights: jax.Array | None = None,
    router_threshold: jax.Array | float = 0.0,
    dropout_key: jax.Array | None = None,
    remat: Remat = "products",
) -> _Layers:
    keys = None if dropout_key is None else jax.random.split(dropout_key, h.shape[0])

    def layer(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        state, memory, h, key = inputs
        out = nnx.merge(graphdef, state)(
            x,
            memory,
            h,
            weights=weights,
            router_threshold=router_threshold,
            dropout_key=key,
            remat=remat,
        )
        means = _mean_of_tokens(jax.lax.stop_gradient(out.y), weights)
        return out.y, (out.h, means, out.planning_loss, out.max_state, out.mean_decay)

    if isinstance(states, list):
        parts = []
        for index, state in enumerate(states):
            own = jax.tree.map(lambda array, index=index: array[index], (memory, h, keys))
            x, part = layer(x, (state, *own))
            parts.append(part)
        return _Layers(x, *jax.tree.map(lambda *arrays: jnp.stack(arrays), *parts))
    body = jax.checkpoint(layer, policy=policy(remat), prevent_cse=False)
    y, outputs = jax.lax.scan(body, x, (states, memory, h, keys))
    return _Layers(y, *outputs)


def _mean_of_tokens(y: jax.Array, weights: jax.Array | None) -> jax.Array:
    """The mean of [B, T, D] over the tokens whose weight [B, T] is not 0."""
    if weights is None:
        return y.mean(axis=1)
    real = weights[..., None] > 0
    return jnp.where(real, y, 0).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)


@functools.partial(jax.jit, static_argnames=("graphdef", "chunk_size", "remat"))
def _run(
    graphdef: nnx.GraphDef[MMRecBlock],
    states: nnx.State,
    x: jax.Array,
    memory: LongTermMemory | None,
    weights: jax.Array | None,
    router_threshold: jax.Array | float,
    dropout_key: jax.Array | None,
    chunk_size: int | None,
    remat: Remat,
) -> _Layers:
    batch, tokens, dim = x.shape
    layers = jax.tree.leaves(states)[0].shape[0]
    h = jnp.zeros((layers, batch, dim), x.dtype)

    def run(inputs: Any, memory: LongTermMemory | None) -> _Layers:
        x, weights, key = inputs
        return _layers(graphdef, states, x, memory, h, weights, router_threshold, key, remat)

    if chunk_size is None or chunk_size >= tokens:
        return run((x, weights, dropout_key), memory)

    def chunk(means: jax.Array, inputs: Any) -> tuple[jax.Array, _Layers]:
        # All slots of a written memory are equal. One of them reads the same as all, and spares
        # the queries a gradient that would be rounding errors only.
        out = run(inputs, LongTermMemory(means[:, :, None], means[:, :, None]))
        return out.means, out

    whole, rest = divmod(tokens, chunk_size)
    keys = None if dropout_key is None else jax.random.split(dropout_key, whole + 1)

    def pieces(array: jax.Array) -> jax.Array:
        return cut(array[:, : whole * chunk_size], chunk_size)

    inputs = (*jax.tree.map(pieces, (x, weights)), keys)
    last = run(jax.tree.map(lambda array: array[0], inputs), memory)
    parts = [(jax.tree.map(lambda array: array[None], last), chunk_size)]
    if whole > 1:
        others = jax.tree.map(lambda array: array[1:whole], inputs)
        _, middle = jax.lax.scan(chunk, last.means, others)
        last = jax.tree.map(lambda array: array[-1], middle)
        parts.append((middle, chunk_size))
    if rest:
        ends = jax.tree.map(lambda array: array[:, -rest:], (x, weights))
        inputs = (*ends, None if keys is None else keys[whole])
        _, last = chunk(last.means, inputs)
        parts.append((jax.tree.map(lambda array: array[None], last), rest))

    def mean(name: str) -> jax.Array:
        return sum(getattr(out, name).sum(axis=0) * length for out, length in parts) / tokens

    return last._replace(
        y=jnp.concatenate([joined(out.y) for out, _ in parts], axis=1),
        planning_loss=mean("planning_loss"),
        max_state=jnp.concatenate([out.max_state for out, _ in parts]).max(axis=0),
        mean_decay=mean("mean_decay"),
    )


@functools.partial(jax.jit, static_argnames=("graphdef", "chunk_size"))
def _prefill(
    graphdef: nnx.GraphDef[MMRecBlock],
    states: nnx.State,
    x: jax.Array,
    lengths: jax.Array,
    start: DecodeState,
    chunk_size: int | None,
) -> tuple[jax.Array, DecodeState]:
    tokens = x.shape[1]
    size = tokens if chunk_size is None else min(chunk_size, tokens)
    pieces = cut(x, size)
    count = len(pieces)

    def run(memory: LongTermMemory | None, piece: Any) -> tuple[_Layers, DecodeState]:
        x, first = piece
        own = jnp.clip(lengths - first, 0, size)
        weights = jnp.asarray(jnp.arange(size) < own[:, None], x.dtype)
        out = _layers(graphdef, states, x, memory, start.h, weights)
        return out, DecodeState(out.h, memory, out.means * own[:, None], own)

    if chunk_size is not None:
        start = start._replace(memory=_batched(start.memory, start.h))
    if count == 1:
        out, state = run(start.memory, (pieces[0], 0))
        return out.y, state

    def chunk(state: DecodeState, piece: Any) -> tuple[DecodeState, jax.Array]:
        out, after = run(_begin_chunk(state, size).memory, piece)
        # A prompt that ended in an earlier chunk keeps the state of its end.
        return _select(after.tokens > 0, after, state), out.y

    state, y = jax.lax.scan(chunk, start, (pieces, size * jnp.arange(count)))
    return joined(y), state


@functools.partial(jax.jit, static_argnames=("graphdef",))
def _decode(
    graphdef: nnx.GraphDef[MMRecBlock],
    states: nnx.State | list[nnx.State],
    x: jax.Array,
    state: DecodeState,
) -> tuple[jax.Array, DecodeState]:
    out = _layers(graphdef, states, x, state.memory, state.h)
    total, tokens = state.total + out.means * x.shape[1], state.tokens + x.shape[1]
    return out.y, DecodeState(out.h, state.memory, total, tokens)


@functools.partial(jax.jit, static_argnames=("graphdef", "chunk_size"))
def _decode_chunked(
    graphdef: nnx.GraphDef[MMRecBlock],
    states: nnx.State | list[nnx.State],
    x: jax.Array,
    state: DecodeState,
    chunk_size: int,
) -> tuple[jax.Array, DecodeState]:
    write = functools.partial(_begin_chunk, chunk_size=chunk_size)

    def token(state: DecodeState, x: jax.Array) -> tuple[DecodeState, jax.Array]:
        # Only when a next token comes is a full chunk's memory written: the memory after the last
        # token is that of the chunk which the token ends.
        state = jax.lax.cond(jnp.any(state.tokens == chunk_size), write, lambda state: state, state)
        y, state = _decode(graphdef, states, x[:, None], state)
        return state, y[:, 0]

    state, y = jax.lax.scan(token, state, x.swapaxes(0, 1))
    return y.swapaxes(0, 1), state


def _begin_chunk(state: DecodeState, chunk_size: int) -> DecodeState:
    """The state with the memory written, for the sequences whose chunk is full."""
    assert state.memory is not None
    slots = jnp.broadcast_to(state.means[:, :, None], state.memory.k.shape)
    zeros = jnp.zeros_like(state.h)
    fresh = DecodeState(zeros, LongTermMemory(slots, slots), zeros, jnp.zeros_like(state.tokens))
    return _select(state.tokens == chunk_size, fresh, state)


def _select(condition: jax.Array, new: DecodeState, old: DecodeState) -> DecodeState:
    """`new` for the sequences where the condition [B] holds, else `old`."""

    def of(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (new.ndim - 2)), new, old)

    return jax.tree.map(of, new, old)
