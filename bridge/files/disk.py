"""Files on disk: clear errors for what cannot be opened, and no half-written file or folder."""

import contextlib
import difflib
import errno
import os
import pathlib
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import BinaryIO

from bridge.errors import UnreadableFileError
from bridge.files.aligned_memory import aligned_bytes

PathLike = str | os.PathLike[str]

_GLOB_CHARACTERS = frozenset("*?[]\\")

_START = 512
"""Bytes that show what a file is."""

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[BinaryIO]:
    """Opens a file for `read`; it must have at least one byte.

    Raises:
        UnreadableFileError: it is missing, a folder, not readable or empty.
    """
    with contextlib.ExitStack() as stack:
        try:
            # Opening a pipe would wait until someone writes to it.
            if stat.S_ISFIFO(os.stat(path).st_mode):
                raise UnreadableFileError("cannot be read: it is a pipe")
            file = stack.enter_context(open(path, "rb"))
        except FileNotFoundError as error:
            raise UnreadableFileError(f"{_unreadable(error)}; {where_to_look(path)}") from None
        except (OSError, ValueError) as error:
            raise _unreadable(error) from None
        if not size(file):
            raise UnreadableFileError("the file is empty")
        _refuse_stand_in(file)
        yield file


def where_to_look(path: PathLike) -> str:
    """What to do about a file that does not exist."""
    place = pathlib.Path(path)
    try:
        near = difflib.get_close_matches(place.name, os.listdir(place.parent), n=1, cutoff=0.8)
    except OSError:
        return f"there is no folder {place.parent}: correct the path"
    return f"did you mean {place.with_name(near[0])}?" if near else "correct the path"


def _refuse_stand_in(file: BinaryIO) -> None:
    """Raises UnreadableFileError where a file is what a download left in the place of another."""
    start = bytes(read(file, 0, min(_START, size(file)))).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise UnreadableFileError("a Git LFS pointer, not the file itself: run git lfs pull")
    if start.startswith((b"<!doctype html", b"<html")):
        raise UnreadableFileError(
            "a web page, not the file itself: download it again; a browser shows what the page says"
        )


def is_text(file: BinaryIO) -> bool:
    """Whether a file begins like a text, without the control characters of other files."""
    start = bytes(read(file, 0, min(_START, size(file))))
    return len(start) > 3 and all(byte >= 32 or byte in b"\t\n\f\r" for byte in start)


def size(file: BinaryIO) -> int:
    """The bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read(file: BinaryIO, position: int, length: int) -> memoryview:
    """`length` bytes of a file from a position on; several threads may read at once.

    Raises:
        UnreadableFileError: it does not have them, or they cannot be read.
    """
    # Checked before memory is allocated, since the file may claim anything.
    if position < 0 or position + length > size(file):
        raise UnreadableFileError("truncated or damaged: it refers to bytes that it does not have")
    try:
        data = aligned_bytes(length).data
        done = 0
        while done < length:
            count = os.preadv(file.fileno(), [data[done:]], position + done)
            if not count:
                raise UnreadableFileError("truncated while it is read")
            done += count
    except (OSError, MemoryError) as error:
        raise _unreadable(error) from None
    return data


def _unreadable(error: Exception) -> UnreadableFileError:
    if isinstance(error, MemoryError):
        return UnreadableFileError("cannot be read: a part of it is larger than the free memory")
    reason = getattr(error, "strerror", None) or error
    return UnreadableFileError(f"cannot be read: {reason}")


@contextlib.contextmanager
def replacing_file(path: PathLike) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends without an error.

    An old file is replaced only when the new one is on the disk, so even after a crash of the
    machine one of the two is there. If there was no old file, it does not wait for the disk.

    Raises:
        OSError: the path is a folder, or its folder does not exist, is not writable or full; what
            the path held before is unchanged.
    """
    target = pathlib.Path(os.path.realpath(path))  # a link stays, and its target is replaced
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    try:
        with naming(path):
            with open(temporary, "xb") as file:
                yield file
                if target.exists():
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Adds a path to every OSError of the block that names none, or the file before it is renamed.

    The system says of a full disk that it is full, and not which file was being written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or is_unfinished(pathlib.Path(error.filename).name):
            error.filename = os.fspath(path)
        raise


def is_unfinished(name: str) -> bool:
    """Whether a name is that of a file which `replacing_file` was killed over."""
    return _UNFINISHED.fullmatch(name) is not None


@contextlib.contextmanager
def replacing_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder to fill, which gets its name when the block ends without an error.

    Until then it is called `NAME.partial`; one that a killed process left is removed.

    Raises:
        OSError: a folder cannot be written; what the target held before is unchanged.
    """
    partial = target.with_name(f"{target.name}.partial")
    _make_anew(partial)
    try:
        with naming(target):
            yield partial
        for path in (*(path for path in partial.rglob("*") if path.is_file()), partial):
            sync(path)
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync(target.parent)


def _make_anew(folder: pathlib.Path) -> None:
    """Makes an empty folder; threads of a save that failed may still be writing into the old."""
    for wait in (0.05, 0.2, 1.0, None):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            return
        except FileExistsError:
            if wait is None:
                raise
            time.sleep(wait)


def replace_folder(new: pathlib.Path, target: pathlib.Path) -> None:
    """Replaces the target by a finished folder; until then the old one is complete."""
    if target.exists():
        target.rename(_old(target))
    new.rename(target)
    restore_folder(target)


def restore_folder(target: pathlib.Path) -> None:
    """Restores or removes the old folder, if `replace_folder` was killed in between."""
    if target.exists():
        shutil.rmtree(_old(target), ignore_errors=True)
    elif _old(target).exists():
        _old(target).rename(target)


def _old(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f".{target.name}.mmrec-old")


@contextlib.contextmanager
def path_without_pattern(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to the folder for a library that would read the folder's own as a glob pattern.

    It is the absolute path if that holds no such character, or else leads through a temporary link.

    Raises:
        OSError: the link cannot be made.
    """
    resolved = folder.resolve()
    if _GLOB_CHARACTERS.isdisjoint(str(resolved)):
        yield resolved
        return
    with tempfile.TemporaryDirectory(prefix="mmrec-") as place:
        link = pathlib.Path(place) / "folder"
        link.symlink_to(resolved)
        yield link


def sync(path: pathlib.Path) -> None:
    """Makes a file's content, or a folder's names, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
