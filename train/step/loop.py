"""The one training loop: steps, hooks, and a clean end when it is interrupted."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

from train.data.batches import Batch
from train.step.trainer import Trainer, TrainState, Values
from train.system.errors import UserError
from train.system.interrupt import StopSignal
from train.system.terminal import TrainingProgress

Hook = Callable[[TrainState, Values], None]


def train(
    trainer: Trainer,
    state: TrainState,
    batches: Iterator[Batch],
    hooks: Sequence[tuple[int, Hook]],
    save: Hook,
    progress: TrainingProgress,
) -> None:
    """Makes the steps that are left.

    Args:
        trainer: the run's compiled functions.
        state: where to continue from.
        batches: the micro-batches of all steps, one after the other.
        hooks: (every, hook): called after each `every` steps and after the last one with the
            state and the step's values: loss, auxiliary_loss, max_state, mean_decay, grad_norm,
            learning_rate, parameter_norm.
        save: the hook that is also called before an interrupted run ends.
        progress: is told of every micro-batch.

    Raises:
        UserError: a loss or gradient is not finite; that state reaches no hook.
        KeyboardInterrupt: the run was interrupted; its state is saved.
    """
    training = trainer.config.training
    with StopSignal() as stop:
        first = int(state.step)
        for step in range(first, training.steps):
            state, values = trainer.step(state, batches, functools.partial(progress.advance, step))
            _check_finite(step + 1, values)
            last = step + 1 == training.steps
            for every, hook in hooks:
                if last or (step + 1) % every == 0:
                    hook(state, values)
            if step == first:  # what was compiled and opened on the way is no part of the rate
                progress.paused()
            if stop.requested:
                if not last:  # the last step is saved by its hook
                    save(state, values)
                raise KeyboardInterrupt(
                    f"at step {step + 1}, which is saved: continue with --resume"
                )


def _check_finite(step: int, values: Values) -> None:
    watched = ("loss", "grad_norm", "parameter_norm")
    if not all(math.isfinite(values[name]) for name in watched):
        raise UserError(
            f"training diverged at step {step}: loss {values['loss']}, gradient norm "
            f"{values['grad_norm']}, parameters' norm {values['parameter_norm']}, largest |h| "
            f"{values['max_state']:.3g}, mean decay {values['mean_decay']:.3f}; nothing of it is "
            "saved: continue from the last checkpoint with --resume and a lower "
            "optimizer.learning_rate, or start again with shorter sequences"
        )
