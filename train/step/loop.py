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
    """Makes all remaining steps.

    Args:
        trainer: the run's compiled functions.
        state: where to continue from.
        batches: the micro-batches of all steps, one after the other.
        hooks: pairs (every, hook). A hook is called after every `every` steps and after the last
            one, with the state and the values of the step: loss, auxiliary_loss, max_state,
            mean_decay, grad_norm, learning_rate, parameter_norm.
        save: the hook that is also called before an interrupted run ends.
        progress: gets a call after every micro-batch.

    Raises:
        UserError: a loss or gradient is not finite; no hook gets that state.
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
            if step == first:  # compiling and opening files do not count for the rate
                progress.paused()
            if stop.requested:
                if not last:  # its hook saves the last step
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
