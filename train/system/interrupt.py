"""Signals: what asks a run to end or to save is noted, the step is finished and saved first."""

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill` and the end of a job, and the end of the terminal or the connection."""

SAVING = signal.SIGUSR1
"""Asks to save and to go on, as Slurm can before the end of a job."""

_SAME = 0.5
"""Seconds within which two signals are one."""

INTERRUPTED = 130
"""The exit code of a command that was interrupted."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler: raises KeyboardInterrupt, a moment later if it would be lost now."""
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            # JAX's part in garbage collection, in which Python drops exceptions. The signal goes to
            # the process, as a terminal's does: sent to another thread, it would not end a sleep.
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    if number == signal.SIGHUP:
        _leave_the_terminal()
    raise KeyboardInterrupt


def interrupt_on_signals() -> None:
    """Makes every stopping signal raise KeyboardInterrupt, and SAVING do nothing.

    What the command was told to ignore stays ignored: Ctrl-C in a background job of a shell, the
    end of the terminal under `nohup`.
    """
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    _ignore_saving()


def end_at_once() -> None:
    """Makes Ctrl-C end a command at once while it starts, until `command_line.exit_after` runs.

    Nothing has begun yet, and libraries lose a KeyboardInterrupt while they are imported. SAVING
    does nothing, as there is nothing to save: by default it would end the command.
    """
    _ignore_saving()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class StopSignal:
    """Notes the first stopping signal, so that the step can be finished and saved first.

    A second one ends the process at once. One signal that comes twice, as from `timeout` or from a
    shell and its terminal, is not two. A thread looks at the signals: Python calls handlers only
    between two operations, and one of JAX's may take minutes.

    Attributes:
        requested: a stopping signal has come.
        saving: SAVING has come; whoever has saved sets it back.
    """

    requested = False
    saving = False
    _first = 0.0

    def __enter__(self) -> "StopSignal":
        numbers = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
        self._previous = {n: signal.signal(n, _nothing) for n in (*numbers, SAVING)}
        receiving, self._sending = os.pipe()
        os.set_blocking(self._sending, False)
        self._previous_sending = signal.set_wakeup_fd(self._sending, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, args=(receiving,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._previous_sending)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._sending)  # and the thread ends
        self._thread.join()

    def _watch(self, receiving: int) -> None:
        with open(receiving, "rb", buffering=0) as signals:
            while number := signals.read(1):
                self._note(number[0])

    def _note(self, number: int) -> None:
        if number == SAVING:
            self.saving = True
        elif number in self._previous:
            if number == signal.SIGHUP:
                _leave_the_terminal()
            now = time.monotonic()
            if self.requested and now > self._first + _SAME:
                _leave()
            if not self.requested:
                self._first, self.requested = now, True


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays stopping signals until the block ends.

    If Orbax is interrupted while it reads, asyncio prints a traceback at exit.
    """
    with StopSignal() as stop:
        yield
    if stop.requested:
        raise KeyboardInterrupt


def _ignore_saving() -> None:
    # Not a handler: processes that this one starts would not have it, and end.
    signal.signal(SAVING, signal.SIG_IGN)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _leave_the_terminal() -> None:
    """Where the terminal is gone, nothing is printed any more: it would be an error."""
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _leave() -> None:
    """Ends the process: nothing is half-written, and the kernel frees its lock."""
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")  # the cursor, which a progress line hides
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted again, and ended at once: what was saved is kept\n")
    os._exit(INTERRUPTED)
