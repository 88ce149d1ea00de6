"""The learning-rate schedule (section 5.4); the bridge has its formula, for checkpoints too."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import bridge
from train.settings.config import Config, OptimizerConfig


class Origin(NamedTuple):
    """How a schedule differs from one that began with the run's first step.

    Attributes:
        ahead: steps that it counts more than the optimizer, as an imported one may; below 0 where
            it counts fewer, as one does that was started again.
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
    """Linear warm-up, then a cosine down to the lowest rate after `steps` of the optimizer.

    Args:
        config: the rates and the warm-up.
        steps: the optimizer's steps in all.
        ahead: see `Origin`.

    Returns:
        The learning rate of the optimizer step after `count` others.
    """

    def learning_rate(count: jax.Array) -> jax.Array:
        share = bridge.warmup_cosine(
            count + ahead,
            config.warmup_steps,
            steps + ahead,
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
        total_steps=config.training.steps + origin.ahead,
        step=step + origin.ahead,
        min_lr=optimizer.min_learning_rate,
        start_factor=optimizer.warmup_start,
        form=origin.form,
    )
