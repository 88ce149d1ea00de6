"""What the models of all stages write, and how large they are, for the report and the card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bridge import class_name, parameter_counts
from train.checkpoints.language_model import stage_folder
from train.generation.samples import samples_of
from train.generation.speaker import load_speaker
from train.pipeline.scores import MODEL_NAMES
from train.settings.pipeline_config import PipelineConfig
from train.system.errors import UserError
from train.system.terminal import console
from train.system.write import write_json

SAMPLES = "samples.json"


class StageModel(NamedTuple):
    """A stage's model: its numbers of parameters by part, and what it adds to each prompt."""

    parameters: Mapping[str, int]
    samples: Mapping[str, str]


def sample(pipeline: PipelineConfig) -> Path:
    """Lets the models of all stages continue the prompts; returns the path of samples.json.

    Raises:
        UserError: a model cannot be read, or the file not be written.
    """
    path, found = Path(pipeline.run_dir) / SAMPLES, {}
    for stage, name in MODEL_NAMES.items():
        console.print(f"sampling {name}")
        config = pipeline.stage(stage)
        network, tokenizer, _ = load_speaker(stage_folder(config, stage))
        samples = samples_of(network, tokenizer, pipeline.prompts, config)
        parameters = parameter_counts(class_name(network), network.config)
        found[stage] = StageModel(parameters, samples)._asdict()
    try:
        write_json(path, found)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def read_samples(run_dir: str) -> dict[str, StageModel]:
    """What `sample` wrote, by stage; raises UserError if it is not there, or not readable."""
    path = Path(run_dir) / SAMPLES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {stage: StageModel(**content[stage]) for stage in MODEL_NAMES}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
