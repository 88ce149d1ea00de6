"""How a run resumes: the checks before, its newest state, and its position in the data."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from bridge import steps
from train.checkpoints import run_states
from train.checkpoints.fit import IMPORT_AGAIN, check_model, check_training
from train.checkpoints.state import state_of
from train.data.prepared import PreparedData
from train.run.run_folder import CONFIG, contents, recorded_settings
from train.settings.compare import CHANGEABLE, changes, flat, with_defaults
from train.settings.config import Config
from train.stages.stage import Stage
from train.step.trainer import Trainer, TrainState
from train.system.errors import UserError
from train.system.interrupt import uninterrupted
from train.system.terminal import console

POSITION = "position"
"""The entry of a checkpoint's metadata that says where in the data it was."""

_SEPARATE = {"prepare", "expert", "fusion", "evaluate"}
"""Sections that not every stage reads; what matters of `prepare` shows in the data."""


class StartingPoint(NamedTuple):
    """What training starts or resumes from.

    Attributes:
        trainer: the run's compiled functions.
        state: the state before the next step.
        loss_sum: the sum of the losses of all steps made.
        metadata: what all of the run's checkpoints note, without the position.
    """

    trainer: Trainer
    state: TrainState
    loss_sum: float
    metadata: dict[str, Any]


def check_may_resume(config: Config, run: Path, sections: Collection[str]) -> None:
    """Makes sure that the run in a folder may resume with a config; changes nothing.

    Args:
        config: what it is to resume with.
        run: the folder.
        sections: those of the config that the run's stage reads and others do not.

    Raises:
        UserError: there is no run, or it was started with other settings.
    """
    names = contents(run)
    if not names:
        raise UserError(f"{run} holds no run: correct run_dir, or leave out --resume")
    if CONFIG not in names:  # an import
        return
    old = recorded_settings(run)
    new = flat(dataclasses.asdict(config))
    other_stages = _SEPARATE - set(sections)
    changed = [
        text
        for key, text in changes(with_defaults(old, new), new).items()
        if key not in CHANGEABLE and key.split(".")[0] not in other_stages
    ]
    if changed:
        raise UserError(
            f"{run} was started with other settings: {', '.join(changed)}; restore them to resume, "
            "or choose another run_dir"
        )


def restore_newest(
    config: Config, stage: Stage, data: PreparedData, run: Path
) -> StartingPoint | None:
    """The run's newest state, with the data moved to its position; None where none is saved.

    Raises:
        UserError: the state is damaged, does not fit the config, or is from other data.
    """
    saved_steps = steps(run)
    if not saved_steps:
        if list(run.glob("*.pt")):
            raise UserError(
                f"{run} has .pt files and no saved state to resume from: put its state folder "
                "back, or choose another run_dir"
            )
        console.print(f"{run} has no saved state yet: starting from step 0")
        return None
    step = saved_steps[-1]
    with uninterrupted():
        saved = run_states.restore(run, step)
    if not (run / CONFIG).exists():  # imported, and not trained here yet
        check_training(config, saved)
    check_model(config.model, saved.model, IMPORT_AGAIN)
    model = stage.resumed(saved)
    trainer = Trainer(config, model, stage.frozen)
    state = state_of(trainer, dataclasses.replace(saved, model=model))
    metadata = dict(saved.metadata)
    position = metadata.pop(POSITION, None)
    if isinstance(position, dict) and position.get("step") == step and step:
        loss_sum = _move_to(position, config, data, run)
    else:
        # Another program wrote it, or trained it further, or it begins at step 0 with the weights
        # of another run: count the first data of this order as seen.
        data.skip(step * config.training.accumulation)
        loss_sum = saved.avg_loss * step
    console.print(f"resuming from step {step}")
    return StartingPoint(trainer, state, loss_sum, metadata)


def data_position(step: int, data: PreparedData, loss_sum: float) -> dict[str, Any]:
    """What a checkpoint's metadata note under POSITION, plain data."""
    return {
        "step": step,
        "order": data.order,
        "batches": data.batches.get_state(),
        "loss_sum": loss_sum,
    }


def _move_to(position: dict[str, Any], config: Config, data: PreparedData, run: Path) -> float:
    """Moves the data to a position; returns its sum of losses."""
    try:
        order, batches = position["order"], position["batches"]
        if order == data.order:
            data.skip(batches["next_index"])
        loss_sum = float(position["loss_sum"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("the checkpoint's metadata.position is not what training writes") from error
    if order != data.order:
        raise UserError(
            f"{config.data_dir} is not what {run} was trained on: prepare the same data again to "
            "resume, or choose another run_dir"
        )
    return loss_sum
