"""The processes of one run: how they start, do things once, agree, and end."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from train.system.errors import UserError

_LOST = (
    "another process of this run ended or cannot be reached, see what it printed: start all "
    "processes again with --resume"
)

_MESSAGE_BYTES = 4000
"""How much of an error message the first process sends to the others."""

_LONGEST_END = 86_400
"""Seconds that the others wait for the first process, which writes the report."""

_started = False


def start(
    coordinator: str | None, processes: int | None, process: int | None, heartbeat_seconds: int
) -> None:
    """Makes this process one of several, if there is a coordinator; before JAX is used.

    The arguments are those of `DistributedConfig`.

    Raises:
        UserError: the others cannot be reached.
    """
    global _started
    if coordinator is None or _started:
        return
    import jax

    from train.system.terminal import console

    # Its signal handler would take SIGTERM from us.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            None if coordinator == "auto" else coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=_LONGEST_END,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"distributed.coordinator: {coordinator}: the processes cannot find each other: "
            f"{error!s:.300}"
        ) from error
    _started = True
    sys.excepthook = _crash
    _end_in_one_line()
    console.quiet = not is_first()


def count() -> int:
    """How many processes train together."""
    if not _started:
        return 1
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    if not _started:
        return True
    import jax

    return jax.process_index() == 0


def by_first(work: Callable[[], object]) -> None:
    """Lets the first process do something while the others wait.

    Raises:
        UserError: the first process could not do it.
    """
    if not _started:
        work()
        return
    error = None
    if is_first():
        try:
            work()
        except UserError as raised:
            error = raised
    message = _from_first(str(error or ""))
    if error is not None:
        raise error
    if message:
        raise UserError(f"process 0 said: {message}")


def _from_first(text: str) -> str:
    import numpy as np
    from jax.experimental import multihost_utils

    content = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode()[:_MESSAGE_BYTES], np.uint8)
    content[: len(encoded)] = encoded
    received = multihost_utils.broadcast_one_to_all(content)
    return bytes(np.asarray(received)).rstrip(b"\0").decode(errors="replace")


def gathered(values: Any) -> Any:
    """The values [N] that every process has, as [processes, N]."""
    import numpy as np

    values = np.asarray(values)
    if not _started:
        return values[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values, tiled=False)).reshape(
        count(), *values.shape
    )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that all processes run; at its end they part.

    Raises:
        UserError: another process ended before.
    """
    if not _started:
        yield
        return
    import jax

    try:
        yield
        part()
    except jax.errors.JaxRuntimeError as error:
        raise UserError(_LOST) from error


def part() -> None:
    """Waits until all processes have come to their end; after it each is alone."""
    global _started
    if _started:
        import jax

        jax.distributed.shutdown()
        _started = False


def leave(code: int) -> NoReturn:
    """Ends this process; where there are others, without waiting for them."""
    if _started:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _crash(*error: Any) -> None:
    """Ends this process after a bug of ours: at its exit, JAX would wait for the others."""
    sys.__excepthook__(*error)
    leave(1)


_kept: list[Any] = []


def _end_in_one_line() -> None:
    """Makes the abort by which JAX ends a process, when process 0 is gone, say so in our words."""

    def aborted(number: int) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"error: {_LOST}\n".encode())
        os._exit(2)

    # Python's own handlers run in the main thread only, which waits for the others for ever.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _kept.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
