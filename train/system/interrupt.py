"""Ctrl-C and SIGTERM: the step is finished and saved first, and no signal is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler: raises KeyboardInterrupt, a moment later if it would be lost now."""
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            # JAX's part in garbage collection, in which Python drops exceptions. The signal goes to
            # the process, as a terminal's does: sent to another thread, it would not end a sleep.
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def end_at_once() -> None:
    """Makes Ctrl-C end a command at once while it starts, until `command_line.exit_after` runs.

    Nothing has begun yet, and libraries lose a KeyboardInterrupt while they are imported.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class StopSignal:
    """Remembers the first Ctrl-C or SIGTERM, so that the step can be finished and saved first.

    A second Ctrl-C interrupts at once.
    """

    requested = False

    def __enter__(self) -> "StopSignal":
        self._previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            interrupt(number, frame)
        self.requested = True


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM until the block ends.

    If Orbax is interrupted while it reads, asyncio prints a traceback at exit.
    """
    with StopSignal() as stop:
        yield
    if stop.requested:
        raise KeyboardInterrupt
