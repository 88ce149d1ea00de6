"""Files on disk: what cannot be opened is one clear line, and nothing half-written looks whole."""

import contextlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from bridge.errors import UnreadableFileError, UnwritableFileError

PathLike = str | os.PathLike[str]

_ALIGNMENT = 64


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[BinaryIO]:
    """A file that has at least one byte, open for `read`.

    Raises:
        UnreadableFileError: it is missing, a folder, not readable or empty.
    """
    with contextlib.ExitStack() as stack:
        try:
            # Opening a pipe would wait for someone to write to it.
            if stat.S_ISFIFO(os.stat(path).st_mode):
                raise UnreadableFileError("cannot be read: it is a pipe")
            file = stack.enter_context(open(path, "rb"))
        except (OSError, ValueError) as error:
            raise _unreadable(error) from None
        if not size(file):
            raise UnreadableFileError("the file is empty")
        yield file


def size(file: BinaryIO) -> int:
    """The bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read(file: BinaryIO, position: int, length: int) -> memoryview:
    """`length` bytes of a file, from a position on; any thread may read at any time.

    Raises:
        UnreadableFileError: it does not have them, or they cannot be read.
    """
    # Before memory is allocated for what a file only claims.
    if position < 0 or position + length > size(file):
        raise UnreadableFileError("truncated or damaged: it refers to bytes that it does not have")
    try:
        data = _aligned(length)
        done = 0
        while done < length:
            count = os.preadv(file.fileno(), [data[done:]], position + done)
            if not count:
                raise UnreadableFileError("truncated while it is read")
            done += count
    except (OSError, MemoryError) as error:
        raise _unreadable(error) from None
    return data


def _aligned(length: int) -> memoryview:
    """Memory that JAX can take over without a copy."""
    memory = np.empty(length + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + length].data


def _unreadable(error: Exception) -> UnreadableFileError:
    if isinstance(error, MemoryError):
        return UnreadableFileError("cannot be read: a part of it is larger than the free memory")
    return UnreadableFileError(f"cannot be read: {getattr(error, 'strerror', None) or error}")


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
    """A file to write, which takes the path's place when the block ends well.

    What the path held before is given up only for what is on the disk, so that not even a crash of
    the machine leaves neither. Where there was nothing, the disk takes its time.

    Raises:
        UnwritableFileError: the folder does not exist, is not writable or full; what the path
            held before is untouched.
    """
    target = pathlib.Path(os.path.realpath(path))  # a link stays, and what it names is replaced
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if target.is_dir():
            raise UnwritableFileError("cannot be written: it is a folder")
        try:
            with open(temporary, "xb") as file:
                yield file
                if target.exists():
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UnwritableFileError(f"cannot be written: {error.strerror or error}") from None


def sync(path: pathlib.Path) -> None:
    """Makes a file's content, or a folder's names, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
