"""Loads a command's checkpoints, and prints what it reads and how long that takes."""

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
from bridge.errors import FileWarning
from bridge.inspection import parameter_count
from bridge.resumability import disagreement


def load(path: str, options: argparse.Namespace, *, quiet: bool = False) -> LoadedCheckpoint:
    """Loads a checkpoint as the command's options say, and describes it unless quiet."""
    with reading(path, quiet=quiet):
        loaded = any_format.load(
            path,
            num_heads=options.num_heads,
            model_only=options.model_only,
            entry=options.entry,
        )
    if not quiet:
        print_summary(loaded)
    return loaded


def print_summary(loaded: LoadedCheckpoint) -> None:
    """Prints a checkpoint in one line, and in another what of its file is not taken over."""
    print(f"  {_summary(loaded)}")
    apart = disagreement(loaded)
    if apart is not None:
        print(f"  {apart}")
    if loaded.wrappers:
        print(f"  names without {printing.printable(', '.join(loaded.wrappers))}")
    if loaded.left_out:
        print(f"  not taken over: {printing.left_out(loaded.left_out)}")


def _summary(loaded: LoadedCheckpoint) -> str:
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
    return ", ".join(parts)


@contextlib.contextmanager
def reading(path: str, *, quiet: bool = False) -> Iterator[None]:
    """Prints what is read, unless quiet, and then what is odd about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FileWarning)
        if quiet or not os.path.exists(path):  # the error message will say so
            yield
        else:
            place = any_format.located(path)
            with timed(f"reading {place} ({printing.size(any_format.size_on_disk(place))})"):
                yield
    for warning in caught:
        if issubclass(warning.category, FileWarning):
            text = printing.printable(f"{path}: {warning.message}")
            print("warning:", text, file=sys.stderr)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints what is being done, and afterwards how long it took."""
    print(f"{what} ...", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - start:.1f} s", flush=True)
