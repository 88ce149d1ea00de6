"""What the machine allows: a step's matrix products alone, and reading the parameters once."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mmrec_jax.config import ModelConfig
from mmrec_jax.matmul import kernel_gradient
from train.step.loss import CHUNK_TOKENS

REPEATS = 7


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """The shortest time of all calls except the first; other programs can only add to it."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_products(config: ModelConfig, batch: int, tokens: int) -> float:
    """Seconds for the matrix products of one training step in float32, each shape timed alone.

    These are the products of the plain variant without a long-term memory: the one of the forward
    pass, and the two of the backward pass in the faster of two forms. Those of the recurrence run
    one token after the other, as they must, in a loop that does little else. Those of the head run
    in the chunks of the loss.
    """
    dim, hidden, inner = config.model_dim, config.ffn_dim, config.inner_dim
    rows = batch * tokens
    linear = {(dim, dim): 4, (dim, inner): 2, (inner, dim): 2, (dim, hidden): 1, (hidden, dim): 1}
    layer = sum(count * _three(rows, *shape) for shape, count in linear.items())
    kernel = jnp.full((dim, 2 * dim), 1e-4)
    for weights in (kernel, kernel.T):
        inputs = jnp.ones((batch, weights.shape[0]))
        layer += seconds(jax.jit(_one_by_one, static_argnums=2), inputs, weights, tokens)
    layer += _of_kernel(jnp.ones((rows, dim)), jnp.ones((rows, 2 * dim)))
    chunk = min(CHUNK_TOKENS, rows)
    head = rows / chunk * _three(chunk, dim, config.vocab_size)
    return config.num_layers * layer + head


def _three(rows: int, inputs: int, outputs: int) -> float:
    x, kernel, d = jnp.ones((rows, inputs)), jnp.ones((inputs, outputs)), jnp.ones((rows, outputs))
    return (
        seconds(jax.jit(jnp.matmul), x, kernel)
        + min(
            seconds(jax.jit(lambda d, kernel: d @ kernel.T), d, kernel),
            seconds(jax.jit(jnp.matmul), d, kernel.T.copy()),
        )
        + _of_kernel(x, d)
    )


def _of_kernel(x: jax.Array, d: jax.Array) -> float:
    forms = (kernel_gradient, lambda x, d: x.T @ d)
    return min(seconds(jax.jit(form), x, d) for form in forms)


def _one_by_one(x: jax.Array, kernel: jax.Array, tokens: int) -> jax.Array:
    width = x.shape[1]

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        # Each product has to wait for the one before it.
        y = x @ kernel
        return jnp.concatenate([y, y], axis=1)[:, :width], None

    return jax.lax.scan(step, x, None, length=tokens)[0]


def read_bandwidth() -> float:
    """Bytes per second that all cores read from memory, of an array too large for any cache."""
    array = jnp.ones((2**10, 2**18), jnp.float32)
    return array.nbytes / seconds(jax.jit(lambda array: array.sum(axis=1)), array)
