"""How a run resumes: the checks before it, the newest state, and the position in the data."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

import bridge
from train.checkpoints import run_states
from train.checkpoints.fit import IMPORT_AGAIN, check_finite, check_model, check_training
from train.checkpoints.state import state_of
from train.data.prepared import PreparedData
from train.run.recorded import (
    RESTART,
    STEPS,
    Extension,
    extensions,
    recorded_settings,
)
from train.run.run_folder import contents
from train.settings.compare import CHANGEABLE, changes, flat, with_defaults
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.stages.stage import Stage
from train.step.schedule import Origin, origin_of, schedule
from train.step.trainer import Trainer, TrainState
from train.system.errors import UserError
from train.system.terminal import console

POSITION = "position"
"""The entry in a checkpoint's metadata with its position in the data."""

_SEPARATE = {"prepare", "expert", "fusion", "evaluate"}
"""Sections that not every stage reads; the data themselves show what matters of `prepare`."""

_MOVE_AWAY = "it is not of this run: move it away, and --resume takes the newest that is left"
_RATES = {"optimizer.learning_rate", "optimizer.min_learning_rate"}
_WARMUP = {"optimizer.warmup_steps", "optimizer.warmup_start"}


class Added(NamedTuple):
    """What `--extend` asks for: so many steps more, and what becomes of the schedule."""

    steps: int
    schedule: str


class Plan(NamedTuple):
    """With what a run begins or resumes.

    Attributes:
        config: the config given, with the run's own number of steps.
        extensions: how the run was extended, the newest last.
        added: the newest extension where it is made now, and else None.
    """

    config: Config
    extensions: Sequence[Extension] = ()
    added: Extension | None = None

    def is_older(self, ends_at: int | None) -> bool:
        """Whether a state whose schedule ends at this step is from before the newest extension."""
        return bool(self.extensions) and (
            ends_at is None or ends_at in {each.before for each in self.extensions}
        )

    def restarts(self, ends_at: int | None) -> bool:
        """Whether a new warm-up and cosine begin after a state whose schedule ends at this step."""
        return self.is_older(ends_at) and self.extensions[-1].schedule == RESTART


class StartingPoint(NamedTuple):
    """What training starts or resumes from.

    Attributes:
        trainer: the run's compiled functions.
        state: the state before the next step.
        loss_sum: the sum of the losses of all steps so far.
        metadata: the metadata of all of the run's checkpoints, without the position.
        skipped: the steps that were skipped so far, see `Session`.
        from_state: whether that was read from a state, and not from a .pt file.
    """

    trainer: Trainer
    state: TrainState
    loss_sum: float
    metadata: dict[str, Any]
    skipped: int = 0
    from_state: bool = False


def check_may_resume(
    config: Config, run: Path, sections: Collection[str], added: Added | None = None
) -> Plan:
    """Makes sure that the run in a folder may resume with a config; changes nothing.

    Args:
        config: the config to resume with. Of a run that was or is extended, it may still have an
            older number of steps.
        run: the folder.
        sections: the sections of the config that this stage reads and others do not.
        added: the steps that are added now.

    Raises:
        UserError: there is no run, or it was started with other settings.
    """
    names = contents(run)
    if not names:
        raise UserError(f"{run} holds no run: correct run_dir, or leave out --resume")
    new = flat(dataclasses.asdict(config))
    old = recorded_settings(run) if CONFIG in names else new  # of an import, the config's
    given = new[STEPS]
    steps = old.get(STEPS, given)
    found = extensions(run, steps)
    extension = None
    if added is not None:
        extension = Extension(steps, steps + added.steps, added.schedule)
        found.append(extension)
    changeable = set(CHANGEABLE)
    if found:
        steps = found[-1].after
        if given in (steps, *(each.before for each in found)):
            changeable.add(STEPS)
        if found[-1].schedule == RESTART:
            changeable |= _WARMUP
    other_stages = _SEPARATE - set(sections)
    changed = [
        text
        for key, text in changes(with_defaults(old, new), new).items()
        if key not in changeable and key.split(".")[0] not in other_stages
    ]
    if changed:
        more = given - (steps if extension is None else extension.before)
        longer = f"; --resume --extend {more} trains it for {more} steps more" if more > 0 else ""
        raise UserError(
            f"{run} was started with other settings: {', '.join(changed)}; restore them to resume, "
            f"or choose another run_dir{longer}"
        )
    try:
        training = dataclasses.replace(config.training, steps=steps)
    except ValueError as error:
        raise UserError(f"--extend: training.{error}") from error
    config = dataclasses.replace(config, training=training)
    if extension is None and found and found[-1].schedule == RESTART:
        # The run's own, as its number of steps is: the config may still have those before.
        warmup = {key.split(".")[1]: old[key] for key in _WARMUP & old.keys()}
        config = dataclasses.replace(
            config, optimizer=dataclasses.replace(config.optimizer, **warmup)
        )
    return Plan(config, found, extension)


def restore_newest(plan: Plan, stage: Stage, data: PreparedData, run: Path) -> StartingPoint | None:
    """The run's newest state, with the data at its position; None if none is saved.

    Raises:
        UserError: the state is damaged, does not fit the config, or is from other data.
    """
    config = plan.config
    found = run_states.restore_newest(run, stage.checkpoint_name)
    if found is None:
        console.print(f"{run} has no saved state yet: starting from step 0")
        return None
    path, saved = found
    step = saved.step
    model = stage.resumed(saved)  # first, as a model of another class differs in all else too
    ends_at = _ends_at(saved)
    if plan.added and _is_import(run) and ends_at not in (None, plan.added.before):
        raise UserError(
            f"--extend: the run of {path} has {ends_at} steps, and the config says "
            f"{plan.added.before}: set training.steps to {ends_at}"
        )
    check_fits(plan, run, path, saved)
    is_older, restarts = plan.is_older(ends_at), plan.restarts(ends_at)
    origin = Origin(-step) if restarts else origin_of(saved)
    if restarts:
        _check_warmup(config, step)
    trainer = Trainer(config, model, stage.frozen, origin)
    state = state_of(trainer, dataclasses.replace(saved, model=model))
    metadata = dict(saved.metadata)
    position = _position(metadata.pop(POSITION, None), step)
    skipped = 0
    if position is not None:
        loss_sum, skipped = _move_to(position, config, data, path), position.skipped
    else:
        # Another program wrote it, or trained it further, or it starts at step 0 with the weights
        # of another run: skip the data of the steps so far.
        data.skip(step * config.training.accumulation)
        loss_sum = saved.avg_loss * step
    console.print(f"resuming from step {step}{'' if path.is_dir() else f', {path}'}")
    notes = [
        bridge.disagreement(saved) if _is_import(run) and not restarts else None,
        _new_schedule(config, origin, step, restarts=restarts) if is_older else None,
        None if is_older else _other_rate(config, saved),
    ]
    for note in filter(None, notes):
        console.print(note)
    return StartingPoint(trainer, state, loss_sum, metadata, skipped, path.is_dir())


def check_fits(plan: Plan, run: Path, path: Path, saved: bridge.LoadedCheckpoint) -> None:
    """Makes sure that a run may go on from what was read from a path in its folder.

    Raises:
        UserError: it was trained with other settings, or is not finite.
    """
    is_import, ends_at = _is_import(run), _ends_at(saved)
    free = set() if is_import else set(_RATES)
    free |= {STEPS} if plan.is_older(ends_at) else set()
    free |= _WARMUP if plan.restarts(ends_at) else set()
    advice = IMPORT_AGAIN if is_import else _MOVE_AWAY
    try:
        check_training(plan.config, saved, free, advice)
        check_model(plan.config.model, saved.model, advice)
        check_finite(saved)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _is_import(run: Path) -> bool:
    return not (run / CONFIG).exists()


def _ends_at(saved: bridge.LoadedCheckpoint) -> int | None:
    planned = saved.scheduler_state
    return None if planned is None else planned.ends_at(saved.step)


def data_position(step: int, data: PreparedData, loss_sum: float, skipped: int) -> dict[str, Any]:
    """The value for POSITION in a checkpoint's metadata, as plain data."""
    return {
        "step": step,
        "order": data.order,
        "batches": data.batches.get_state(),
        "loss_sum": loss_sum,
        "skipped": skipped,
    }


def _check_warmup(config: Config, step: int) -> None:
    warmup, left = config.optimizer.warmup_steps, config.training.steps - step
    if warmup >= left:
        raise UserError(
            f"--schedule restart: {left} steps are left from step {step} on, too few for a new "
            f"warm-up of {warmup}: lower optimizer.warmup_steps, or add more steps"
        )


def _next_rate(config: Config, origin: Origin, step: int) -> float:
    rate = schedule(config.optimizer, config.training.steps, origin.ahead)
    return float(rate(jnp.asarray(step)))


def _new_schedule(config: Config, origin: Origin, step: int, *, restarts: bool) -> str:
    """What to say of the schedule when a run that was extended resumes from before that."""
    begins = f"a new warm-up and cosine begin at step {step}" if restarts else "its cosine goes on"
    rate = _next_rate(config, origin, step)
    return (
        f"schedule: {begins}, and {'end' if restarts else 'ends'} at step {config.training.steps}; "
        f"the learning rate of the next step is {rate:.3g}"
    )


def _other_rate(config: Config, saved: bridge.LoadedCheckpoint) -> str | None:
    """What to say of a learning rate that was set by hand, as there is no schedule to state it."""
    if saved.optimizer_state is None or saved.scheduler_state is not None:
        return None
    rate = saved.optimizer_state.hyperparameters["lr"]
    next_rate = _next_rate(config, Origin(), saved.step)
    if math.isclose(rate, next_rate, rel_tol=1e-6):
        return None
    return (
        f"the checkpoint has the learning rate {rate:g} and no schedule: training continues with "
        f"that of the config, {next_rate:g} at this step (optimizer.learning_rate "
        f"{config.optimizer.learning_rate:g})"
    )


class _Position(NamedTuple):
    """Where in which order of the data a checkpoint was, and what had happened until there."""

    order: str
    next_index: int
    loss_sum: float
    skipped: int


def _position(noted: Any, step: int) -> _Position | None:
    """What a checkpoint notes under POSITION; None where it is not of this step of training."""
    try:
        if not step or noted["step"] != step:
            return None
        position = _Position(
            str(noted["order"]),
            int(noted["batches"]["next_index"]),
            float(noted["loss_sum"]),
            int(noted.get("skipped", 0)),  # older runs have none
        )
    except (KeyError, TypeError, ValueError):
        return None
    return position if position.next_index >= 0 else None


def _move_to(position: _Position, config: Config, data: PreparedData, path: Path) -> float:
    """Moves the data to a position, of the checkpoint in `path`; returns its sum of losses."""
    if position.order != data.order:
        raise UserError(
            f"{config.data_dir} is not what {path} was trained on, or not with this seed: prepare "
            "the same data again to resume, move a checkpoint of another run away, or choose "
            "another run_dir"
        )
    data.skip(position.next_index)
    return position.loss_sum
