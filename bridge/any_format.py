"""Reads any checkpoint: a .pt or .safetensors file, by its name, or a folder that Orbax wrote."""

import contextlib
import os
from collections.abc import Iterator

from bridge import checkpoint
from bridge.checkpoint import LoadedCheckpoint, is_safetensors
from bridge.errors import FormatError, errors_about
from bridge.files.disk import PathLike
from bridge.orbax_folder import load_orbax
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
        path: the file or folder.
        num_heads: see `load_torch`; folders always state it.
        model_only: see `load_torch`.
        entry: see `load_torch`; for files only.

    Raises:
        BridgeError: it cannot be read, is unsafe, or does not hold exactly a model's tensors.
    """
    if os.path.isdir(path):
        _refuse_entry(path, entry)
        return load_orbax(path, model_only=model_only)
    read = checkpoint.load_safetensors if is_safetensors(path) else checkpoint.load_torch
    return read(path, num_heads=num_heads, model_only=model_only, entry=entry)


@contextlib.contextmanager
def stated_in(path: PathLike, entry: str | None = None) -> Iterator[StatedCheckpoint]:
    """What any checkpoint states; a file's tensors are unread, a folder's are all read.

    Args:
        path: the file or folder.
        entry: see `load_torch`; for files only.

    Raises:
        BridgeError: as for `load`, except for errors about the model.
    """
    if not os.path.isdir(path):
        with checkpoint.stated_in(path, entry) as stated:
            yield stated
        return
    _refuse_entry(path, entry)
    loaded = load_orbax(path)
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
