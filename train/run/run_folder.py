"""A run's folder: what is in it, and whether a run may begin there (resume.py: or resume)."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bridge import is_unfinished, run_lock, steps
from train.checkpoints.run_states import remove_leftovers
from train.data.data_folder import TOKENIZER
from train.run.recorded import Extension, begin_part, recorded_settings
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.system.errors import UserError
from train.system.lock import locked
from train.system.write import refuse_link, write_text

_OURS = re.compile(
    r"config\.yaml|environment\.json|tokenizer\.json|metrics\.jsonl|loss\.png|report\.(json|html)"
    r"|load_report\.json|tensorboard/events.*|(base|continued|fusion)_model_step_\d+\.pt"
    r"|(text|code)_expert_step_\d+\.pt"
    r"|state/\d+(\.partial)?/(checkpoint\.json|manifest\.json|arrays[^/]*/.*)"
    r"|(.*/)?\.[^/]+\.[0-9a-f]{8}\.tmp"
)
"""The files of a run, by their paths in its folder."""


def check_run_dir(run_dir: Path, stage: str = "checkpoints_base") -> None:
    """Makes sure that run_dir is not the folder of a checkpoint, or a file in one.

    Args:
        run_dir: the folder of all stages.
        stage: the name of a stage's folder in it.

    Raises:
        UserError: it is.
    """
    folder = run_dir.parent if run_dir.is_file() else run_dir
    if not steps(folder):
        return
    what = "is itself" if folder == run_dir else "is a file in"
    advice = (
        f"did you mean {folder.parent}?"
        if folder.name.startswith("checkpoints_")
        else f"move that folder into a run_dir of its own, as RUN_DIR/{stage}"
    )
    raise UserError(f"run_dir: {run_dir} {what} the folder of a checkpoint: {advice}")


def contents(run: Path) -> set[str]:
    """The names in a run's folder; none where there is no folder.

    Raises:
        UserError: it is not a folder, or not one of a run or an import, or the folder above it is;
            or there is a link in it.
    """
    check_run_dir(run.parent, run.name)
    if not run.exists():
        return set()
    if not run.is_dir():
        raise UserError(f"run_dir: {run} is a file, not a folder: choose another run_dir")
    state = run / "state"
    for path in (*run.iterdir(), *(state.iterdir() if state.is_dir() else ())):
        refuse_link(path)
    names = {path.name for path in run.iterdir() if not is_unfinished(path.name)}
    if names and CONFIG not in names and not steps(run):
        raise UserError(f"{run} is not a run's folder, it has no {CONFIG}: choose another run_dir")
    return names


def check_writable(folder: Path) -> None:
    """Makes sure that files can be written to a folder in run_dir, or to run_dir; changes nothing.

    Raises:
        UserError: it cannot be made, or nothing can be written there.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    there = missing[-1].parent if missing else folder
    if not there.is_dir():
        check_run_dir(there)
        raise UserError(f"run_dir: {there} is a file, not a folder: choose another run_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            path.rmdir()
        tempfile.TemporaryFile("wb", dir=there).close()
    except OSError as error:
        raise UserError(
            f"run_dir: cannot write to {folder}: {error.strerror}: choose another run_dir"
        ) from error


@contextlib.contextmanager
def locked_runs(*runs: Path) -> Iterator[None]:
    """Keeps other commands out of runs' folders while a block works on them.

    Raises:
        UserError: another command is at work on one of them, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for run in runs:
            lock = run_lock(run)
            in_use = (
                f"{run}: another command is at work on it: wait until it ends, or choose another "
                "run_dir"
            )
            try:
                stack.enter_context(locked(lock, in_use))
            except OSError as error:
                check_writable(run)  # says more
                raise UserError(
                    f"run_dir: cannot write to {lock.parent}: {error.strerror or error}: choose "
                    "another run_dir"
                ) from error
        yield


def check_may_begin(run: Path, *, overwrite: bool) -> None:
    """Makes sure that a new run may begin in a folder; changes nothing.

    Raises:
        UserError: the folder is not a run's, cannot be written, or holds a run that may not be
            overwritten.
    """
    check_writable(run)
    names = contents(run)
    if names and CONFIG not in names:
        raise UserError(
            f"{run} holds an imported checkpoint: give --resume to the command that trains this "
            "stage alone, or choose another run_dir"
        )
    if names and not overwrite:
        raise UserError(
            f"{run} holds a run: give --resume to resume it, --overwrite to delete it and start "
            "again, or choose another run_dir"
        )
    if names:
        check_deletable(run)


def check_deletable(run: Path) -> None:
    """Makes sure that a folder holds what training writes, and nothing else.

    Raises:
        UserError: it does not.
    """
    settings = recorded_settings(run)
    if not {"data_dir", "training.steps"} <= settings.keys():
        raise UserError(f"{run / CONFIG} is not a run's config: choose another run_dir")
    _refuse_foreign(run)


def _refuse_foreign(run: Path) -> None:
    """Raises UserError if there is a file that training does not write."""
    names = (
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
    foreign = min((name for name in names if not _OURS.fullmatch(name)), default=None)
    if foreign is not None:
        raise UserError(
            f"{run} has files that training does not write, such as {foreign}, and is not deleted: "
            "move them, or choose another run_dir"
        )


def delete_run(run: Path) -> None:
    """Deletes the run in a folder, if there is one; a folder without a config is left alone.

    Raises:
        UserError: it cannot be deleted, or there is something else in it.
    """
    if not (run / CONFIG).is_file():
        return
    check_deletable(run)
    # The run is out of the way at once, and a later start deletes what is left of it.
    folder, old = run.resolve(), _old(run)
    _refuse_foreign(old)
    try:
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        if run.is_symlink():
            folder.mkdir()  # the link is the user's, and stays
        shutil.rmtree(old)
    except OSError as error:
        raise UserError(f"cannot delete {run}: {error.strerror or error}") from error


def _old(run: Path) -> Path:
    """Where a run is while it is deleted."""
    folder = run.resolve()
    return folder.with_name(f".{folder.name}.old")


def describe_run(
    config: Config, run: Path, step: int, precision: str, extension: Extension | None = None
) -> None:
    """Writes the files that describe a run: those of `begin_part`, and its tokenizer.

    What killed starts left unfinished beside them is removed.

    Args:
        config, run, step, precision, extension: see `begin_part`.

    Raises:
        UserError: the folder cannot be written, or what is in it not read.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run)
        if _old(run).is_dir():
            _refuse_foreign(_old(run))
            shutil.rmtree(_old(run))
        begin_part(config, run, step, precision, extension)
        if not (run / TOKENIZER).exists():
            tokenizer = Path(config.data_dir) / TOKENIZER
            write_text(run / TOKENIZER, tokenizer.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot write {run}: {error.strerror}") from error


FolderIdentity = tuple[int, int]
"""What a folder keeps when it is moved, and another one of its name does not have."""


def identity_of(run: Path) -> FolderIdentity | None:
    """The identity of a run's folder; None where there is no run any more."""
    try:
        found = os.stat(run)
        return (found.st_dev, found.st_ino) if (run / CONFIG).is_file() else None
    except OSError:
        return None


def check_still_there(run: Path, identity: FolderIdentity | None) -> None:
    """Makes sure that a run's folder is the one in which the run began.

    Raises:
        UserError: it was removed, or moved, and maybe another run is there now.
    """
    if identity is None or identity_of(run) != identity:
        raise UserError(
            f"{run} was removed or moved while it was trained: move it back and continue with "
            "--resume, or start again"
        )


def newest_step(run: Path) -> int:
    """The newest saved step of a run.

    Raises:
        UserError: the run has none.
    """
    if not run.is_dir():
        raise UserError(f"{run} is not a folder: name a run's, such as runs/demo/checkpoints_base")
    saved = steps(run)
    if not saved:
        raise UserError(f"{run} has no saved state in {run / 'state'}: name a run's folder")
    return saved[-1]
