"""What a stage of training is: where it starts, what it trains, what it saves."""

import abc
from typing import Any, TypeVar

import bridge
from mmrec_jax import ExpertModule, MMRec100M, MMRecModel
from train.settings.config import Config
from train.step.frozen import Frozen, Network
from train.system.errors import UserError

Class = TypeVar("Class")

_TRAINED_BY: dict[type, str] = {
    MMRecModel: "python -m train.base",
    ExpertModule: "python -m train.expert",
    MMRec100M: "python -m train.fusion",
}


class Stage(abc.ABC):
    """A stage of training.

    Attributes:
        name: its folder in run_dir is `checkpoints_NAME`.
        model_class: the class of the model that it trains, as in MODEL_CLASSES of the bridge.
        checkpoint_name: its .pt files are called `CHECKPOINT_NAME_step_N.pt`.
        sections: the sections of the config that it reads and other stages do not.
        frozen: the parts that it does not train.
    """

    name: str
    model_class: str = "MMRecModel"
    checkpoint_name: str
    sections: tuple[str, ...] = ()
    frozen: Frozen = Frozen()

    def __init__(self, config: Config) -> None:
        """Raises UserError if the config does not fit this stage."""
        self.config = config

    def file(self, step: int) -> str:
        """The name of the .pt file after `step` steps."""
        return f"{self.checkpoint_name}_step_{step}.pt"

    @abc.abstractmethod
    def start(self) -> Network:
        """The model before the first step, its blocks a list."""

    @abc.abstractmethod
    def resumed(self, loaded: bridge.LoadedCheckpoint) -> Network:
        """The model to train, from a checkpoint of this stage."""

    def saved(self, network: bridge.Model) -> bridge.Model:
        """The model that this stage's checkpoints hold."""
        return network

    def notes(self, network: Network) -> dict[str, Any]:
        """What to add to the metadata of its checkpoints."""
        return {}


def expect_class(kind: type[Class], model: object) -> Class:
    """The model, if it has this class.

    Raises:
        UserError: it has another class.
    """
    if not isinstance(model, kind):
        command = _TRAINED_BY.get(type(model))
        hint = f": {command} trains that" if command else ""
        raise UserError(
            f"the checkpoint holds the class {type(model).__name__}, not {kind.__name__}{hint}"
        )
    return model
