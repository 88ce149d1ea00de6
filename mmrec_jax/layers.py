"""The small layers that the blocks are built from."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class Buffer(nnx.Variable):
    """An array that belongs to the model and is never trained."""


def uniform(bound: float) -> nnx.Initializer:
    """Initial values drawn uniformly from [-bound, bound] (section 4)."""

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **_: object
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(inputs: int, outputs: int, *, use_bias: bool = True, rngs: nnx.Rngs) -> nnx.Linear:
    """`x @ kernel + bias`, kernel [inputs, outputs], uniform in +-1/sqrt(inputs) (section 4)."""
    init = uniform(1 / math.sqrt(inputs))
    return nnx.Linear(
        inputs, outputs, use_bias=use_bias, kernel_init=init, bias_init=init, rngs=rngs
    )


def bias(layer: nnx.Linear) -> jax.Array:
    """The bias of a layer that has one [outputs]."""
    assert layer.bias is not None
    return layer.bias[...]


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, x * Phi(x), of every MLP in the model (section 2.3)."""
    return jax.nn.gelu(x, approximate=False)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of x and scales the rest by 1 / (1 - rate); identity without a key."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


class Embedding(nnx.Module):
    """A table of token vectors; unlike nnx.Embed its outputs always have the table's dtype."""

    def __init__(self, vocab_size: int, dim: int, *, init: nnx.Initializer, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Param(init(rngs.params(), (vocab_size, dim)))

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        """input_ids [B, T] -> [B, T, D]."""
        return self.embedding[...][input_ids]


class RMSNorm(nnx.Module):
    """`scale * x / (sqrt(mean(x^2)) + 1e-6)`: the epsilon is outside the root (section 2.1)."""

    def __init__(self, dim: int) -> None:
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> [..., D]."""
        root = jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))
        return self.scale[...] * (x / (root + 1e-6))


class MLP(nnx.Module):
    """Linear, exact GELU, Linear; with a key, dropout after each of the last two."""

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
