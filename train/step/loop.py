"""The one training loop: steps, hooks, and a clean end when it is interrupted."""

import math
from collections.abc import Callable, Iterator, Sequence

from train.data.batches import Batch, targets
from train.step.trainer import Trainer, TrainState
from train.system.errors import UserError
from train.system.interrupt import StopSignal
from train.system.terminal import TrainingProgress

Values = dict[str, float]
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
        state: where to go on from.
        batches: micro-batches [B, T + 1]; each counts in its step by the tokens that it predicts.
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
            state, values = _step(trainer, state, batches, step, progress)
            last = step + 1 == training.steps
            for every, hook in hooks:
                if last or (step + 1) % every == 0:
                    hook(state, values)
            if step == first:  # what was compiled and opened on the way is no part of the rate
                progress.paused()
            if stop.requested:
                if not last:  # the last step is saved by its hook
                    save(state, values)
                raise KeyboardInterrupt(f"at step {step + 1}, which is saved: go on with --resume")


def _step(
    trainer: Trainer,
    state: TrainState,
    batches: Iterator[Batch],
    step: int,
    progress: TrainingProgress,
) -> tuple[TrainState, Values]:
    training = trainer.config.training
    count = training.accumulation
    micro_batches = [next(batches) for _ in range(count)]
    weights = [1] * count
    shares: list[float | None] = [None] * count
    if training.packing == "documents":
        weights = [targets(batch) for batch in micro_batches]
        shares = [weight / sum(weights) for weight in weights]
    total = None
    parts: list[Values] = []
    for index, (batch, share) in enumerate(zip(micro_batches, shares, strict=True)):
        grads, metrics = trainer.gradient(state, batch, index, share=share)
        total = grads if total is None else trainer.add(total, grads)
        parts.append({name: float(value) for name, value in metrics.items()})
        progress.advance(step + (index + 1) / count, parts[-1]["loss"])
    state, metrics = trainer.update(state, total)
    values = {
        name: sum(part[name] * weight for part, weight in zip(parts, weights, strict=True))
        / sum(weights)
        for name in parts[0]
    }
    values["max_state"] = max(part["max_state"] for part in parts)
    values |= {name: float(value) for name, value in metrics.items()}
    watched = ("loss", "grad_norm", "parameter_norm")
    if not all(math.isfinite(values[name]) for name in watched):
        raise UserError(
            f"training diverged at step {step + 1}: loss {values['loss']}, gradient norm "
            f"{values['grad_norm']}, parameters' norm {values['parameter_norm']}, largest |h| "
            f"{values['max_state']:.3g}, mean decay {values['mean_decay']:.3f}; nothing of it is "
            "saved: go on from the last checkpoint with --resume and a lower "
            "optimizer.learning_rate, or start anew with shorter sequences"
        )
    return state, values
