"""Reads any checkpoint: a file, by its content, one in several files, or a folder of Orbax's."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bridge import checkpoint
from bridge.checkpoint import LoadedCheckpoint, is_safetensors
from bridge.errors import FormatError, UnreadableFileError, errors_about, listed
from bridge.files import any_file, shards
from bridge.files.disk import PathLike
from bridge.orbax_folder import load_orbax
from bridge.stage_folders import find_state
from bridge.stated import StatedCheckpoint


def load(
    path: PathLike,
    *,
    num_heads: int | None = None,
    model_only: bool = False,
    entry: str | None = None,
) -> LoadedCheckpoint:
    """Reads a .pt or .safetensors file, a run's folder (its newest state) or a state's folder.

    Args:
        path: the file or folder. A checkpoint in several files is named by its index, or by the
            folder with it.
        num_heads: see `load_torch`; folders always state it.
        model_only: see `load_torch`.
        entry: see `load_torch`; for files only.

    Raises:
        BridgeError: it cannot be read, is unsafe, or does not hold exactly a model's tensors.
    """
    place = located(path)
    if os.path.isdir(place):
        _refuse_entry(path, entry)
        return load_orbax(path, model_only=model_only)
    return checkpoint.load_torch(place, num_heads=num_heads, model_only=model_only, entry=entry)


def located(path: PathLike) -> PathLike:
    """The file of a checkpoint, the index of its files, or the folder of its state.

    Raises:
        BridgeError: it is a folder without a checkpoint.
    """
    if not os.path.isdir(path):
        return path
    try:
        return find_state(path)
    except UnreadableFileError as error:
        with errors_about(path):
            index = shards.index_in(path)
        if index is not None:
            return index
        files = [name for name in sorted(os.listdir(path)) if any_file.is_named_so(name)]
        if files:
            error.message += f"; if you mean a file in it, name that: {listed(files)}"
        raise


def format_of(place: PathLike) -> str:
    """The format of a checkpoint that `located` found."""
    return "Orbax" if os.path.isdir(place) else any_file.format_of(place)


def size_on_disk(place: PathLike) -> int:
    """The size in bytes of a file, with the files that it is an index of, or of a whole folder.

    Raises:
        OSError: it does not exist.
    """
    if not os.path.isdir(place):
        return sum(file.stat().st_size for file in any_file.files_of(place))
    return sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())


@contextlib.contextmanager
def stated_in(
    path: PathLike, entry: str | None = None, model_only: bool = False
) -> Iterator[StatedCheckpoint]:
    """What any checkpoint states; a file's tensors are unread, a folder's are all read.

    Args:
        path: the file or folder.
        entry: see `load_torch`; for files only.
        model_only: see `load_torch`.

    Raises:
        BridgeError: as for `load`, except for errors about the model.
    """
    place = located(path)
    if not os.path.isdir(place):
        with checkpoint.stated_in(place, entry, model_only) as stated:
            yield stated
        return
    _refuse_entry(path, entry)
    loaded = load_orbax(path, model_only=model_only)
    with errors_about(path):
        yield checkpoint.stated_by(loaded)


def _refuse_entry(path: PathLike, entry: str | None) -> None:
    if entry is not None:
        with errors_about(path):
            raise FormatError(f"is a folder, which has no weights called {entry}: name a file")


def save_file(path: PathLike, loaded: LoadedCheckpoint) -> None:
    """Writes a .safetensors file if the name says so, else a .pt file; see `save_torch`."""
    write = checkpoint.write_safetensors if is_safetensors(path) else checkpoint.write_torch
    write(path, loaded)
