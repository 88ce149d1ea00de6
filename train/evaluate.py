"""`python -m train.evaluate --config C`: scores checkpoints of any stage side by side."""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bridge import BridgeError, stage_in, steps
from train.checkpoints.language_model import network_of, read, stage_folder
from train.data.prepared import PreparedData
from train.reports.curves import Curve, write_curves
from train.run.recorded import recorded_settings
from train.run.run_folder import check_run_dir, check_writable
from train.scoring.scoreboard import score_networks, score_table, write_scores
from train.settings import cli
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.stages.all_stages import STAGES
from train.step.frozen import Network
from train.system.errors import UserError
from train.system.terminal import console, print_table

_CURVES = "-curves.png"


def main(config: Config) -> None:
    """Scores the checkpoints of `config.evaluate`; raises UserError where one does not fit."""
    check_run_dir(Path(config.run_dir))
    check_writable(Path(config.run_dir))
    data = PreparedData(config, "base")
    paths = config.evaluate.checkpoints or [
        str(folder) for folder in (stage_folder(config, name) for name in STAGES) if steps(folder)
    ]
    if not paths:
        raise UserError(
            f"run_dir {config.run_dir} has no trained stage: train one, or name checkpoints in "
            "evaluate.checkpoints"
        )
    for path in paths:
        if not Path(path).exists():
            raise UserError(f"evaluate.checkpoints: {path} does not exist: correct the path")
    try:
        paths = [str(stage_in(path)) for path in paths]
    except BridgeError as error:
        raise UserError(f"evaluate.checkpoints: {error}") from error

    def load(path: str) -> Network:
        loaded = read(path, config, "evaluate.checkpoints", architecture="any")
        try:
            return network_of(loaded, config)
        except UserError as error:
            raise UserError(f"evaluate.checkpoints: {path}: {error}") from error

    curves = _curves(paths)
    for path in paths:  # so that a mistake in the last one shows before the first is scored
        load(path)

    networks = {path: functools.partial(load, path) for path in paths}
    scores = score_networks(networks, config, data.tokenizer)
    split, run_dir = config.evaluate.split, Path(config.run_dir)
    with _new_name(run_dir, f"comparison-{split}") as name:
        pictured = run_dir / f"{name}{_CURVES}"
        drawn = write_curves(pictured, curves)
        document, plot = write_scores(run_dir, name, scores)
    print_table(score_table(scores, f"{split} split"))
    console.print(f"scores: {document}")
    console.print(f"plot: {plot}")
    if drawn:
        console.print(f"curves: {pictured}")


def _curves(paths: Sequence[str]) -> list[Curve]:
    """The runs that the checkpoints lie in, each once; what is in no run has no metrics.

    Raises:
        UserError: a run's config cannot be read.
    """
    places = [path if path.is_dir() else path.parent for path in map(Path, paths)]
    runs = [run for run in dict.fromkeys(places) if (run / CONFIG).is_file()]
    for run in runs:
        recorded_settings(run)
    return [Curve(str(run), run) for run in runs]


@contextlib.contextmanager
def _new_name(folder: Path, name: str) -> Iterator[str]:
    """A name whose files no other comparison has: NAME, or NAME-2 and so on.

    It is taken with an empty file, so that of two commands each gets another one.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            found = name if number == 1 else f"{name}-{number}"
            files = [folder / f"{found}{end}" for end in (".json", ".png", _CURVES)]
            if not any(map(os.path.lexists, files)):
                with contextlib.suppress(FileExistsError):  # another command was first
                    files[0].touch(exist_ok=False)
                    break
        try:
            yield found
        except BaseException:
            for file in files:
                file.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error


COMMAND = cli.Command(
    main,
    "Score checkpoints on text, code and mixed data.",
    everyday=(
        "data_dir",
        "run_dir",
        "base_model",
        "evaluate.checkpoints",
        "evaluate.split",
        "evaluate.batches",
        "training.batch_size",
        "training.sequence_length",
        "training.chunk_size",
        "training.precision",
    ),
)

if __name__ == "__main__":
    COMMAND.run()
