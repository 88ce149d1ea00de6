"""The stages of training by name."""

from train.stages.base import BaseStage, ContinuedStage
from train.stages.expert import ExpertStage
from train.stages.fusion import FusionStage
from train.stages.stage import Stage

STAGES: dict[str, type[Stage]] = {
    "base": BaseStage,
    "text": ExpertStage,
    "code": ExpertStage,
    "fusion": FusionStage,
    "continued": ContinuedStage,
}
"""The stages of a pipeline by name, in the order in which it trains them."""
