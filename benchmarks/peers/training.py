"""One loop for every model: all learning rates and seeds at once, on the same batches."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from benchmarks.peers.corpora import Corpus, Tokens
from benchmarks.peers.models import Build

_STEPS_A_CALL = 50


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
    weight_decay: float = 0.1
    beta2: float = 0.99

    @property
    def runs(self) -> list[tuple[float, int]]:
        """The rate and the seed of each run."""
        return [(rate, seed) for rate in self.learning_rates for seed in self.seeds]


def batch_order(plan: Plan, windows: int, seed: int) -> npt.NDArray[np.int32]:
    """The windows of every step [steps, B]: each once an epoch, in a new order."""
    rng = np.random.default_rng(seed)
    epochs = -(-plan.steps * plan.batch // windows)
    order = np.concatenate([rng.permutation(windows) for _ in range(epochs)])
    return order[: plan.steps * plan.batch].reshape(plan.steps, plan.batch).astype(np.int32)


def windows(tokens: Tokens, length: int) -> Tokens:
    """Contiguous windows [count, length + 1], each beginning with the last token of another."""
    count = (len(tokens) - 1) // length
    return tokens[np.arange(count)[:, None] * length + np.arange(length + 1)]


def parameter_count(build: Build) -> int:
    """Parameters without the embedding."""
    state = nnx.state(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)
    return sum(
        math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if "embedding" not in jax.tree_util.keystr(path)
    )


class Run:
    """All runs of a model, each with its learning rate and seed."""

    def __init__(self, build: Build, corpus: Corpus, plan: Plan) -> None:
        self.plan = plan
        self.rows = jnp.asarray(windows(corpus.tokens["train"], plan.length))
        orders = {seed: batch_order(plan, len(self.rows), seed) for seed in plan.seeds}
        self.order = jnp.asarray(np.stack([orders[seed] for _, seed in plan.runs], axis=1))
        self.graphdef = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[0]
        keys = jnp.stack([jax.random.key(seed) for _, seed in plan.runs])
        self.keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        self.state = jax.jit(jax.vmap(lambda key: nnx.state(build(nnx.Rngs(key)))))(keys)
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(b2=plan.beta2),
            optax.add_decayed_weights(plan.weight_decay),
        )
        self.moments = jax.vmap(self.optimizer.init)(self.state)
        self.rates = jnp.asarray([rate for rate, _ in plan.runs])
        self._advance = jax.jit(self._steps, donate_argnums=(0, 1))

    def train(self) -> npt.NDArray[np.float32]:
        """Does all steps; returns each run's training losses [steps, runs]."""
        losses = []
        for start in range(0, self.plan.steps, _STEPS_A_CALL):
            steps = jnp.arange(start, min(start + _STEPS_A_CALL, self.plan.steps))
            self.state, self.moments, part = self._advance(
                self.state, self.moments, steps, self.order[steps]
            )
            losses.append(np.asarray(part))
        return np.concatenate(losses)

    def _steps(self, state: Any, moments: Any, steps: jax.Array, order: jax.Array) -> Any:
        warmup = max(1, self.plan.steps // 20)
        schedule = optax.warmup_cosine_decay_schedule(0, 1, warmup, self.plan.steps, 0.1)

        def one(
            state: Any,
            moments: Any,
            rate: jax.Array,
            key: jax.Array,
            chosen: jax.Array,
            step: jax.Array,
        ) -> Any:
            rows = self.rows[chosen]

            def loss_of(state: Any) -> tuple[jax.Array, jax.Array]:
                model = nnx.merge(self.graphdef, state)
                logits, auxiliary = model(rows[:, :-1], jax.random.fold_in(key, step))
                loss = _losses(logits, rows[:, 1:]).mean()
                return loss + auxiliary, loss

            (_, loss), grads = jax.value_and_grad(loss_of, has_aux=True)(state)
            updates, moments = self.optimizer.update(grads, moments, state)
            scale = -rate * schedule(step + 1)
            state = jax.tree.map(lambda p, u: p + scale * u, state, updates)
            return state, moments, loss

        def body(carry: Any, step_and_order: Any) -> Any:
            step, chosen = step_and_order
            state, moments, loss = jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None))(
                *carry, self.rates, self.keys, chosen, step
            )
            return (state, moments), loss

        (state, moments), losses = jax.lax.scan(body, (state, moments), (steps, order))
        return state, moments, losses

    def token_losses(
        self, tokens: Tokens, length: int, runs: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Losses in nats of all windows of a split, for some runs [runs, windows, length]."""
        rows = windows(tokens, length)
        batch = max(1, self.plan.batch * self.plan.length // length)
        padded = np.resize(rows, (-(-len(rows) // batch) * batch, length + 1))
        state = jax.tree.map(lambda leaf: leaf[jnp.asarray(list(runs))], self.state)

        @jax.jit
        def of_batch(state: Any, rows: jax.Array) -> jax.Array:
            def one(state: Any) -> jax.Array:
                return _losses(nnx.merge(self.graphdef, state)(rows[:, :-1])[0], rows[:, 1:])

            return jax.vmap(one)(state)

        parts = [
            np.asarray(of_batch(state, padded[start : start + batch]))
            for start in range(0, len(padded), batch)
        ]
        return np.concatenate(parts, axis=1)[:, : len(rows)]


def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
