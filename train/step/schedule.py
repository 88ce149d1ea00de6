"""The learning-rate schedule (section 5.4); the bridge has its formula, for checkpoints too."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import bridge
from train.settings.config import Config, OptimizerConfig


class Origin(NamedTuple):
    """How the schedule of an imported run differs from one that began here.

    Attributes:
        ahead: steps that it counts more than the optimizer; below 0 where it counts fewer.
        form: the class that PyTorch has it in.
    """

    ahead: int = 0
    form: bridge.ScheduleForm = "SequentialLR"


def origin_of(checkpoint: bridge.LoadedCheckpoint) -> Origin:
    """The origin of a checkpoint's schedule, to resume with."""
    state = checkpoint.scheduler_state
    return Origin() if state is None else Origin(state.step - checkpoint.step, state.form)


def schedule(
    config: OptimizerConfig, steps: int, ahead: int = 0
) -> Callable[[jax.Array], jax.Array]:
    """Linear warm-up, then a cosine down to the lowest rate at `steps`.

    Returns:
        The learning rate of the optimizer step after `count` others.
    """

    def learning_rate(count: jax.Array) -> jax.Array:
        share = bridge.warmup_cosine(
            count + ahead,
            config.warmup_steps,
            steps,
            jnp,
            start_factor=config.warmup_start,
            floor=config.min_learning_rate / config.learning_rate,
        )
        return config.learning_rate * share

    return learning_rate


def schedule_state(config: Config, origin: Origin, step: int) -> bridge.SchedulerState:
    """The state of a run's schedule after `step` optimizer steps."""
    optimizer = config.optimizer
    return bridge.SchedulerState(
        base_lr=optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        total_steps=config.training.steps,
        step=step + origin.ahead,
        min_lr=optimizer.min_learning_rate,
        start_factor=optimizer.warmup_start,
        form=origin.form,
    )
