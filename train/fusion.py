"""`python -m train.fusion --config C`: joins both experts and trains the parts that join them."""

from typing import Any

from train.settings import cli
from train.settings.config import Config
from train.stage_command import train_stage
from train.stages.fusion import FusionStage


def main(config: Config, **flags: Any) -> None:
    """Trains the fusion layer and reports on it; see `train_stage` for flags and errors."""
    train_stage(config, FusionStage(config), **flags)


if __name__ == "__main__":
    cli.run(main, "Train the fusion of a text and a code expert.", cli.add_run_flags)
