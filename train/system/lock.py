"""Lock files: one process at a time does a work, and one that was killed is not in the way."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from train.system.errors import UserError


@contextlib.contextmanager
def locked(path: Path, in_use: str) -> Iterator[None]:
    """Holds a lock file while a block runs; the kernel frees that of a process which dies.

    The folders above the file are made where they are missing. At the end the file is removed, and
    of these folders those that are empty.

    Args:
        path: the lock file.
        in_use: what to say if another process holds it.

    Raises:
        UserError: another process holds it.
        OSError: it cannot be written.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    lock = filelock.FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise UserError(in_use) from error
        try:
            yield
        finally:
            # While it is held: whoever waits for a file that has lost its name opens it anew.
            with contextlib.suppress(OSError):  # a read-only disk; an empty one is in nobody's way
                path.unlink(missing_ok=True)
            lock.release()
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
