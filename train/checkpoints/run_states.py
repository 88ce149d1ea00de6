"""Writes and reads the states in a run's folder, and removes the oldest.

state/N/       what --resume continues from (bridge/orbax_folder.py)
NAME_step_N.pt the same for PyTorch
"""

import shutil
from pathlib import Path

import bridge
from train.system.errors import UserError


def save(run: Path, checkpoint: bridge.LoadedCheckpoint, keep: int) -> None:
    """Writes a state if it is not there yet, then removes all but the newest `keep`.

    Raises:
        UserError: the state cannot be written.
    """
    step = checkpoint.step
    if step in bridge.steps(run):
        return  # while it is replaced, there would be none for a moment
    folder = bridge.state_folder(run, step)
    try:
        if folder.is_dir():
            shutil.rmtree(folder)  # incomplete, because `steps` does not list it
        for leftover in folder.parent.glob("*.partial"):
            shutil.rmtree(leftover)
        bridge.save_orbax(folder, checkpoint.model, **checkpoint.training_state())
        for old in bridge.steps(run)[:-keep]:
            shutil.rmtree(bridge.state_folder(run, old))
    except (bridge.BridgeError, OSError) as error:
        raise UserError(f"cannot write the state after step {step} to {run}: {error}") from error


def restore(run: Path, step: int) -> bridge.LoadedCheckpoint:
    """Reads a run's state after `step` steps, one of `bridge.steps(run)`.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = bridge.state_folder(run, step)
    try:
        return bridge.load_orbax(folder)
    except bridge.BridgeError as error:
        older = any(other < step for other in bridge.steps(run))
        hint = f": remove {folder} to resume from an older state" if older else ""
        raise UserError(f"{error}{hint}") from error


def export_torch(path: Path, checkpoint: bridge.LoadedCheckpoint) -> None:
    """Writes a .pt file; if that fails, the path still has its old content.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        bridge.save_torch(path, checkpoint.model, **checkpoint.training_state())
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error
