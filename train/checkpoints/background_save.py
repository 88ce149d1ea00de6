"""Saves in the background: a thread writes what a step fetched, while the next steps are made."""

import threading
from collections.abc import Callable

from train.system.terminal import console

_PATIENCE = 2.0
"""Seconds to wait for a save before saying so."""


class BackgroundSave:
    """At most one save at a time; an error of it is raised by the next call of any method."""

    def __init__(self, waiting: Callable[[], None] = lambda: None) -> None:
        """`waiting` is called every second while a method waits for a save."""
        self._waiting = waiting

    _step = 0
    _thread: threading.Thread | None = None
    _error: Exception | None = None

    def begin(self, step: int, write: Callable[[], None]) -> None:
        """Calls `write`, which saves a step, in a thread; waits for the save before it."""
        self.wait()
        self._step = step
        # Orbax's threads are daemons as this one is: Python does not wait for those that hang.
        self._thread = threading.Thread(target=self._run, args=(write,), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises the error of a save that failed, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Waits until the save under way is done, and says so if that takes long."""
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                console.print(f"step {self._step} is still being saved: waiting for it")
                while self._thread.is_alive():
                    self._waiting()
                    self._thread.join(1)
            self._thread = None
        self.check()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            self._error = error
