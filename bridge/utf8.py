"""What a command reads and prints is UTF-8, in any locale; and what to say if it cannot print."""

import io
import os
import sys
from typing import Any

OUTPUT = "standard output"
"""What errors call it."""

CLOSED = "standard output is closed: redirect it, to /dev/null if nobody reads it"
"""What a command says that was started without an output."""

_COMMANDS = ("bridge", "mmrec_jax", "train")


def use_utf8() -> None:
    """Makes it so; called when a command begins.

    What the terminal has no character for is printed as a question mark. In a locale of another
    encoding, the command is started again in Python's UTF-8 mode, with the same arguments: the
    names of files are UTF-8 too, and they decide about splits.
    """
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        raw = io.BufferedWriter(_Output(sys.stdout.fileno(), "wb", closefd=False))
        lines = sys.stdout.line_buffering
        sys.stdout = io.TextIOWrapper(raw, encoding=sys.stdout.encoding, line_buffering=lines)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # What is run, before it is imported and after that.
    _, _, command = " ".join(sys.orig_argv).partition(" -m ")
    if (
        sys.getfilesystemencoding() != "utf-8"
        and os.environ.get("PYTHONUTF8") != "1"
        and command.split(".")[0].split(" ")[0] in _COMMANDS
    ):
        encoding = sys.stdout.encoding if sys.stdout else "utf-8"
        variables = {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:replace"}
        words = [_in_utf8(word) for word in sys.orig_argv[1:]]
        os.execve(sys.executable, [os.fsencode(sys.executable), *words], os.environ | variables)


class _Output(io.FileIO):
    """Standard output, which the system's own errors do not name."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT
            raise


def flush_output() -> None:
    """Flushes what was printed, or drops it: Python's own flush at exit must not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_utf8(word: str) -> bytes:
    """An argument in UTF-8: as it was given, or else what it says in the locale's encoding."""
    given = os.fsencode(word)
    try:
        given.decode()
    except UnicodeDecodeError:
        return word.encode(errors="surrogateescape")
    return given
