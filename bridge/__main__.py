"""`python -m bridge COMMAND`: converts, describes and compares checkpoints.

An error that the user can fix prints one line, `error: ...`, on stderr and exits with code 2; any
other is our bug and keeps its traceback.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from bridge.commands import printing
from bridge.commands.parser import build_parser
from bridge.errors import BridgeError
from bridge.utf8 import use_utf8


def main(argv: Sequence[str]) -> int:
    """Runs a command.

    Args:
        argv: the arguments after the program's name.

    Returns:
        The exit code: 0 if all is well, 1 if `inspect` found problems or `verify` differences, 2 if
        a file or an argument is wrong, 130 if interrupted, 141 if the reader of the output closed
        it early.
    """
    try:
        options = build_parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = options.command
        code = command(options)
        sys.stdout.flush()
        return code
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except BridgeError as error:
        return _failed(str(error))
    except BrokenPipeError:
        # The reader has closed the output, and Python's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _failed(f"{place}{error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _failed(message: str) -> int:
    print("error:", printing.printable(" ".join(message.split())), file=sys.stderr)
    return 2


if __name__ == "__main__":
    use_utf8()
    sys.exit(main(sys.argv[1:]))
