"""How every command ends: 0 when done, 2 and one error line on a mistake, 130 when interrupted.

A mistake is what the user can correct (`UserError`). Any other exception is our bug and keeps its
traceback.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from bridge import use_utf8
from train.system.errors import UserError
from train.system.interrupt import interrupt


def exit_after(command: Callable[[], None]) -> NoReturn:
    """Calls a command and exits: 0 when done, 2 on a `UserError`, 130 when interrupted.

    SIGTERM interrupts like Ctrl-C, so that no worker process is left behind.
    """
    use_utf8()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as it is for background jobs of a shell
        signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        command()
    except UserError as error:
        print("error:", one_line(str(error)), file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader has closed our output; the exit must write no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt as stopped:
        print("interrupted", *stopped.args, file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def parse_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """The options of a command that takes no config.

    Args:
        parser: the command's own.
        argv: the arguments; None is the process's own.

    Raises:
        UserError: an option is wrong, unknown or missing.
        SystemExit: `--help` was asked for and is printed.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}: see --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(argv)


def one_line(text: str) -> str:
    """The text with its line breaks and runs of spaces made single spaces."""
    return " ".join(text.split())
