"""Gradient clipping and AdamW as the original's optimizer computes them (sections 5.2 and 5.3).

optax has both, but it rounds differently. Over thousands of steps its AdamW drifts ten times as far
from torch's as one with torch's order of operations.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from train.settings.config import OptimizerConfig


class AdamWState(NamedTuple):
    """AdamW's state; the names are torch's.

    Attributes:
        step: the number of optimizer steps so far, a scalar.
        exp_avg, exp_avg_sq: the moments, with the parameters' structure and shapes.
    """

    step: jax.Array
    exp_avg: optax.Params
    exp_avg_sq: optax.Params


def clip_by_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Scales gradients by `min(1, max_norm / (norm + 1e-6))`, with the norm given (section 5.2)."""

    def update(
        grads: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        norm: jax.Array,
        **_: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        scale = jnp.minimum(1.0, max_norm / (norm + 1e-6))
        return jax.tree.map(lambda grad: grad * scale, grads), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def adamw(
    learning_rate: Callable[[jax.Array], jax.Array],
    config: OptimizerConfig,
    rates: optax.Params,
) -> optax.GradientTransformation:
    """torch.optim.AdamW, operation for operation (section 5.3).

    Args:
        learning_rate: the rate as a function of the steps so far.
        config: the weight decay and Adam's constants.
        rates: for each parameter, its share of the learning rate (section 5.6).
    """
    beta1, beta2 = config.beta1, config.beta2

    def init(params: optax.Params) -> AdamWState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamWState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def correction(beta: float, step: jax.Array) -> jax.Array:
        # 1 - beta^step, but in that form float32 would lose four digits in the first steps.
        return -jnp.expm1(step * math.log(beta)) if beta else jnp.ones(())

    def update(
        grads: optax.Updates, state: AdamWState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamWState]:
        step = state.step + 1
        rate = learning_rate(state.step)
        bias = correction(beta1, step)
        root = jnp.sqrt(correction(beta2, step))

        def first(average: jax.Array, grad: jax.Array) -> jax.Array:
            return average + (1 - beta1) * (grad - average)

        def second(average: jax.Array, grad: jax.Array) -> jax.Array:
            return average * beta2 + (1 - beta2) * grad * grad

        def change(
            param: jax.Array, average: jax.Array, square: jax.Array, share: Any
        ) -> jax.Array:
            own = rate * share
            decayed = param * (1 - own * config.weight_decay)
            # optax adds updates to the parameter; the sum is `new`, except perhaps its last bit.
            new = decayed - own / bias * (average / (jnp.sqrt(square) / root + config.eps))
            return new - param

        exp_avg = jax.tree.map(first, state.exp_avg, grads)
        exp_avg_sq = jax.tree.map(second, state.exp_avg_sq, grads)
        updates = jax.tree.map(change, params, exp_avg, exp_avg_sq, rates)
        return updates, AdamWState(step, exp_avg, exp_avg_sq)

    return optax.GradientTransformation(init, update)


def build_optimizer(
    config: OptimizerConfig,
    learning_rate: Callable[[jax.Array], jax.Array],
    rates: optax.Params,
) -> optax.GradientTransformationExtraArgs:
    """The whole update of one optimizer step, which is given the gradient's norm as `norm`.

    The arguments are those of `adamw`.
    """
    return optax.chain(clip_by_norm(config.max_grad_norm), adamw(learning_rate, config, rates))
