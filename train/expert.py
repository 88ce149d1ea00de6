"""`python -m train.expert --config C`: trains an expert, starting from the base."""

from typing import Any

from train.checkpoints.language_model import stage_folder
from train.run.recorded import recorded_settings
from train.settings import cli
from train.settings.command_help import EVERYDAY
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.stage_command import train_stage
from train.stages.expert import ExpertStage
from train.system.terminal import console


def main(config: Config, **flags: Any) -> None:
    """Trains the expert of training.domain and reports on it; see `train_stage` for the rest."""
    stage = ExpertStage(config)
    warn_of_other_depth(config)
    train_stage(config, stage, **flags)


def warn_of_other_depth(config: Config) -> None:
    """Says before the training that the other expert of the run could not be joined with this."""
    other = "code" if config.training.domain == "text" else "text"
    folder = stage_folder(config, other)
    if (folder / CONFIG).is_file():
        theirs, ours = recorded_settings(folder).get("model.num_layers"), config.model.num_layers
        if theirs not in (None, ours):
            console.print(
                f"warning: model.num_layers is {ours} here and {theirs} in {folder}: train.fusion "
                "joins only experts of equal depth"
            )


COMMAND = cli.Command(
    main,
    "Train an expert, starting from the base model.",
    cli.add_run_flags,
    everyday=(*EVERYDAY, "training.domain", "base_model", "expert.freeze_blocks"),
    check=ExpertStage,
)

if __name__ == "__main__":
    COMMAND.run()
