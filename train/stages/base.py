"""The base, a language model from scratch, and the control that trains it further."""

from flax import nnx

import bridge
from mmrec_jax import MMRecModel
from train.checkpoints.language_model import read, read_base
from train.settings.config import Config
from train.stages.stage import Stage, expect_class


class BaseStage(Stage):
    """The base: a language model from scratch, or from the weights of another one."""

    name = "base"
    checkpoint_name = "base_model"

    def start(self) -> MMRecModel:
        """A model with random values from the seed, or the one that training.start_from names."""
        source = self.config.training.start_from
        if source is None:
            return initial_model(self.config)
        loaded = read(bridge.stage_in(source, "base"), self.config, "training.start_from")
        return expect_class(MMRecModel, loaded.model)

    def resumed(self, loaded: bridge.LoadedCheckpoint) -> MMRecModel:
        """The checkpoint's model."""
        return expect_class(MMRecModel, loaded.model)


class ContinuedStage(BaseStage):
    """The control of a pipeline: the base, trained further on mixed data."""

    name = "continued"
    checkpoint_name = "continued_model"

    def start(self) -> MMRecModel:
        """The base."""
        return read_base(self.config)


def initial_model(config: Config) -> MMRecModel:
    """A base before its first step, with random values from the config's seed."""
    return MMRecModel(config.model, rngs=nnx.Rngs(config.seed))
