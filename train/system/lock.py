"""Lock files, with the project's errors."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import bridge
from train.system.errors import UserError


@contextlib.contextmanager
def locked(path: Path, in_use: str) -> Iterator[None]:
    """Holds a lock file while a block runs, see `bridge.locked`.

    Args:
        path: the lock file.
        in_use: what to say if another process holds it.

    Raises:
        UserError: another process holds it.
        OSError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(bridge.locked(path))
        except BlockingIOError as error:
            raise UserError(in_use) from error
        yield
