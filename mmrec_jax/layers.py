"""The small layers that the blocks are built from."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.random import threefry_2x32
from jax.typing import DTypeLike

from mmrec_jax.matmul import dot
from mmrec_jax.remat import saveable


class Buffer(nnx.Variable):
    """An array that belongs to the model and is never trained."""


def uniform(bound: float) -> nnx.Initializer:
    """Initial values drawn uniformly from [-bound, bound] (section 4)."""

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **_: object
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nnx.Linear):
    """`x @ kernel + bias`, kernel [inputs, outputs]; the product as `matmul.dot` does it."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """inputs [..., I] -> [..., O]."""
        y = dot(inputs, self.kernel[...])
        return y if self.bias is None else y + self.bias[...]


def linear(inputs: int, outputs: int, *, use_bias: bool = True, rngs: nnx.Rngs) -> Linear:
    """A linear layer, kernel and bias uniform in +-1/sqrt(inputs) (section 4)."""
    init = uniform(1 / math.sqrt(inputs))
    return Linear(inputs, outputs, use_bias=use_bias, kernel_init=init, bias_init=init, rngs=rngs)


def bias(layer: nnx.Linear) -> jax.Array:
    """The bias of a layer that has one [outputs]."""
    assert layer.bias is not None
    return layer.bias[...]


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, x * Phi(x), of every MLP in the model (section 2.3)."""
    # With erf, as in the original; jax.nn.gelu uses erfc, which takes twice as long.
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Sets a share `rate` of x to 0 and scales the rest by 1 / (1 - rate); x itself without a key.

    The share is exact to 2^-16.
    """
    if key is None or rate == 0:
        return x
    threshold = min(round(rate * 2**16), 2**16 - 1)
    keep = saveable(_random_uint16(key, x.shape) >= threshold, "dropout")
    return jnp.where(keep, x / (1 - rate), 0)


def _random_uint16(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform bits, six times as fast as jax.random.bits, which drops 3 of 4 that it computes."""
    size = math.prod(shape)
    words = threefry_2x32(jax.random.key_data(key), jnp.arange(-(-size // 2), dtype=jnp.uint32))
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size].reshape(shape)


def split_tokens(x: jax.Array, size: int) -> jax.Array:
    """[B, T, ...] in pieces of `size` tokens [count, B, size, ...], with zeros after the last."""
    batch, tokens, *rest = x.shape
    count = -(-tokens // size)
    padded = jnp.pad(x, ((0, 0), (0, count * size - tokens), *[(0, 0)] * len(rest)))
    return padded.reshape(batch, count, size, *rest).swapaxes(0, 1)


def join_tokens(pieces: jax.Array) -> jax.Array:
    """Pieces [count, B, size, ...] one after the other [B, count * size, ...]."""
    count, batch, size, *rest = pieces.shape
    return pieces.swapaxes(0, 1).reshape(batch, count * size, *rest)


class RMSNorm(nnx.Module):
    """`scale * x / (sqrt(mean(x^2)) + 1e-6)`: the epsilon is outside the root (section 2.1)."""

    def __init__(self, dim: int) -> None:
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> [..., D]."""
        root = jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))
        return self.scale[...] * (x / (root + 1e-6))


class MLP(nnx.Module):
    """Linear, exact GELU, Linear; with a key, dropout after each of the last two (section 2.8)."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        self.linear_in = linear(inputs, hidden, rngs=rngs)
        self.linear_out = linear(hidden, outputs, rngs=rngs)
        self.dropout = dropout

    def __call__(self, x: jax.Array, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """x [..., inputs] -> [..., outputs]."""
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        hidden = dropout(gelu(self.linear_in(x)), self.dropout, keys[0])
        return dropout(self.linear_out(hidden), self.dropout, keys[1])
