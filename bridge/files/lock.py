"""Lock files: one process at a time does a work, and one that was killed is not in the way."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock


def run_lock(run: Path) -> Path:
    """The lock file of a run's folder, beside it, as the folder may be deleted meanwhile."""
    folder = run.resolve()  # two links to one folder are one run
    return folder.with_name(f".{folder.name}.lock")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file while a block runs; the kernel frees that of a process which dies.

    The folders above the file are made where they are missing. At the end the file is removed, and
    of these folders those that are empty.

    Args:
        path: the lock file.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be written.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    lock = filelock.FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise BlockingIOError(f"{path} is held by another process") from error
        mine = _identity(path)
        try:
            yield
        finally:
            # While it is held: whoever waits for a file that has lost its name opens it anew. The
            # folder may have been moved, and then the file of this name is another process's.
            with contextlib.suppress(OSError):  # a read-only disk; an empty one is in nobody's way
                if _identity(path) == mine:
                    path.unlink()
            lock.release()
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
