"""Loads what a command is given, and says on the terminal what is read and how long it took."""

import argparse
import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator

from bridge import any_format
from bridge.checkpoint import LoadedCheckpoint
from bridge.commands import printing
from bridge.errors import NonFiniteWarning
from bridge.inspection import parameter_count, size_on_disk
from bridge.orbax_folder import find_state


def load(path: str, options: argparse.Namespace, *, quiet: bool = False) -> LoadedCheckpoint:
    """Loads a checkpoint as the command's options say, and prints what it is unless quiet."""
    with reading(path, quiet=quiet):
        loaded = any_format.load(path, num_heads=options.num_heads, model_only=options.model_only)
    if not quiet:
        print(f"  {summary(loaded)}")
    return loaded


def summary(loaded: LoadedCheckpoint) -> str:
    """A checkpoint in one line."""
    model_class = type(loaded.model).__name__
    step, schedule = f"step {loaded.step:,}", loaded.scheduler_state
    if loaded.stated_step is not None:
        step += f" by its optimizer, which counts (the file's counter says {loaded.stated_step:,})"
    parts = [
        f"{model_class}, {parameter_count(model_class, loaded.config):,} parameters",
        step,
        "no optimizer" if loaded.optimizer_state is None else "optimizer",
        "no schedule" if schedule is None else "schedule",
    ]
    if schedule is not None and loaded.optimizer_state and schedule.step != loaded.step:
        parts[-1] += f" at its own step {schedule.step:,}, from which it continues"
    return ", ".join(parts)


@contextlib.contextmanager
def reading(path: str, *, quiet: bool = False) -> Iterator[None]:
    """Says what is read, unless quiet, and afterwards what is odd about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NonFiniteWarning)
        if quiet or not os.path.exists(path):  # the error will say so
            yield
        else:
            place = find_state(path) if os.path.isdir(path) else path
            with timed(f"reading {place} ({printing.size(size_on_disk(place))})"):
                yield
    for warning in caught:
        if issubclass(warning.category, NonFiniteWarning):
            text = printing.printable(f"{path}: {warning.message}")
            print("warning:", text, file=sys.stderr)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Says what is done before it is done, and then how long it took."""
    print(f"{what} ...", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - start:.1f} s", flush=True)
