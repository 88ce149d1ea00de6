"""One error of all that Orbax and its threads raise and print while they cannot write."""

import contextlib
import logging
import os
import re
import sys
import threading
import typing
import warnings
from collections.abc import Iterator

from bridge.errors import UnwritableFileError


@contextlib.contextmanager
def one_error(name: str) -> Iterator[None]:
    """Makes it so for what Orbax does in the block.

    TensorStore raises ValueErrors, of which Orbax and asyncio log more tracebacks. Its threads
    outlive a failed save, and print what they can then tell nobody, as Python does of coroutines
    that they never awaited: so after an error Orbax and asyncio stay silent.

    Args:
        name: what is written.

    Raises:
        OSError: it cannot be written, for the reason that the system gives.
        UnwritableFileError: the same, for a reason of Orbax's own.
    """
    logs = [logging.getLogger(log) for log in ("absl", "asyncio")]
    were_disabled, stderr = [log.disabled for log in logs], sys.stderr
    for log in logs:
        log.disabled = True
    sys.stderr = typing.cast(typing.TextIO, _OneThread(stderr))
    try:
        yield
    except Exception as error:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        if isinstance(error, OSError):
            raise
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise UnwritableFileError(f"Orbax cannot write {name}: {error!s:.200}") from None
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
    sys.stderr = stderr
    for log, was_disabled in zip(logs, were_disabled, strict=True):
        log.disabled = was_disabled


class _OneThread:
    """A stream that drops what other threads than this one write."""

    def __init__(self, stream: typing.TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return self._stream.write(text) if threading.get_ident() == self._thread else len(text)

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._stream, name)
