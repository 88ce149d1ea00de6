"""One loop for every model: all runs of it at once, each with its own batches, rates and keys."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from benchmarks.peers.corpora import Tokens
from benchmarks.peers.models import Build, abstract, parameter_shapes

_STEPS_A_CALL = 50

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is trained; the same for all.

    Attributes:
        learning_rates: the peaks to try, after a warm-up of a twentieth of the steps.
        seeds: of weights, dropout and data order.
        steps, batch, length: optimizer steps, sequences a step, tokens a sequence.
    """

    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1000
    batch: int = 32
    length: int = 256

    @property
    def runs(self) -> list[tuple[float, int]]:
        """The rate and the seed of each run."""
        return [(rate, seed) for rate in self.learning_rates for seed in self.seeds]

    def by_rate(self, losses: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The mean of the seeds' losses [rates], from those of all runs [runs]."""
        return losses.reshape(len(self.learning_rates), len(self.seeds)).mean(1)

    def best(self, losses: npt.NDArray[Any]) -> tuple[float, slice]:
        """The rate with the least loss of all runs [runs], and the places of its runs."""
        place = int(np.argmin(self.by_rate(losses)))
        count = len(self.seeds)
        return self.learning_rates[place], slice(place * count, (place + 1) * count)


def batch_order(
    steps: int, batch: int, rows: npt.ArrayLike, seed: int | Sequence[int]
) -> npt.NDArray[np.int32]:
    """The rows of every step [steps, B]: each once an epoch, in a new order."""
    rng, rows = np.random.default_rng(seed), np.asarray(rows, np.int32)
    epochs = -(-steps * batch // len(rows))
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])
    return order[: steps * batch].reshape(steps, batch)


def rates_of(steps: int, peak: float) -> npt.NDArray[np.float32]:
    """The learning rate of every step: a warm-up, and a cosine down to a tenth of the peak."""
    schedule = optax.warmup_cosine_decay_schedule(0, peak, max(1, steps // 20), steps, peak / 10)
    return np.asarray(jax.vmap(schedule)(jnp.arange(1, steps + 1)), np.float32)


def windows(tokens: Tokens, length: int) -> Tokens:
    """Contiguous windows [count, length + 1], each beginning with the last token of another."""
    count = (len(tokens) - 1) // length
    return tokens[np.arange(count)[:, None] * length + np.arange(length + 1)]


def parameter_count(build: Build) -> int:
    """Parameters without the embedding."""
    shapes = parameter_shapes(build)
    return sum(math.prod(shape) for path, shape in shapes.items() if "embedding" not in path)


def started(build: Build, seeds: Sequence[int]) -> nnx.State:
    """One state of a model for each seed, in arrays [seeds, ...]."""
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    return jax.jit(jax.vmap(lambda key: nnx.state(build(nnx.Rngs(key)))))(keys)


def arguments(build: Build, rows: Tokens, plan: Plan) -> tuple[Any, ...]:
    """What `train` needs for all rates and seeds of a plan, from random weights."""
    seeds = [seed for _, seed in plan.runs]
    orders = {
        seed: batch_order(plan.steps, plan.batch, np.arange(len(rows)), seed) for seed in plan.seeds
    }
    return (
        build,
        started(build, seeds),
        rows,
        np.stack([orders[seed] for seed in seeds], axis=1),
        np.stack([rates_of(plan.steps, rate) for rate, _ in plan.runs], axis=1),
        seeds,
    )


def everything(path: Path) -> bool:
    """Nothing is frozen."""
    return True


def train(
    build: Build,
    state: nnx.State,
    rows: Tokens,
    orders: npt.NDArray[np.int32],
    rates: npt.NDArray[np.float32],
    seeds: Sequence[int],
    trained: Callable[[Path], bool] = everything,
) -> tuple[nnx.State, npt.NDArray[np.float32]]:
    """Trains all runs of a model with AdamW.

    Args:
        build: the model.
        state: where each run starts, arrays [runs, ...].
        rows: the windows [count, length + 1].
        orders: the rows of each step [steps, runs, B].
        rates: learning rates [steps, runs]; 0 after a run's last step.
        seeds: of each run's dropout.
        trained: says by the path of a parameter whether it is trained.

    Returns:
        The states, and the losses in nats [steps, runs].
    """
    graphdef = nnx.graphdef(abstract(build))
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 1) for seed in seeds])
    moving, fixed = nnx.split_state(
        state, lambda path, leaf: isinstance(leaf, nnx.Param) and trained(path), ...
    )
    moving = jax.tree.map(jnp.copy, moving)  # the caller's are not given away
    moments, device_rows, losses = jax.vmap(_OPTIMIZER.init)(moving), jnp.asarray(rows), []
    for start in range(0, len(orders), _STEPS_A_CALL):
        part = slice(start, start + _STEPS_A_CALL)
        steps = jnp.arange(len(orders))[part]
        moving, moments, of_part = _advance(
            graphdef, moving, fixed, moments, device_rows, keys, steps, orders[part], rates[part]
        )
        losses.append(np.asarray(of_part))
    return nnx.merge_state(moving, fixed), np.concatenate(losses)


_OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_adam(b2=0.99),
    optax.add_decayed_weights(0.1),
)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 3))
def _advance(
    graphdef: Any,
    moving: Any,
    fixed: Any,
    moments: Any,
    rows: jax.Array,
    keys: jax.Array,
    steps: jax.Array,
    orders: jax.Array,
    rates: jax.Array,
) -> Any:
    def one(
        moving: Any,
        fixed: Any,
        moments: Any,
        key: jax.Array,
        chosen: jax.Array,
        rate: jax.Array,
        step: jax.Array,
    ) -> Any:
        of_step = rows[chosen]

        def loss_of(moving: Any) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, moving, fixed)
            logits, auxiliary = model(of_step[:, :-1], jax.random.fold_in(key, step))
            loss = _losses(logits, of_step[:, 1:]).mean()
            return loss + auxiliary, loss

        (_, loss), grads = jax.value_and_grad(loss_of, has_aux=True)(moving)
        updates, moments = _OPTIMIZER.update(grads, moments, moving)
        moving = jax.tree.map(lambda p, u: p - rate * u, moving, updates)
        return moving, moments, loss

    def body(carry: Any, of_step: Any) -> Any:
        step, chosen, rate = of_step
        moving, moments = carry
        moving, moments, loss = jax.vmap(one, in_axes=(0, 0, 0, 0, 0, 0, None))(
            moving, fixed, moments, keys, chosen, rate, step
        )
        return (moving, moments), loss

    (moving, moments), losses = jax.lax.scan(body, (moving, moments), (steps, orders, rates))
    return moving, moments, losses


def token_losses(
    build: Build, state: nnx.State, rows: Tokens, batch_tokens: int = 16_384
) -> npt.NDArray[np.float32]:
    """Losses in nats of windows [count, length + 1], for all runs [runs, count, length]."""
    graphdef = nnx.graphdef(abstract(build))
    batch = max(1, batch_tokens // (rows.shape[1] - 1))
    padded = np.resize(rows, (-(-len(rows) // batch) * batch, rows.shape[1]))
    parts = [
        np.asarray(_losses_of(graphdef, state, padded[start : start + batch]))
        for start in range(0, len(padded), batch)
    ]
    return np.concatenate(parts, axis=1)[:, : len(rows)]


@functools.partial(jax.jit, static_argnums=0)
def _losses_of(graphdef: Any, state: Any, rows: jax.Array) -> jax.Array:
    def one(state: Any) -> jax.Array:
        return _losses(nnx.merge(graphdef, state)(rows[:, :-1])[0], rows[:, 1:])

    return jax.vmap(one)(state)


def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
