"""One error of all that Orbax and its threads raise and print while they cannot write."""

import contextlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator

from bridge.errors import UnwritableFileError


@contextlib.contextmanager
def one_error(name: str) -> Iterator[None]:
    """Makes it so for what Orbax does in the block; other threads may print meanwhile.

    TensorStore raises ValueErrors, of which Orbax and asyncio log more tracebacks. Its threads
    outlive a failed save, and print what they can then tell nobody, as Python does of what asyncio
    abandons: so after an error they stay silent.

    Args:
        name: what is written.

    Raises:
        OSError: it cannot be written, for the reason that the system gives.
        UnwritableFileError: the same, for a reason of Orbax's own.
    """
    logs = [logging.getLogger(log) for log in ("absl", "asyncio")]
    were_disabled, hook = [log.disabled for log in logs], sys.unraisablehook
    for log in logs:
        log.disabled = True

    def of_the_main_thread(what: "sys.UnraisableHookArgs") -> None:
        asyncios = "asyncio" in (getattr(what.object, "__module__", None) or "")
        if threading.current_thread() is threading.main_thread() and not asyncios:
            hook(what)

    sys.unraisablehook = of_the_main_thread
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
    sys.unraisablehook = hook
    for log, was_disabled in zip(logs, were_disabled, strict=True):
        log.disabled = was_disabled
