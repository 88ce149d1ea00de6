"""The model card of an export: what its models are, and how they were made, scored and loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bridge import MANIFEST, describe_files, file_digest
from train.checkpoints.language_model import stage_folder
from train.pipeline.samples import read_samples
from train.pipeline.scores import MODEL_NAMES, claims, meanings, read_scores
from train.reports.curves import tokens_of_run
from train.reports.templates import template
from train.run.recorded import recorded_parts
from train.scoring.scoreboard import Scores
from train.settings.pipeline_config import PipelineConfig
from train.system.write import write_text

CARD = "README.md"


def write_card(
    pipeline: PipelineConfig, folder: Path, kinds: Mapping[str, tuple[str, str]]
) -> None:
    """Writes README.md beside exported files, in the form of Hugging Face's model cards.

    Args:
        pipeline: what was run; its scores and samples are there.
        folder: the folder with the files.
        kinds: for each stage, the name of its file and the class of its model.

    Raises:
        UserError: what is recorded of the run cannot be read.
        OSError: the card cannot be written, or the data's manifest not be read.
    """
    split, run_dir = pipeline.evaluate.split, Path(pipeline.run_dir)
    scores, sampled = read_scores(run_dir, split), read_samples(pipeline.run_dir)
    manifest = Path(pipeline.data_dir) / MANIFEST
    data = json.loads(manifest.read_text(encoding="utf-8"))
    runs = {stage: stage_folder(pipeline.stage(stage), stage) for stage in kinds}
    tokens = {stage: tokens_of_run(run) for stage, run in runs.items()}
    said = meanings(pipeline)
    models = [
        {
            "name": MODEL_NAMES[stage],
            "file": file,
            "kind": kind,
            "meaning": said[MODEL_NAMES[stage]],
            "parameters": sum(sampled[stage].parameters.values()),
            "settings": _settings(pipeline, stage, tokens[stage]),
        }
        for stage, (file, kind) in kinds.items()
    ]
    newest = recorded_parts(runs["fusion"])[-1]
    content = {
        "front_matter": _front_matter(scores, split, kinds),
        "title": run_dir.name,
        "models": models,
        "vocab_size": data["vocab_size"],
        "counts": {
            f"{domain}, {part}": data["counts"][domain][part]
            for domain in ("text", "code")
            for part in ("train", "validation", "test")
        },
        "prepare": data["prepare"],
        "settings": list(_settings(pipeline, "base", 0)),
        "split": split,
        "scores": scores,
        "verdicts": [claim.verdict for claim in claims(scores)],
        "most_tokens": sum(tokens.values()) - tokens["continued"],
        "sequence_length": pipeline.stages.base.training.sequence_length,
        "chunk_size": pipeline.stages.base.training.chunk_size,
        "fusion_method": pipeline.model.fusion_method,
        "files": describe_files(folder),
        "data_digest": file_digest(manifest),
        "versions": ", ".join(
            [f"Python {newest['python']}", *map(" ".join, newest["packages"].items())]
        ),
    }
    card = template(Path(__file__).with_name("model_card.md"), html=False)
    write_text(folder / CARD, card.render(content) + "\n")


def _settings(pipeline: PipelineConfig, stage: str, tokens: int) -> dict[str, str]:
    config = pipeline.stage(stage)
    training, optimizer = config.training, config.optimizer
    return {
        "documents": training.domain,
        "steps": f"{training.steps:,}",
        "tokens": f"{tokens:,}",
        "peak learning rate": f"{optimizer.learning_rate:g}",
        "weight decay": f"{optimizer.weight_decay:g}",
        "warm-up steps": f"{optimizer.warmup_steps:,}",
        "precision": training.precision,
    }


def _front_matter(scores: Scores, split: str, kinds: Mapping[str, tuple[str, str]]) -> str:
    """What Hugging Face's hub reads of a card, in YAML; a licence is not stated."""
    index: list[dict[str, Any]] = []
    for stage, (file, _) in kinds.items():
        results = [
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": f"{domain} documents", "type": "local", "split": split},
                "metrics": [
                    {"type": "cross_entropy", "name": "nats per token", "value": score.loss},
                    {
                        "type": "bits_per_byte",
                        "name": "bits per byte",
                        "value": score.bits_per_byte,
                    },
                ],
            }
            for domain, of_domain in scores.items()
            for score in [of_domain[MODEL_NAMES[stage]]]
        ]
        index.append({"name": file.partition(".")[0], "results": results})
    matter = {
        "library_name": "mmrec-jax",
        "pipeline_tag": "text-generation",
        "tags": ["mm-rec", "recurrent", "jax", "pytorch", "safetensors"],
        "model-index": index,
    }
    return yaml.safe_dump(matter, sort_keys=False)
