"""Going on from a prompt, token by token; `python -m mmrec_jax.generate` does it from a run."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.fusion import MMRec100M
from mmrec_jax.model import MMRecModel


def generate(
    model: MMRecModel | MMRec100M,
    prompt: jax.Array,
    length: int,
    *,
    key: jax.Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    chunk_size: int | None = None,
) -> jax.Array:
    """Samples what follows a prompt; time and memory a token do not depend on the position.

    Args:
        model: any variant but the sparse one.
        prompt: token ids [B, T], at least one each.
        length: tokens to sample.
        key: the random key; the same one gives the same tokens.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: samples from the k likeliest tokens only; None from all.
        chunk_size: what the model was trained with, see BlockStack.hidden_states.

    Returns:
        The sampled tokens, without the prompt [B, length].

    Raises:
        ValueError: an argument is out of its range, or the model is the sparse variant.
    """
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt must be [B, T] with T >= 1, not {prompt.shape}")
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be at least 0 and finite, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    graphdef, params = nnx.split(model)
    state: Any = model.start_decoding(prompt.shape[0])
    return _generate(graphdef, params, prompt, state, key, length, temperature, top_k, chunk_size)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "length", "temperature", "top_k", "chunk_size")
)
def _generate(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    prompt: jax.Array,
    state: Any,
    key: jax.Array,
    length: int,
    temperature: float,
    top_k: int | None,
    chunk_size: int | None,
) -> jax.Array:
    model = nnx.merge(graphdef, params)

    def sample(logits: jax.Array, key: jax.Array) -> jax.Array:
        if temperature == 0:
            return jnp.argmax(logits, axis=-1)
        if top_k is not None and top_k < logits.shape[-1]:
            least = jax.lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return jax.random.categorical(key, logits / temperature)

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        logits, state = carry
        token = sample(logits, key)
        logits, state = model.decode(token[:, None], state, chunk_size=chunk_size)
        return (logits[:, -1], state), token

    logits, state = model.decode(prompt, state, chunk_size=chunk_size)
    _, tokens = jax.lax.scan(step, (logits[:, -1], state), jax.random.split(key, length))
    return tokens.T


if __name__ == "__main__":
    # The command reads runs and tokenizers, which this package knows nothing of.
    from train.sample import command

    command()
