"""Continuing prompts token by token, with a model in memory."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block_forms import unstack_blocks
from mmrec_jax.config import chunk_size_for
from mmrec_jax.fusion import MMRec100M
from mmrec_jax.model import MMRecModel, check_ids
from mmrec_jax.sampling import Sampling, draw

PIECE = 32
"""How many tokens of each sequence `stream` computes at a time."""

_SHORTEST = 16  # from this length on, prompts are padded to a power of two: fewer shapes to compile


def generate(
    model: MMRecModel | MMRec100M,
    prompt: jax.Array,
    length: int,
    *,
    key: jax.Array,
    lengths: jax.Array | None = None,
    sampling: Sampling | None = None,
    chunk_size: int | None = None,
) -> jax.Array:
    """Samples what follows prompts; time and memory per token do not depend on the position.

    Args:
        length: tokens to sample.
        model, prompt, key, lengths, sampling, chunk_size: see `stream`.

    Returns:
        The sampled tokens without the prompts [B, length], the same that `stream` yields.

    Raises:
        ValueError: see `stream`.
        FloatingPointError: the model's scores are not finite.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    pieces = stream(
        model, prompt, key=key, lengths=lengths, sampling=sampling, chunk_size=chunk_size
    )
    taken = [next(pieces) for _ in range(-(-length // PIECE))]
    return jnp.concatenate(taken, axis=1)[:, :length]


def stream(
    model: MMRecModel | MMRec100M,
    prompt: jax.Array,
    *,
    key: jax.Array,
    lengths: jax.Array | None = None,
    sampling: Sampling | None = None,
    chunk_size: int | None = None,
) -> Iterator[jax.Array]:
    """Reads prompts and samples what follows them, endlessly.

    Args:
        model: any variant except the sparse one; blocks in either form.
        prompt: token ids [B, T], at least one each.
        key: the random key; the same one gives the same tokens. Every prompt is continued with it
            as if it were alone, so equal prompts have equal continuations. Keys [B] give each
            prompt its own.
        lengths: tokens of each prompt [B], the rest of its row being padding; None for T in all.
        sampling: which tokens may be drawn; None is `Sampling()`.
        chunk_size: the one that the model was trained with, see BlockStack.hidden_states.

    Returns:
        Yields the next PIECE tokens of each sequence [B, PIECE]; raises FloatingPointError when
        the model's scores are no longer finite.

    Raises:
        ValueError: an argument is out of its range, the model is the sparse variant, or only some
            of the prompts are so long that they are cut (docs/model.md section 3.1).
    """
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt must be [B, T] with T >= 1, not {prompt.shape}")
    batch, tokens = prompt.shape
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):  # as jax.random.PRNGKey makes them
        key = jax.random.wrap_key_data(key)
    if key.shape not in ((), (batch,)):
        raise ValueError(f"key must be one key or {batch} keys, not {key.shape}")
    if lengths is None:
        lengths = jnp.full(batch, tokens)
    if lengths.shape != (batch,) or jnp.any((lengths < 1) | (lengths > tokens)):
        raise ValueError(f"lengths must be {batch} numbers from 1 to {tokens}, not {lengths}")
    check_ids(prompt, model.config.vocab_size, lengths)
    shortest, tokens = int(lengths.min()), int(lengths.max())
    if chunk_size_for(shortest, chunk_size) != chunk_size_for(tokens, chunk_size):
        raise ValueError(
            f"without chunk_size, a prompt of {tokens:,} tokens is cut into pieces and one of "
            f"{shortest:,} is not: continue them separately, or give a chunk_size"
        )
    prompt = prompt[:, :tokens]  # a prompt is not long because of the padding behind it
    padded = max(_SHORTEST, 1 << (tokens - 1).bit_length())
    prompt = jnp.pad(prompt, ((0, 0), (0, padded - tokens)))
    graphdef, params = nnx.split(unstack_blocks(model))
    logits, state = _prefill(graphdef, params, prompt, lengths, chunk_size)
    carry = (logits, state, jnp.zeros((), jnp.int32))
    return _pieces(graphdef, params, carry, key, sampling or Sampling())


def _pieces(
    graphdef: nnx.GraphDef, params: nnx.State, carry: Any, *options: Any
) -> Iterator[jax.Array]:
    while True:
        carry, piece, finite = _extend(graphdef, params, carry, *options)
        if not finite:
            raise FloatingPointError(
                f"the scores of the next token are not finite after {carry[-1]} tokens: the "
                "model's states have grown too large"
            )
        yield piece


@functools.partial(jax.jit, static_argnames=("graphdef", "chunk_size"))
def _prefill(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    prompt: jax.Array,
    lengths: jax.Array,
    chunk_size: int | None,
) -> Any:
    return nnx.merge(graphdef, params).prefill(prompt, lengths, chunk_size=chunk_size)


@functools.partial(jax.jit, static_argnames=("graphdef", "sampling"), donate_argnames="carry")
def _extend(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    carry: Any,
    key: jax.Array,
    sampling: Sampling,
) -> tuple[Any, jax.Array, jax.Array]:
    model = nnx.merge(graphdef, params)
    keys_of_token = functools.partial(jax.vmap(jax.random.fold_in, (0, None)), jnp.atleast_1d(key))

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        logits, state, position = carry
        token = draw(logits, keys_of_token(position), sampling)
        logits, state = model.decode(token[:, None], state)
        return (logits[:, 0], state, position + 1), token

    carry, tokens = jax.lax.scan(step, carry, None, length=PIECE)
    # A state that is not finite stays so: checking the last scores checks all of them.
    return carry, tokens.T, jnp.isfinite(carry[0]).all()
