"""The one training loop: steps, hooks, and a clean end when it is interrupted."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence

from train.data.batches import Batch
from train.step.trainer import Trainer, TrainState, Values
from train.system import processes
from train.system.errors import ResumableError
from train.system.interrupt import StopSignal
from train.system.terminal import TrainingProgress, console
from train.system.watchdog import Watchdog

Hook = Callable[[TrainState, Values], None]


def train(
    trainer: Trainer,
    state: TrainState,
    batches: Iterator[Batch],
    hooks: Sequence[tuple[int, Hook]],
    save: Hook,
    skipped: Callable[[TrainState, Values, Sequence[float]], None],
    progress: TrainingProgress,
    watchdog: Watchdog,
    saved: Callable[[], None],
) -> None:
    """Makes all remaining steps.

    A step whose loss or gradient is not finite is skipped: the state stays as it was, and the step
    is made with the batches that follow.

    Args:
        trainer: the run's compiled functions.
        state: where to continue from.
        batches: the micro-batches of all steps, one after the other.
        hooks: pairs (every, hook). A hook is called after every `every` steps and after the last
            one, with the state and the values of the step: loss, auxiliary_loss, max_state,
            mean_decay, grad_norm, learning_rate, parameter_norm.
        save: the hook that is also called before an interrupted run ends; it may leave the writing
            to a thread.
        skipped: called instead of the hooks after a step that is skipped, with the losses of its
            micro-batches too; may raise UserError.
        progress, watchdog: get a call after every micro-batch.
        saved: waits until what `save` has begun is written; called before this function ends, where
            a second signal still ends the command at once.

    Raises:
        UserError: the parameters are not finite, and no hook gets that state; or a state cannot be
            saved.
        KeyboardInterrupt: the run was interrupted; its state is saved. SIGUSR1 only saves.
    """
    training = trainer.config.training
    with StopSignal() as stop, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(saved)
        first = step = int(state.step)
        ending = False
        while step < training.steps:
            losses: list[float] = []
            advance = functools.partial(progress.advance, step)
            note = functools.partial(_note, losses, watchdog, advance)
            state, values = trainer.step(state, batches, note)
            last = False
            if values.pop("skipped"):
                skipped(state, values, losses)
            else:
                step += 1
                _check_finite(step, values)
                last = step == training.steps
                for every, hook in hooks:
                    if last or step % every == 0:
                        hook(state, values)
                if step == first + 1:  # compiling and opening files do not count for the rate
                    progress.paused()
            asked = processes.gathered([stop.requested, stop.saving])  # by a signal to any of them
            ending, saving = asked.any(0)
            if (ending or saving) and step > first and not last:  # its hook saves it
                save(state, values)
            if saving and step > first:
                saved()
                stop.saving = False
                console.print(f"step {step} is saved, as SIGUSR1 asked")
            if ending:
                break
    # While the last step was saved; with several processes, all would have to agree.
    ending = bool(ending or (stop.requested and processes.count() == 1))
    if ending:
        processes.part()
        what = "which is saved" if step else "with nothing to save"
        raise KeyboardInterrupt(f"at step {step}, {what}: continue with --resume")


def _note(
    losses: list[float],
    watchdog: Watchdog,
    advance: Callable[[float, float], None],
    share: float,
    loss: float,
) -> None:
    watchdog.done_some()
    losses.append(loss)
    advance(share, loss)


def _check_finite(step: int, values: Values) -> None:
    if not math.isfinite(values["parameter_norm"]):
        raise ResumableError(
            f"training diverged at step {step}: loss {values['loss']}, gradient norm "
            f"{values['grad_norm']}, parameters' norm {values['parameter_norm']}, largest |h| "
            f"{values['max_state']:.3g}, mean decay {values['mean_decay']:.3f}; nothing of it is "
            "saved",
            " and a lower optimizer.learning_rate, or start again with shorter sequences",
        )
