"""`python -m train.base --config C`: trains the base model, or resumes with `--resume`."""

from typing import Any

from train.settings import cli
from train.settings.config import Config
from train.stage_command import train_stage
from train.stages.base import BaseStage


def main(config: Config, **flags: Any) -> None:
    """Trains the base model and reports on it; see `train_stage` for flags and errors."""
    train_stage(config, BaseStage(config), **flags)


COMMAND = cli.Command(main, "Train the base model on prepared data.", cli.add_run_flags)

if __name__ == "__main__":
    COMMAND.run()
