"""A run's training states on disk: whole or not there, checked when they are read.

    state/N/arrays/         the TrainState after N steps, written by Orbax
    state/N/position.json   where the data were
    state/N/manifest.json   size and SHA-256 of every file above

Orbax alone restores a flipped bit without a word; the manifest finds it. A state is written beside
its place and renamed when it is complete.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from train.errors import UserError

State = TypeVar("State")

_MANIFEST = "manifest.json"


def steps(run: Path) -> list[int]:
    """The steps of a run's complete states, in order."""
    folder = run / "state"
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdigit() and (path / _MANIFEST).is_file()
    )


def save(run: Path, step: int, state: Any, position: dict[str, Any], keep: int) -> None:
    """Writes a state if it is not there yet, then removes all but the newest `keep`.

    Args:
        run: the run's folder.
        step: optimizer steps made.
        state: a pytree of arrays.
        position: plain data kept beside it.
        keep: states that stay.

    Raises:
        UserError: the state cannot be written.
    """
    if step in steps(run):
        return  # replacing it would mean to be without it for a moment
    try:
        _write(run / "state", step, state, position)
        for old in steps(run)[:-keep]:
            shutil.rmtree(run / "state" / str(old))
    except OSError as error:
        raise UserError(f"cannot write the state after step {step} to {run}: {error}") from error


def restore(run: Path, step: int, like: State) -> tuple[State, dict[str, Any]]:
    """Reads the state after `step` steps.

    Args:
        run: the run's folder.
        step: one of `steps(run)`.
        like: the state's structure, shapes and dtypes, as from jax.eval_shape.

    Returns:
        The state, and the position that was saved with it.

    Raises:
        UserError: a file is missing or damaged, or the state is that of another model.
    """
    folder = run / "state" / str(step)
    advice = f"remove {folder} to go on from an older state"
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        for name, description in files.items():
            if _describe(folder / name) != description:
                raise UserError(f"{folder / name} is damaged (its SHA-256 has changed): {advice}")
        position = json.loads((folder / "position.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} cannot be read ({error}): {advice}") from error

    with ocp.StandardCheckpointer() as checkpointer:
        path = folder.resolve() / "arrays"
        # Orbax casts to the dtype that it is asked for, and fills or cuts shapes, without a word.
        saved = checkpointer.metadata(path).item_metadata
        wanted, found = _layout(like), _layout(saved)
        if wanted != found:
            differing = {name for name, _ in wanted.items() ^ found.items()}
            name = min(differing, key=lambda name: (name[0] != "params", name))
            raise UserError(
                f"{folder} holds another model: {'.'.join(name)} is {found.get(name, 'missing')} "
                f"there and {wanted.get(name, 'missing')} by the config"
            )
        return checkpointer.restore(path, like), position


def _write(folder: Path, step: int, state: Any, position: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.partial"):
        shutil.rmtree(leftover)
    partial = folder / f"{step}.partial"
    partial.mkdir()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(partial.resolve() / "arrays", state)
        checkpointer.wait_until_finished()
    (partial / "position.json").write_text(json.dumps(position), encoding="utf-8")
    files = {str(path.relative_to(partial)): _describe(path) for path in _files(partial)}
    (partial / _MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    for path in (*_files(partial), partial):
        _sync(path)
    final = folder / str(step)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(folder)


def _layout(tree: Any) -> dict[tuple[str, ...], str]:
    def name(key: Any) -> str:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                return str(getattr(key, attribute))
        return str(key)

    return {
        tuple(name(key) for key in path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
