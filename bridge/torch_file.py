"""The .pt file itself: reading executes nothing that is in it, writing never leaves half a file."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import pickle
import re
import secrets
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bridge.errors import FormatError, UnreadableFileError, UnsafeFileError, UnwritableFileError

PathLike = str | os.PathLike[str]


def read(path: PathLike) -> Any:
    """What torch.save put into the file, on the CPU.

    Raises:
        UnreadableFileError: the file is missing, a folder, empty, truncated or of another kind.
        UnsafeFileError: it holds pickled objects other than tensors, containers and numbers.
    """
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise UnreadableFileError("the file is empty")
            file.seek(0)
            with warnings.catch_warnings():
                # torch's hints about other formats; the error that follows them says enough.
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True)
    except UnreadableFileError:
        raise
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # A damaged file makes torch raise nearly anything: UnpicklingError, RuntimeError,
        # EOFError, KeyError, AssertionError, MemoryError, UnicodeDecodeError, ...
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unsafe:
            raise UnsafeFileError(
                f"holds a pickled {unsafe[1]}, and only tensors, containers, numbers and strings "
                "are read; nothing was executed"
            ) from None
        # Where torch's text recommends weights_only=False, it is left out.
        advice = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
        details = "" if advice else f": {_first_sentence(error)}"
        raise UnreadableFileError(
            "not a checkpoint that torch.save wrote, or a damaged one "
            f"({type(error).__name__}{details})"
        ) from None


def write(path: PathLike, content: Any) -> None:
    """Saves `content` so that the path holds either the old file or the whole new one.

    Raises:
        UnwritableFileError: the folder does not exist, is not writable or full.
    """
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if target.is_dir():
            raise UnwritableFileError("cannot be written: it is a folder")
        try:
            with open(temporary, "xb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        raise UnwritableFileError(f"cannot be written: {error.strerror or error}") from None
    except RuntimeError as error:
        # torch's zip writer turns a full disk into its own error.
        raise UnwritableFileError(f"cannot be written: {_first_sentence(error)}") from None


def plain(value: Any, where: str) -> Any:
    """`value` made of what `read` accepts: dicts, lists, tuples, numbers, strings, None.

    Dataclasses become dicts, arrays lists, paths and dates strings; `where` names the value in
    errors.

    Raises:
        FormatError: something has no such form.
    """
    if value is None:
        return None
    # Subclasses of these, enums and numpy's among them, would be pickled by their own class.
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {
            plain(key, f"a key of {where}"): plain(item, f"{where}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), where)
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist(), where)
    raise FormatError(f"{where} cannot be saved: a {type(value).__name__} is not plain data")


def _sync_folder(folder: pathlib.Path) -> None:
    # Without this a crash of the machine can undo the renaming.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0] if lines else "no details"
