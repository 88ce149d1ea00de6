"""MM-Rec from Python: `lm = mmrec.load("runs/demo")`, then `lm.generate("text")`.

`lm.score(text)` says how well the model predicts a text, and `lm.trace(text)` what it computes
inside; both can be drawn with `.plot()`. `config = mmrec.config("my.yaml")` reads settings,
`mmrec.prepare(config)` prepares the data and `mmrec.train(config)` trains a model.
`mmrec.UserError` says what is wrong.
"""

import dataclasses
import json
import re
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from train.checkpoints.language_model import stage_folder
from train.settings.cli import parse_command, parse_config
from train.settings.config import Config
from train.settings.pipeline_config import PipelineConfig
from train.stage_command import train_stage
from train.stages.all_stages import STAGES
from train.system.errors import UserError
from train.text_results import TextScore, TextTrace
from train.trained_model import TrainedModel, load

__version__ = metadata.version("mmrec-jax")

__all__ = [
    "Config",
    "TextScore",
    "TextTrace",
    "TrainedModel",
    "UserError",
    "config",
    "load",
    "prepare",
    "train",
]


def config(
    path: str | Path, settings: dict[str, Any] | None = None, *, stage: str | None = None
) -> Config:
    """Reads the config of one stage.

    Args:
        path: a YAML file, or the name of one of the project's, such as "demo".
        settings: what overrides it, by dotted key, such as {"training.steps": 100}.
        stage: the stage to take out of a pipeline's config; None reads the config of one stage.

    Raises:
        UserError: the file, a key or a value is wrong.
    """
    options = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (settings or {}).items()
    ]
    if stage is None:
        return parse_config(["--config", str(path), *options], "")
    _check_stage(stage)
    whole, _ = parse_command(["--config", str(path)], "", PipelineConfig)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stage.yaml"
        file.write_text(yaml.safe_dump(dataclasses.asdict(whole.stage(stage))), encoding="utf-8")
        try:
            return parse_config(["--config", str(file), *options], "")
        except UserError as error:
            place = rf"{re.escape(str(file))}( line \d+)?"
            raise UserError(re.sub(place, f"{path}, stage {stage}", str(error))) from error


def prepare(config: Config) -> None:
    """Prepares the data that `train` reads, as `python -m train.prepare` does.

    Raises:
        UserError: the sources or a setting is wrong, or data_dir has something else in it.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    _check_config(config)
    # Imported here because it takes a second, and most who import mmrec prepare no data.
    from train.preparation import prepare_data

    prepare_data.prepare(config, strict=False, dry_run=False)


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
    _check_stage(stage)
    _check_config(config)
    train_stage(config, STAGES[stage](config), resume=resume, overwrite=overwrite)
    return load(stage_folder(config, stage))


def _check_config(config: Config) -> None:
    if not isinstance(config, Config):
        raise UserError(f"config: expected a config, as mmrec.config gives it, not {config!r:.60}")


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise UserError(f"stage: expected one of {', '.join(STAGES)}, not {stage}")
