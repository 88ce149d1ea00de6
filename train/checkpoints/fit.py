"""Checks that a checkpoint fits a config: its model, and how it was trained."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

import bridge
from mmrec_jax import ModelConfig
from mmrec_jax.layer_paths import AnyArray, VariablePath
from train.settings.config import Config
from train.system.errors import UserError

_FREE = ("dropout", "lambda_P", "mem_dim")
"""Entries in a checkpoint's config that do not affect the weights."""

_NAMED = 5
"""The most arrays that an error names."""

IMPORT_AGAIN = "set the config so, or import the weights alone (--model-only, adapt)"
"""What to do where an import does not fit the config."""


def check_training(
    config: Config,
    checkpoint: bridge.LoadedCheckpoint,
    free: Collection[str] = (),
    advice: str = IMPORT_AGAIN,
) -> None:
    """Makes sure that a checkpoint was trained with the config's optimizer and schedule.

    Args:
        config: the config.
        checkpoint: an import, or a run's own.
        free: the settings that may be others.
        advice: what to do where others differ.

    Raises:
        UserError: it was not; the message lists all differences.
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
            "optimizer.min_learning_rate": (schedule.min_lr, optimizer.min_learning_rate),
            "optimizer.warmup_steps": (schedule.warmup_steps, optimizer.warmup_steps),
            "training.steps": (schedule.ends_at(checkpoint.step), config.training.steps),
        }
        if schedule.warmup_steps:
            pairs["optimizer.warmup_start"] = (schedule.start_factor, optimizer.warmup_start)
    pairs = {key: both for key, both in pairs.items() if key not in free}
    _refuse(pairs, "the checkpoint was trained with other settings", advice)


def check_model(config: ModelConfig, model: bridge.Model, advice: str) -> None:
    """Makes sure that a checkpoint's model is built as the config says, in float32.

    Args:
        config: what the model must be.
        model: the checkpoint's.
        advice: what to do where they differ.

    Raises:
        UserError: it is not; the message lists all differences.
    """
    model_class = bridge.class_name(model)
    found, wanted = (_described(model_class, each) for each in (model.config, config))
    names = dict.fromkeys([*wanted, *found])
    pairs = {f"model.{name}": (found.get(name), wanted.get(name)) for name in names}
    _refuse(pairs, "the checkpoint holds another model", advice)
    obstacle = bridge.dtype_obstacle(model)
    if obstacle:
        raise UserError(f"the checkpoint cannot be trained: {obstacle}")


def arrays_of(checkpoint: bridge.LoadedCheckpoint) -> dict[str, Mapping[VariablePath, AnyArray]]:
    """Weights and, if there are any, moments by path, under what an error says before the path."""
    found: dict[str, Mapping[VariablePath, AnyArray]] = {"": bridge.variables(checkpoint.model)}
    if (moments := checkpoint.optimizer_state) is not None:
        found |= {"exp_avg of ": moments.exp_avg, "exp_avg_sq of ": moments.exp_avg_sq}
    return found


def check_finite(checkpoint: bridge.LoadedCheckpoint) -> None:
    """Makes sure that training can start from a checkpoint's values.

    Raises:
        UserError: weights or moments are NaN or infinite, or second moments negative; says which.
    """
    wrong = []
    for what, arrays in arrays_of(checkpoint).items():
        for path, array in arrays.items():
            values = np.asarray(array)
            least = 0 if what == "exp_avg_sq of " else -np.inf
            count = values.size - np.count_nonzero(np.isfinite(values) & (values >= least))
            if count:
                name = ".".join(map(str, path))
                wrong.append(f"{what}{name} ({count} of {values.size} values)")
    if wrong:
        raise UserError(
            "NaN, infinite or negative where that cannot be: "
            f"{bridge.listed(wrong, shown=_NAMED)}; "
            "take an older state or file"
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
