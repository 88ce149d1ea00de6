"""The learning-rate schedule (section 5.4); the bridge has its formula, for checkpoints too."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import bridge
from train.settings.config import OptimizerConfig


def schedule(config: OptimizerConfig, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Linear warm-up from a tenth of the learning rate, then a cosine down to 0 at `steps`.

    Returns:
        The learning rate of the optimizer step that is made after `count` others.
    """

    def learning_rate(count: jax.Array) -> jax.Array:
        share = bridge.warmup_cosine(count, config.warmup_steps, steps, jnp)
        return config.learning_rate * share

    return learning_rate
