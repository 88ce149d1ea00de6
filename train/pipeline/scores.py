"""The scores of all stages of a pipeline, and which should be better than which."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from train.checkpoints.language_model import network_of, read, stage_folder
from train.data.prepared import PreparedData
from train.scoring.score import Score
from train.scoring.scoreboard import Scores, score_networks, write_scores
from train.settings.pipeline_config import PipelineConfig
from train.stages.fusion import FusionStage
from train.step.frozen import Network
from train.system.errors import UserError

MODEL_NAMES = {
    "base": "base",
    "continued": "continued base",
    "text": "text expert",
    "code": "code expert",
    "fusion": "fusion",
}
"""The name of each stage's model in the scores."""

_FUSION_START = "fusion at step 0"

PAIRS = {
    ("fusion", "continued base"): "what experts and fusion gain over simply training the base "
    "further, on as many tokens",
    ("fusion", "base"): "what the whole plan gains over its base",
    ("continued base", "base"): "what more tokens alone gain",
    ("text expert", "base"): "what training on text alone gains, and costs elsewhere",
    ("code expert", "base"): "what training on code alone gains, and costs elsewhere",
    ("fusion", _FUSION_START): "what training the fusion gains over the mean of both experts",
    ("fusion", "5-gram"): "how far the best stage is from counting",
}
"""Which models a report compares, and what their margin says."""


def meanings(pipeline: PipelineConfig) -> dict[str, str]:
    """What each model in the scores is, in a few words."""
    frozen = ", its embedding kept" if pipeline.expert.freeze_embedding else ""
    found = {
        "base": "the language model that all others begin with, trained on text and code",
        "continued base": "the control: the base, trained further on text and code, on as many "
        "tokens as both experts and the fusion together",
        "text expert": f"the base, trained further on text alone{frozen}",
        "code expert": f"the base, trained further on code alone{frozen}",
        "fusion": "both experts, and trained layers that join them",
        _FUSION_START: "the fusion before its training",
    }
    for domain in ("text", "code"):
        found[f"fusion, {domain} alone"] = f"the fusion with the {domain} expert running alone"
    return found


def evaluate(pipeline: PipelineConfig) -> Path:
    """Scores every stage, and the fusion before its first step; returns the JSON's path."""
    config = pipeline.stage("fusion")
    data = PreparedData(config, FusionStage.name)

    def load(stage: str) -> Network:
        return network_of(read(stage_folder(config, stage), config, "run_dir"), config)

    networks: dict[str, Callable[[], Network]] = {
        name: functools.partial(load, stage) for stage, name in MODEL_NAMES.items()
    }
    networks[_FUSION_START] = FusionStage(config).start
    scores = score_networks(networks, config, data.tokenizer, unrouted=[_FUSION_START])
    return write_scores(Path(config.run_dir), f"evaluation-{config.evaluate.split}", scores)[0]


def read_scores(run_dir: Path, split: str) -> Scores:
    """The scores that `evaluate` wrote.

    Raises:
        UserError: they are not there, or not readable.
    """
    path = run_dir / f"evaluation-{split}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            domain: {name: Score(**values) for name, values in of_domain.items()}
            for domain, of_domain in content["scores"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


class Claim(NamedTuple):
    """What training in stages should gain.

    Attributes:
        text: the claim as a sentence.
        denial: the sentence that is true where the claim is not.
        loss: nats per token of the model that should be the better one.
        other: what that loss should be below.
    """

    text: str
    denial: str
    loss: float
    other: float

    @property
    def holds(self) -> bool:
        """Whether the scores bear it out."""
        return self.loss < self.other

    @property
    def verdict(self) -> str:
        """What is true, with both losses."""
        said = self.text if self.holds else self.denial
        return f"{said}: {self.loss:.4f} against {self.other:.4f} nats per token"


def claims(scores: Mapping[str, Mapping[str, Score]]) -> list[Claim]:
    """What training in stages should gain, with the losses that show whether it does."""
    base, control, fusion = MODEL_NAMES["base"], MODEL_NAMES["continued"], MODEL_NAMES["fusion"]
    pairs = (
        ("text", MODEL_NAMES["text"], base),
        ("code", MODEL_NAMES["code"], base),
        ("mixed", fusion, base),
        ("mixed", fusion, control),
    )
    found = [
        Claim(
            f"{better} beats {other} on {domain}",
            f"{better} does not beat {other} on {domain}",
            scores[domain][better].loss,
            scores[domain][other].loss,
        )
        for domain, better, other in pairs
    ]
    expert, name = min((scores["mixed"][MODEL_NAMES[name]].loss, name) for name in ("text", "code"))
    better_one = f"0.02 above the {MODEL_NAMES[name]}, the better one on mixed"
    found.append(
        Claim(
            f"{_FUSION_START} is at most {better_one}",
            f"{_FUSION_START} is more than {better_one}",
            scores["mixed"][_FUSION_START].loss,
            expert + 0.02,
        )
    )
    return found
