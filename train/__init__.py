"""Staged training: data preparation, the training loop, checkpoints and reports."""

import signal
import sys

if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A command of this package is starting. Until `cli.exit_after` takes over, Ctrl-C just ends it:
    # nothing has begun, and libraries lose or garble a KeyboardInterrupt while they are imported.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
