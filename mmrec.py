"""MM-Rec from Python: `lm = mmrec.load("runs/demo")`, then `lm.generate("text")`.

`lm.score(text)` says how well the model predicts a text, and `lm.trace(text)` what it computes
inside. `mmrec.train(mmrec.config("my.yaml"))` trains one. `mmrec.UserError` says what is wrong.
"""

import json
from pathlib import Path
from typing import Any

from train.checkpoints.language_model import stage_folder
from train.settings.cli import parse_config
from train.settings.config import Config
from train.stage_command import train_stage
from train.stages.all_stages import STAGES
from train.system.errors import UserError
from train.trained_model import TextScore, TextTrace, TrainedModel, load

__all__ = [
    "Config",
    "TextScore",
    "TextTrace",
    "TrainedModel",
    "UserError",
    "config",
    "load",
    "train",
]


def config(path: str | Path, settings: dict[str, Any] | None = None) -> Config:
    """Reads the config of one stage.

    Args:
        path: a YAML file.
        settings: what overrides it, by dotted key, such as {"training.steps": 100}.

    Raises:
        UserError: the file, a key or a value is wrong.
    """
    options = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (settings or {}).items()
    ]
    return parse_config(["--config", str(path), *options], "")


def train(
    config: Config, stage: str = "base", *, resume: bool = False, overwrite: bool = False
) -> TrainedModel:
    """Trains a stage as `python -m train.base` does, and reads what it saved last.

    Args:
        config: see `config`.
        stage: "base", "text", "code", "fusion" or "continued".
        resume: goes on with the run in the stage's folder.
        overwrite: deletes that run first.

    Raises:
        UserError: a setting is wrong, there is such a run already, or training fails.
        KeyboardInterrupt: interrupted; the state is saved, and `resume` goes on.
    """
    if stage not in STAGES:
        raise UserError(f"stage: expected one of {', '.join(STAGES)}, not {stage}")
    train_stage(config, STAGES[stage](config), resume=resume, overwrite=overwrite)
    return load(stage_folder(config, stage))
