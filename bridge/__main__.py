"""`python -m bridge COMMAND`: converts, describes and compares checkpoints.

An error that the user can fix prints one line, `error: ...`, on stderr and exits with code 2; any
other is our bug and keeps its traceback.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from bridge.commands import describe, printing
from bridge.commands.parser import build_parser
from bridge.errors import BridgeError, in_words
from bridge.utf8 import CLOSED, flush_output, use_utf8


def main(argv: Sequence[str]) -> int:
    """Runs a command.

    Args:
        argv: the arguments after the program's name.

    Returns:
        The exit code: 0 if all is well, 1 if `inspect` found problems or `verify` differences, 2 if
        a file or an argument is wrong or the output cannot be written, 130 if interrupted, 141 if
        the reader of what `inspect` or `verify` prints closed it early.
    """
    command: Callable[[argparse.Namespace], int] | None = None
    try:
        if sys.stdout is None:
            raise BridgeError(CLOSED)
        options = build_parser().parse_args(argv)
        command = options.command
        assert command is not None
        code = command(options)
        sys.stdout.flush()
        return code
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except BridgeError as error:
        return _failed(str(error))
    except OSError as error:
        flush_output()
        if isinstance(error, BrokenPipeError) and command in (describe.describe, describe.verify):
            return 141
        return _failed(in_words(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _failed(message: str) -> int:
    print("error:", printing.printable(" ".join(message.split())), file=sys.stderr)
    return 2


if __name__ == "__main__":
    use_utf8()
    sys.exit(main(sys.argv[1:]))
