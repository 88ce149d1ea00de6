"""Where the stages of a run and their states lie, and which of them a path means."""

from pathlib import Path

from bridge.errors import UnreadableFileError, errors_about
from bridge.files import manifest
from bridge.files.disk import PathLike

CONTENT = "checkpoint.json"
"""The file of a state that says what else is in it (see orbax_folder.py)."""


def steps(run: PathLike) -> list[int]:
    """The steps of a run's complete states, in order."""
    folder = Path(run) / "state"
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdecimal()
        and (path / CONTENT).is_file()
        and (path / manifest.MANIFEST).is_file()
    )


def state_folder(run: PathLike, step: int) -> Path:
    """The folder of a run's state after `step` steps."""
    return Path(run) / "state" / str(step)


def stage_folder(run_dir: PathLike, stage: str) -> Path:
    """The folder of a stage ("base", ...) of the run in `run_dir`."""
    return Path(run_dir) / f"checkpoints_{stage}"


def stage_in(path: PathLike, stage: str | None = None) -> Path:
    """The stage's folder that is meant where a run_dir is named; any other path as it is.

    Args:
        path: a run_dir or anything else.
        stage: which one is meant; None is the fusion, or else the only stage there is.

    Raises:
        UnreadableFileError: there are several stages and no fusion.
    """
    folder = Path(path)
    if stage is not None:
        return stage_folder(folder, stage) if steps(stage_folder(folder, stage)) else folder
    if not folder.is_dir() or (folder / CONTENT).is_file() or steps(folder):
        return folder
    stages = [run for run in sorted(folder.glob(stage_folder("", "*").name)) if steps(run)]
    if stage_folder(folder, "fusion") in stages:
        return stage_folder(folder, "fusion")
    if len(stages) > 1:
        with errors_about(path):
            raise UnreadableFileError(
                f"has several stages: name one of them, {', '.join(map(str, stages))}"
            )
    return stages[0] if stages else folder


def find_state(path: PathLike) -> Path:
    """The folder of a checkpoint: the path itself, or the newest state of a run (see `stage_in`).

    Raises:
        UnreadableFileError: it is neither.
    """
    folder = stage_in(path)
    if (folder / CONTENT).is_file():
        return folder
    saved = steps(folder)
    if saved:
        return state_folder(folder, saved[-1])
    with errors_about(path):
        if not folder.is_dir():
            raise UnreadableFileError("no such folder: name a run's, or one of its states")
        runs = [run for run in (folder.parent, *sorted(folder.iterdir())) if steps(run)]
        files = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".safetensors"))
        meant = [*runs, *files]
        hint = f": did you mean {meant[0]}?" if meant else ", neither itself nor in state/"
        raise UnreadableFileError(f"holds no complete checkpoint{hint}")
