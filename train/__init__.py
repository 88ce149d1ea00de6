"""Staged training: data preparation, the training loop, checkpoints and reports."""

import sys
import time

from bridge import use_utf8
from train.system.interrupt import end_at_once

BEGUN = time.monotonic()
"""When this process began to import what it needs."""

if sys.argv[0] == "-m":  # python -m train.COMMAND is starting, before it imports what it needs
    end_at_once()
    use_utf8()
