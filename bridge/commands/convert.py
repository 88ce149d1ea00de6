"""The commands that convert: to-torch, from-torch and adapt."""

import argparse
import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge import any_format
from bridge.checkpoint import LoadedCheckpoint
from bridge.commands import printing
from bridge.commands.loading import load, print_summary, reading, timed
from bridge.commands.next_steps import print_next_steps
from bridge.config.yaml_file import from_yaml
from bridge.errors import (
    BridgeError,
    FormatError,
    MismatchError,
    UnwritableFileError,
    errors_about,
    unwritable,
)
from bridge.files.lock import locked, run_lock
from bridge.orbax_folder import write_orbax
from bridge.partial import LoadReport, load_partial
from bridge.stage_folders import state_folder
from mmrec_jax import FusionLayer, MMRec100M

_LEFTOVER = re.compile(
    r"state(/\d+\.partial(/(checkpoint\.json|manifest\.json|arrays[^/]*(/.*)?))?)?"
)
"""What a conversion that was killed leaves in its folder."""

REPORT = "load_report.json"
"""The report of a partial import: what happened to each tensor. It lies in the run's folder."""


def to_torch(options: argparse.Namespace) -> int:
    """Runs `to-torch`."""
    target = Path(options.OUT)
    with errors_about(options.OUT):
        if target.suffix.lower() not in (".pt", ".safetensors"):
            raise BridgeError("names no format: give it the suffix .pt or .safetensors")
        if target.is_dir():
            raise UnwritableFileError("is a folder: name a file")
        if target.exists() and not options.overwrite:
            raise UnwritableFileError("exists already: give --overwrite, or name another file")
        check_writable(target.parent)
        if not target.parent.is_dir():
            raise UnwritableFileError("cannot be written: its folder does not exist; make it first")
    loaded = load(options.IN, options)
    with timed(f"writing {target}"):
        any_format.save_file(target, loaded)
    print(f"  {printing.size(any_format.size_on_disk(target))}")
    model = loaded.model
    if isinstance(model, FusionLayer | MMRec100M) and model.config.fusion_method == "weighted":
        print(
            "its fusion is weighted: the original has the same parameters and cannot run them (it "
            "raises an error); bridge.twin runs them in PyTorch, and a fusion that concatenates "
            "runs in both"
        )
    return 0


def from_torch(options: argparse.Namespace) -> int:
    """Runs `from-torch`."""
    with _free(options.OUT_DIR):
        if options.partial:
            return _import_partially(options, num_heads=options.num_heads)
        try:
            loaded = load(options.IN, options)
        except MismatchError as error:
            if not os.path.isdir(options.IN):
                error.message += "; --partial loads what fits"
            raise
        _write_state(options, loaded)
        print_next_steps(options, loaded)
        return 0


def adapt(options: argparse.Namespace) -> int:
    """Runs `adapt`."""
    with _free(options.OUT_DIR):
        config = from_yaml(options.config)
        return _import_partially(options, config=config, model_class=options.model_class)


def _import_partially(options: argparse.Namespace, **target: Any) -> int:
    with reading(options.IN):
        loaded, report = load_partial(
            options.IN,
            seed=options.seed,
            model_only=options.model_only,
            entry=options.entry,
            **target,
        )
    print_summary(loaded)
    _write_state(options, loaded)
    printing.print_load_report(report)
    _write_report(Path(options.OUT_DIR) / REPORT, report)
    print(f"training state {report.training_state}")
    print_next_steps(options, loaded)
    return 0


@contextlib.contextmanager
def _free(folder: str) -> Iterator[None]:
    """Keeps other commands out of a folder, which must be free."""
    place = Path(folder)
    _check_free(place)  # before a lock is written beside it
    with contextlib.ExitStack() as stack:
        with errors_about(folder):
            try:
                stack.enter_context(locked(run_lock(place)))
            except BlockingIOError:
                raise UnwritableFileError(
                    "another command is at work on it: wait until it ends, or name another folder"
                ) from None
            except OSError as error:
                raise UnwritableFileError(f"cannot be written: {error.strerror}") from None
        _check_free(place)
        yield


def _check_free(place: Path) -> None:
    """Refuses a folder that has anything in it, except leftovers of a killed conversion."""
    with errors_about(place):
        if place.exists() and not place.is_dir():
            raise UnwritableFileError("is not a folder: name a new one")
        for path in place.rglob("*"):
            inside = path.relative_to(place).as_posix()
            if path.is_symlink() or not _LEFTOVER.fullmatch(inside):
                raise UnwritableFileError("exists and is not empty: name a new folder")
        check_writable(place)


def check_writable(folder: Path) -> None:
    """Tries whether files can be written in a folder, or where it is to be made."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not there.is_dir():
        raise UnwritableFileError(
            f"cannot be written: {there} is a file, not a folder; name another place"
        )
    with unwritable():
        tempfile.TemporaryFile("wb", dir=there).close()


def _write_state(options: argparse.Namespace, loaded: LoadedCheckpoint) -> None:
    if loaded.step < 0:
        with errors_about(options.IN):
            raise FormatError(f"step is {loaded.step}: no state is before step 0")
    folder = state_folder(options.OUT_DIR, loaded.step)
    for leftover in folder.parent.glob("*.partial"):  # left by a conversion that was killed
        shutil.rmtree(leftover)
    with timed(f"writing {folder}"):
        write_orbax(folder, loaded)
    print(f"  {printing.size(any_format.size_on_disk(folder))}")


def _write_report(path: Path, report: LoadReport) -> None:
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    print(f"{path} lists all tensors")
