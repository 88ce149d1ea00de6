"""How every command ends: 0 when done, 2 and one error line on a mistake, 130 when interrupted.

A mistake is an error that the user can correct (`UserError`), or one that the system has with a
file (`OSError`), as on a full disk. Any other exception is a bug of ours, and keeps its traceback.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from bridge import (
    CLOSED,
    OUTPUT,
    flush_output,
    in_words,
    type_in_words,
    unknown_argument,
    use_utf8,
    with_own_dashes,
)
from train.system import processes
from train.system.errors import UserError
from train.system.interrupt import INTERRUPTED, interrupt_on_signals


def exit_after(command: Callable[[], None]) -> NoReturn:
    """Calls a command and exits: 0 when done, 2 on a mistake, 130 when interrupted.

    SIGTERM and SIGHUP interrupt like Ctrl-C, so that no worker process is left behind.
    """
    use_utf8()
    interrupt_on_signals()
    try:
        if sys.stdout is None:
            raise UserError(CLOSED)
        command()
        sys.stdout.flush()
    except (UserError, OSError) as error:
        _end(2, f"error: {one_line(_in_words(error))}")
    except KeyboardInterrupt as stopped:
        _end(INTERRUPTED, " ".join(["interrupted", *stopped.args]))
    sys.exit(0)


def _in_words(error: UserError | OSError) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.filename == OUTPUT:
        return in_words(cause)  # whoever wrote a file and printed about it could not know
    return in_words(error) if isinstance(error, OSError) else str(error)


def _end(code: int, message: str) -> NoReturn:
    """Prints a message and exits, even where neither output can be written."""
    if sys.stdout is not None:
        flush_output()
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    processes.leave(code)


def parse_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """The options of a command without a config.

    Args:
        parser: the command's own.
        argv: the arguments; None is the process's own.

    Raises:
        UserError: an option is wrong, unknown or missing.
        SystemExit: after `--help` was printed.
    """
    words = with_own_dashes(sys.argv[1:] if argv is None else argv, option_names(parser))

    def refuse(message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            raise UserError(unknown_argument(unknown[1], option_names(parser)))
        missing = re.search(r"arguments are required: (--\w+)$", message)
        if missing and words and not words[0].startswith("-"):
            raise UserError(f"{words[0]} is not an option: write {missing[1]} {words[0]}")
        wrong = re.fullmatch(r"argument (--[\w-]+): invalid (int|float) value: '(.*)'", message)
        if wrong:
            expected = type_in_words({"int": int, "float": float}[wrong[2]])
            raise UserError(f"{wrong[1]}: expected {expected}, not {wrong[3]}")
        raise UserError(without_value(message) or f"{message}: see --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(words)


def without_value(message: str) -> str | None:
    """What to say if argparse's message is that an option has no value; None if it is another."""
    option = re.search(r"argument (--[\w.-]+)\S*: expected one argument", message)
    return f"{option[1]} needs a value: write {option[1]} VALUE" if option else None


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """The options that a command's help lists, without their dashes."""
    listed = (action for action in parser._actions if action.help != argparse.SUPPRESS)
    return [name.lstrip("-") for action in listed for name in action.option_strings]


def one_line(text: str) -> str:
    """The text with single spaces in place of line breaks and several spaces."""
    return " ".join(text.split())
