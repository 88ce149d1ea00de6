"""`python -m train.fusion --config C`: joins both experts and trains the parts that join them."""

from typing import Any

from train.settings import cli
from train.settings.command_help import EVERYDAY
from train.settings.config import Config
from train.stage_command import train_stage
from train.stages.fusion import FusionStage


def main(config: Config, **flags: Any) -> None:
    """Trains the fusion layer and reports on it; see `train_stage` for flags and errors."""
    train_stage(config, FusionStage(config), **flags)


COMMAND = cli.Command(
    main,
    "Train the fusion of a text and a code expert.",
    cli.add_run_flags,
    everyday=(*EVERYDAY, "fusion.text_expert", "fusion.code_expert", "model.fusion_method"),
)

if __name__ == "__main__":
    COMMAND.run()
