"""The .pt file as a whole (docs/model.md section 6.1)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from bridge import model_config, torch_file, weights
from bridge.errors import BridgeError, FormatError, about
from bridge.keys import Model, entries
from bridge.optimizer import OptimizerState, optimizer_from_torch, optimizer_to_torch
from bridge.schedule import SchedulerState, scheduler_from_torch, scheduler_to_torch
from bridge.torch_file import PathLike
from mmrec_jax import ModelConfig

_RATE_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """What a .pt file holds.

    Attributes:
        model: the model, its arrays of the file's dtypes.
        config: the model's.
        optimizer_state: None if the file has none.
        scheduler_state: None if the file has none.
        step: optimizer steps made; 0 if the file does not say.
        avg_loss: the loss that the file states, 0 if it states none.
        metadata: the file's own, unchanged; give it to `save_torch` to keep it.
    """

    model: Model
    config: ModelConfig
    optimizer_state: OptimizerState | None
    scheduler_state: SchedulerState | None
    step: int
    avg_loss: float
    metadata: dict[str, Any]


def load_torch(path: PathLike, *, num_heads: int | None = None) -> LoadedCheckpoint:
    """Reads a checkpoint of any of the models, training state included, bit for bit.

    The config is the file's own where it has one, and is inferred from names and shapes where
    it has not. Keys may be prefixed by what DataParallel and torch.compile put before them, and
    the file may be a bare state dict.

    Args:
        path: the .pt file.
        num_heads: the heads of the attention, which no shape shows; needed only if the file does
            not state them.

    Raises:
        BridgeError: the file cannot be read, is unsafe, or does not hold exactly a model's
            tensors; the message is one line that begins with the path.

    Warns:
        NonFiniteWarning: some weights are NaN or infinite.
    """
    with about(path):
        checkpoint = torch_file.read(path)
        if not isinstance(checkpoint, Mapping):
            raise FormatError(f"holds a {type(checkpoint).__name__}, not a checkpoint")
        checkpoint = _with_model_state(dict(checkpoint))
        tensors, duplicates = weights.unwrapped(checkpoint.pop("model_state_dict"))
        shapes = weights.shapes_of(tensors)
        model_class, stated = model_config.find(checkpoint)
        model_class = model_class or model_config.infer_class(shapes)
        config = model_config.resolve(model_class, stated, shapes, num_heads)
        table = entries(model_class, config)
        optimizer = checkpoint.get("optimizer_state_dict")
        scheduler = checkpoint.get("scheduler_state_dict")
        return LoadedCheckpoint(
            model=weights.model_from_tensors(model_class, config, tensors, duplicates=duplicates),
            config=config,
            optimizer_state=None if optimizer is None else optimizer_from_torch(optimizer, table),
            scheduler_state=None if scheduler is None else scheduler_from_torch(scheduler),
            step=_number(checkpoint, "step", int),
            avg_loss=_number(checkpoint, "avg_loss" if "avg_loss" in checkpoint else "loss", float),
            metadata=dict(checkpoint.get("metadata") or {}),
        )


def save_torch(
    path: PathLike,
    model: Model,
    *,
    optimizer_state: OptimizerState | None = None,
    scheduler_state: SchedulerState | None = None,
    step: int = 0,
    avg_loss: float = 0.0,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint that the original reads and `load_torch` needs nothing else for.

    The path holds either what it held before or the whole new file.

    Args:
        path: where to; the folder must exist.
        model: with its blocks in either form, a list or stacked.
        optimizer_state: AdamW's; its lr must be the schedule's if both are given.
        scheduler_state: the schedule's.
        step: optimizer steps made.
        avg_loss: the loss to state.
        metadata: kept in the file, made of plain data, its model_class and config overwritten
            by the model's own; keys of a config that are not the model's are kept.

    Raises:
        BridgeError: the file cannot be written, or the training state is not the model's.
        TypeError: the model is none of ours.
    """
    model_class = weights.class_name(model)
    with about(path):
        if optimizer_state is not None and scheduler_state is not None:
            _check_rate(optimizer_state, scheduler_state)
        given = torch_file.plain(dict(metadata or {}), "metadata")
        stated = given.get("config")
        stated = stated if isinstance(stated, dict) else {}
        config = model_config.to_checkpoint(model_class, model.config, stated)
        optimizer = scheduler = None
        if optimizer_state is not None:
            table = entries(model_class, model.config)
            optimizer = optimizer_to_torch(optimizer_state, table)
        if scheduler_state is not None:
            scheduler = scheduler_to_torch(scheduler_state)
        checkpoint = {
            "model_state_dict": weights.state_dict(model),
            "optimizer_state_dict": optimizer,
            "scheduler_state_dict": scheduler,
            "step": int(step),
            "avg_loss": float(avg_loss),
            "metadata": {**given, "model_class": model_class, "config": config},
        }
        torch_file.write(path, checkpoint)


def _with_model_state(checkpoint: dict[Any, Any]) -> dict[Any, Any]:
    if "model_state_dict" in checkpoint:
        if not isinstance(checkpoint["model_state_dict"], Mapping):
            raise FormatError("model_state_dict is not a dictionary of tensors")
        if not isinstance(checkpoint.get("metadata") or {}, Mapping):
            raise FormatError("metadata is not a dictionary")
        return checkpoint
    if checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        return {"model_state_dict": checkpoint}
    raise FormatError("holds neither a model_state_dict nor the tensors of one")


def _number(checkpoint: Mapping[str, Any], key: str, kind: type) -> Any:
    value = checkpoint.get(key)
    if value is None:
        return kind(0)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if type(value) is int or (type(value) is float and (kind is float or value.is_integer())):
        return kind(value)
    raise FormatError(f"{key} is {value!r}, not {'a whole' if kind is int else 'a'} number")


def _check_rate(optimizer: OptimizerState, scheduler: SchedulerState) -> None:
    rate, wanted = optimizer.hyperparameters.get("lr"), scheduler.learning_rate()
    if rate is None or not abs(rate - wanted) <= _RATE_TOLERANCE * scheduler.base_lr:
        raise BridgeError(
            f"the optimizer's lr is {rate}, but its schedule's after {scheduler.step} steps is "
            f"{wanted}: PyTorch would go on from the wrong rate"
        )
