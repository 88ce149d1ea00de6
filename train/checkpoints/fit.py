"""Whether a checkpoint fits a config: the model that it holds, and how it was trained."""

from collections.abc import Mapping
from typing import Any

import bridge
from mmrec_jax import ModelConfig
from train.settings.config import Config
from train.system.errors import UserError

_FREE = ("dropout", "lambda_P", "mem_dim")
"""Entries of a checkpoint's config that the weights do not depend on."""

IMPORT_AGAIN = "set the config so, or import the weights alone (--model-only, adapt)"
"""What to do where an import does not fit the config."""


def check_training(config: Config, checkpoint: bridge.LoadedCheckpoint) -> None:
    """Makes sure that an imported checkpoint was trained with the config's optimizer and schedule.

    Raises:
        UserError: it was not; lists all that differ.
    """
    optimizer = config.optimizer
    pairs: dict[str, tuple[Any, Any]] = {}
    if checkpoint.optimizer_state is not None:
        saved = checkpoint.optimizer_state.hyperparameters
        pairs |= {
            "optimizer.beta1": (saved["betas"][0], optimizer.beta1),
            "optimizer.beta2": (saved["betas"][1], optimizer.beta2),
            "optimizer.eps": (saved["eps"], optimizer.eps),
            "optimizer.weight_decay": (saved["weight_decay"], optimizer.weight_decay),
        }
    schedule = checkpoint.scheduler_state
    if schedule is not None:
        pairs |= {
            "optimizer.learning_rate": (schedule.base_lr, optimizer.learning_rate),
            "optimizer.warmup_steps": (schedule.warmup_steps, optimizer.warmup_steps),
            "training.steps": (schedule.total_steps, config.training.steps),
        }
    _refuse(pairs, "the checkpoint was trained with other settings", IMPORT_AGAIN)


def check_model(config: ModelConfig, model: bridge.Model, advice: str) -> None:
    """Makes sure that a checkpoint's model is built as the config says, in float32.

    Args:
        config: what the model must be.
        model: the checkpoint's.
        advice: what to do where they differ.

    Raises:
        UserError: it is not; lists all that differ.
    """
    model_class = bridge.class_name(model)
    found, wanted = (_described(model_class, each) for each in (model.config, config))
    names = dict.fromkeys([*wanted, *found])
    pairs = {f"model.{name}": (found.get(name), wanted.get(name)) for name in names}
    _refuse(pairs, "the checkpoint holds another model", advice)
    dtypes = {str(array.dtype) for array in bridge.variables(model).values()} - {"float32"}
    if dtypes:
        raise UserError(
            f"the checkpoint's weights are {', '.join(dtypes)}: training needs float32, so convert "
            "them in PyTorch (model.float()) and import that"
        )


def _described(model_class: str, config: ModelConfig) -> dict[str, Any]:
    described = bridge.in_full(model_class, config)
    return {name: value for name, value in described.items() if name not in _FREE}


def _refuse(pairs: Mapping[str, tuple[Any, Any]], reason: str, advice: str) -> None:
    different = [
        f"{key} is {found} in the checkpoint and {wanted} in the config"
        for key, (found, wanted) in pairs.items()
        if found != wanted
    ]
    if different:
        raise UserError(f"{reason}: {', '.join(different)}; {advice}")
