"""Ctrl-C and SIGTERM, so that none is lost."""

import signal
import threading
from types import FrameType


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: raises KeyboardInterrupt, where that is heard."""
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            # JAX's part in garbage collection, out of which Python lets no exception through.
            threading.Timer(0.01, signal.raise_signal, (number,)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
