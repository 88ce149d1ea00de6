"""The processes of one run: how they start, do things once, agree, and end."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from train.system.errors import UserError
from train.system.interrupt import STOPPING

_LOST = (
    "another process of this run ended or cannot be reached, see what it printed: start all "
    "processes again with --resume"
)

_BROKEN = re.compile(r"gloo|nccl|connection|coordination|heartbeat|UNAVAILABLE", re.IGNORECASE)
"""In an error of JAX: the connection to another process broke."""

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

    if coordinator != "auto":
        _check_host(coordinator)
    # Its signal handler would take SIGTERM from us.
    jax.config.update("jax_enable_preemption_service", False)
    # Who started this process has chosen its GPUs already: JAX would choose again among those.
    chosen: list[int] | None = [] if "CUDA_VISIBLE_DEVICES" in os.environ else None
    try:
        with _ended_by_signals():
            jax.distributed.initialize(
                None if coordinator == "auto" else coordinator,
                processes,
                process,
                chosen,
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


def _check_host(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise UserError(
            f"distributed.coordinator: {coordinator}: {error.strerror}: correct the host"
        ) from error


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


def check_same(values: Mapping[str, str | bytes | int]) -> None:
    """Makes sure that all processes have the same values.

    Args:
        values: what is compared, by names for the error message.

    Raises:
        UserError: they do not.
    """
    if not _started:
        return
    import numpy as np

    digests = [
        zlib.crc32(value if isinstance(value, bytes) else str(value).encode())
        for value in values.values()
    ]
    found = gathered(np.array(digests, np.uint32))
    different = [name for name, column in zip(values, found.T, strict=True) if len({*column}) > 1]
    if different:
        raise UserError(
            f"the processes have different {' and '.join(different)}: start all with the same "
            "command, config and code, and put data_dir and run_dir on a disk that all share"
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
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not _BROKEN.search(str(error)):
            raise
        raise UserError(f"{_LOST} ({error!s:.200})") from error


def part() -> None:
    """Waits until all processes have come to their end; after it each is alone."""
    global _started
    if _started:
        import jax

        with _ended_by_signals():
            jax.distributed.shutdown()
        _started = False


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A block in which JAX waits and no handler is called: signals end the process at once."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    ending = [number for number in STOPPING if before[number] != signal.SIG_IGN]
    for number in ending:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, before[number])


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
