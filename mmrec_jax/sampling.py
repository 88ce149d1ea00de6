"""Drawing the next token from its scores."""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which tokens may be drawn, and how likely each is.

    Attributes:
        temperature: divides the scores; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; None allows all.
        top_p: only the likeliest tokens that together have at least this probability, applied
            after temperature and top_k; None allows all.

    Raises:
        ValueError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")


def draw(logits: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """One token for each row of scores [B, V] -> [B].

    Args:
        logits: [B, V].
        key: random keys, one per row [B], or one that every row draws with. A row's token depends
            on its own scores and key alone.
        sampling: which tokens may be drawn.
    """
    if sampling.temperature == 0:
        return _first(logits == logits.max(axis=-1, keepdims=True))
    times = _waiting_times(jnp.atleast_1d(key), logits.shape[-1])
    tokens = None
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        logits, tokens = jax.lax.top_k(logits, sampling.top_k)
        # A token keeps its own time, wherever it stands among the likeliest.
        times = jnp.broadcast_to(times, (len(tokens), times.shape[-1]))
        times = jnp.take_along_axis(times, tokens, axis=-1)
    largest = logits.max(axis=-1, keepdims=True)
    temperature = max(sampling.temperature, 1.2e-38)  # the smallest that float32 has
    weights = jnp.exp((logits - largest) / temperature)
    if sampling.top_p is not None and sampling.top_p < 1:
        weights = _nucleus(weights, sampling.top_p)
    # The token whose time over its weight is the least: each wins with its share of the weights.
    # Scores that differ in their last digits, as those of a batch and of a row alone do, give the
    # same token but where two are that close; a place in the sum of all weights would move with all
    # of them.
    race = jnp.where(weights > 0, times / weights, jnp.inf)
    index = _first((weights > 0) & (race == race.min(axis=-1, keepdims=True)))
    return index if tokens is None else jnp.take_along_axis(tokens, index[:, None], axis=-1)[:, 0]


def _waiting_times(keys: jax.Array, size: int) -> jax.Array:
    """Random times [keys, size], exponentially distributed, fine near 0 and never 0."""
    bits = jax.vmap(lambda key: jax.random.bits(key, (size,)))(keys)
    shares = ((bits >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-31
    return -jnp.log1p(-jnp.minimum(shares, 1 - 2.0**-24))


def _first(true: jax.Array) -> jax.Array:
    """The first index [B] where `true` [B, N] holds; XLA's argmax takes five times as long."""
    size = true.shape[-1]
    return jnp.min(jnp.where(true, jnp.arange(size), size), axis=-1)


def _nucleus(weights: jax.Array, share: float) -> jax.Array:
    """Weights [B, N] in [0, 1], set to 0 outside the smallest set that has this share of the sum.

    Bisection finds the least weight in the set exactly; sorting takes thirty times as long. All
    weights that equal it are kept.
    """
    # Floats that are not negative have the same order as their bits.
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)
    needed = share * weights.sum(axis=-1)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) // 2
        enough = jnp.where(bits >= middle[:, None], weights, 0).sum(axis=-1) >= needed
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    rows = weights.shape[:1]
    one = 0x3F800000  # the bits of 1.0, the largest weight
    least, _ = jax.lax.fori_loop(
        0, 31, halve, (jnp.zeros(rows, jnp.int32), jnp.full(rows, one + 1))
    )
    return jnp.where(bits >= least[:, None], weights, 0)
