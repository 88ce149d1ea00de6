"""`python -m train.evaluate --config C`: scores checkpoints of any stage side by side."""

import functools
from pathlib import Path

from bridge import steps
from train.checkpoints.language_model import network_of, read, stage_folder
from train.data.prepared import PreparedData
from train.run.run_folder import check_run_dir, check_writable
from train.scoring.scoreboard import score_networks, score_table, write_scores
from train.settings import cli
from train.settings.config import Config
from train.stages.all_stages import STAGES
from train.step.frozen import Network
from train.system.errors import UserError
from train.system.terminal import console, print_table


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

    def load(path: str) -> Network:
        loaded = read(path, config, "evaluate.checkpoints", architecture="any")
        try:
            return network_of(loaded, config)
        except UserError as error:
            raise UserError(f"evaluate.checkpoints: {path}: {error}") from error

    for path in paths:  # so that a mistake in the last one shows before the first is scored
        load(path)

    networks = {path: functools.partial(load, path) for path in paths}
    scores = score_networks(networks, config, data.tokenizer)
    split = config.evaluate.split
    document, plot = write_scores(Path(config.run_dir), f"comparison-{split}", scores)
    print_table(score_table(scores, f"{split} split"))
    console.print(f"scores: {document}")
    console.print(f"plot: {plot}")


if __name__ == "__main__":
    cli.run(main, "Score checkpoints on text, code and mixed data.")
