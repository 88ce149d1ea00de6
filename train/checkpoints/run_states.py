"""Writes and reads the states in a run's folder, and removes the oldest.

state/N/       what --resume continues from (bridge/orbax_folder.py)
NAME_step_N.pt the same for PyTorch, written after it
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

import bridge
from train.checkpoints.fit import arrays_of
from train.system.errors import ResumableError, UserError
from train.system.interrupt import uninterrupted
from train.system.terminal import console
from train.system.write import refuse_link

_STATE_FILES = {bridge.MANIFEST, "checkpoint.json"}
"""The files of a state beside the folder of its arrays."""


def save(run: Path, checkpoint: bridge.LoadedCheckpoint, keep: int) -> None:
    """Writes a state if it is not there yet and whole, and keeps `keep` with the newest before it.

    Raises:
        UserError: the state cannot be written.
    """
    step = checkpoint.step
    folder = bridge.state_folder(run, step)
    if is_whole(folder, step):
        return  # while it is replaced, there would be none for a moment
    try:
        if folder.is_dir():
            _remove(folder)
        bridge.save_orbax(folder, checkpoint.model, **checkpoint.training_state())
        for old in _too_old(bridge.steps(run), step, keep):
            try:
                _remove(bridge.state_folder(run, old))
            except UserError as error:  # no reason to end a run
                console.print(str(error))
    except bridge.BridgeError as error:
        raise ResumableError(f"the state after step {step}: {error}") from error


def check_space(run: Path, checkpoint: bridge.LoadedCheckpoint) -> None:
    """Makes sure that there is room for a state and its .pt file.

    Raises:
        UserError: there is not.
    """
    trees = arrays_of(checkpoint).values()
    needed = 2 * sum(array.nbytes for tree in trees for array in tree.values())
    free = shutil.disk_usage(run).free
    if free < needed:
        raise ResumableError(
            f"step {checkpoint.step} cannot be saved to {run}: it needs {needed / 1e6:,.1f} MB and "
            f"{free / 1e6:,.1f} MB are free: make room"
        )


def is_whole(folder: Path, step: int) -> bool:
    """Whether there is an undamaged state after `step` steps in a folder; loads no array."""
    try:
        content = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        return bridge.is_intact(folder) and content["step"] == step
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def content_digest(folder: Path) -> str:
    """The SHA-256 of the weights and moments in a state, whatever its files are called.

    Raises:
        UserError: it is damaged.
    """
    try:
        trees = arrays_of(bridge.load_orbax(folder))
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error
    digest = hashlib.sha256()
    for name, tree in sorted(trees.items()):
        for path, array in sorted(tree.items()):
            digest.update(f"{name} {path} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def restore_newest(run: Path, name: str) -> tuple[Path, bridge.LoadedCheckpoint] | None:
    """Reads the newest state or .pt file that is whole, and says what it passes over.

    Args:
        run: the run's folder.
        name: its .pt files are called NAME_step_N.pt.

    Returns:
        Its path and content; None if the run has saved nothing.

    Raises:
        UserError: all that is there is damaged.
    """
    damaged = []
    for step, path in _saved(run, name):
        try:
            loaded = _read(path)
        except bridge.BridgeError as error:
            damaged.append(str(error))
        else:
            if loaded.step == step:
                return path, loaded
            damaged.append(f"{path}: damaged: it is the state after step {loaded.step}")
        console.print(f"passed over, and looking for an older one: {damaged[-1]}")
    if damaged:
        raise UserError(f"{damaged[0]}; {run} has nothing whole to resume from: restore a copy")
    return None


def _saved(run: Path, name: str) -> list[tuple[int, Path]]:
    """What a run has saved, by step, the newest first; of one step the state comes first.

    An incomplete state is in it too: it is said, and not passed over in silence.
    """
    states = [(int(p.name), 1, p) for p in (run / "state").glob("*") if p.name.isdecimal()]
    files = [(step, 0, path) for step, path in _exports(run, name).items()]
    return [(step, path) for step, _, path in sorted([*states, *files], reverse=True)]


def _exports(run: Path, name: str) -> dict[int, Path]:
    """A run's .pt files by step."""
    of_file = re.compile(rf"{re.escape(name)}_step_(\d+)\.pt")
    found = ((of_file.fullmatch(path.name), path) for path in run.glob("*.pt"))
    return {int(match[1]): path for match, path in found if match}


def _read(path: Path) -> bridge.LoadedCheckpoint:
    with uninterrupted(), warnings.catch_warnings():
        warnings.simplefilter("ignore", bridge.NonFiniteWarning)  # which training refuses
        return bridge.load_orbax(path) if path.is_dir() else bridge.load_torch(path)


def remove_unfinished(folder: Path) -> None:
    """Removes the files that a killed start was writing into a folder; raises OSError."""
    for path in folder.iterdir():
        if bridge.is_unfinished(path.name):
            path.unlink()


def remove_leftovers(run: Path) -> None:
    """Removes what killed starts left unfinished in a run's folder.

    Raises:
        UserError: there is something else in it.
        OSError: it cannot be removed.
    """
    remove_unfinished(run)
    for path in (run / "state").glob("*.partial"):
        if path.stem.isdecimal():
            _remove(path)


def _remove(folder: Path) -> None:
    """Removes a state, whole or not; raises UserError if there is something else in its folder."""
    refuse_link(folder)
    for path in folder.iterdir():
        if path.name not in _STATE_FILES and not (path.name.startswith("arrays") and path.is_dir()):
            raise UserError(
                f"{folder} is not removed, as training has not written its {path.name}: move that "
                "away"
            )
    shutil.rmtree(folder)


def export_torch(path: Path, checkpoint: bridge.LoadedCheckpoint) -> None:
    """Writes a .pt file; if that fails, the path still has its old content.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        bridge.save_torch(path, checkpoint.model, **checkpoint.training_state())
    except bridge.BridgeError as error:
        raise ResumableError(str(error)) from error


def remove_exports(run: Path, name: str, step: int, keep: int | None) -> None:
    """Keeps `keep` of a run's .pt files, that after `step` steps and the newest before it.

    Args:
        run: the run's folder.
        name: its .pt files are called NAME_step_N.pt, and no other file is looked at.
        step: the step that was just saved.
        keep: None keeps all.

    Raises:
        OSError: one cannot be removed.
    """
    files = _exports(run, name)
    for old in () if keep is None else _too_old(files, step, keep):
        files[old].unlink()


def _too_old(steps: Iterable[int], step: int, keep: int) -> list[int]:
    """Which to remove so that `keep` stay, `step` and the newest before it; later ones stay too."""
    before = sorted(each for each in steps if each < step)
    return before[: max(len(before) - keep + 1, 0)]
