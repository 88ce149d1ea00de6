"""Ends a run that hangs: where a device or another process does not answer, nothing else would."""

import contextlib
import os
import threading


class Watchdog:
    """Ends the process with an error if nothing was done for too long.

    Only seconds in which this process ran count: not those in which it, or the machine, was asleep.
    """

    def __init__(self, seconds: int) -> None:
        """`seconds` may pass between two calls of `done_some`."""
        self._seconds = seconds
        self._silent = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def done_some(self) -> None:
        """Something was done: the time begins anew."""
        self._silent = 0

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1):
            self._silent += 1
            if self._silent > self._seconds:
                with contextlib.suppress(OSError):
                    os.write(2, self._message().encode())
                os._exit(2)

    def _message(self) -> str:
        return (
            f"error: no micro-batch was done in {self._seconds} s: the device or another process "
            "does not answer: continue from the last checkpoint with --resume, or raise "
            "training.hang_seconds\n"
        )
