"""Ctrl-C and SIGTERM: a step is finished and saved first, and no signal is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: raises KeyboardInterrupt, a moment later where it would be lost."""
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            # JAX's part in garbage collection, out of which Python lets no exception through.
            # To the process, as a terminal does: a signal to another thread wakes this one from no
            # sleep.
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def end_at_once() -> None:
    """Lets Ctrl-C just end a command that is starting, until `command_line.exit_after` takes over.

    Nothing has begun, and libraries lose or garble a KeyboardInterrupt while they are imported.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class StopSignal:
    """Notes the first Ctrl-C or SIGTERM, so that the step can first be finished and saved.

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
    """Holds Ctrl-C and SIGTERM back until the block ends.

    Orbax, cut short while it reads, leaves asyncio to print a traceback at the exit.
    """
    with StopSignal() as stop:
        yield
    if stop.requested:
        raise KeyboardInterrupt
