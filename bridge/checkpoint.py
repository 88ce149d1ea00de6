"""A checkpoint as a whole (docs/model.md section 6.1), from and to .pt and .safetensors files.

Both kinds of file hold the same content, plain data and tensors by the original's names; what is in
it is understood and checked here, once.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from bridge import model_config, weights
from bridge.errors import BridgeError, FormatError, about
from bridge.files import safetensors_file, torch_file
from bridge.files.disk import PathLike
from bridge.files.plain_data import plain, shown
from bridge.files.tensors import Tensor
from bridge.keys import Model, entries
from bridge.optimizer import OptimizerState, optimizer_from_torch, optimizer_to_torch
from bridge.schedule import SchedulerState, scheduler_from_torch, scheduler_to_torch
from mmrec_jax import ModelConfig

_RATE_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """What a checkpoint holds.

    Attributes:
        model: the model, its arrays of the file's dtypes.
        optimizer_state: None if the file has none.
        scheduler_state: None if the file has none.
        step: optimizer steps made; 0 if the file does not say.
        avg_loss: the loss that the file states, 0 if it states none.
        metadata: the file's own, unchanged; give it to `save_torch` to keep it.
    """

    model: Model
    optimizer_state: OptimizerState | None = None
    scheduler_state: SchedulerState | None = None
    step: int = 0
    avg_loss: float = 0.0
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    def training_state(self) -> dict[str, Any]:
        """Everything but the model, as the arguments of `save_torch` and its like."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "model"
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """What a file states, its tensors unread and nothing compared with a model yet.

    Attributes:
        stated_class: what metadata.model_class says, None if nothing.
        stated: the config as far as the file states it.
        tensors: the model's, by the original's names.
        duplicates: names that more than one tensor has.
        optimizer: the optimizer's state dict, None if there is none.
        scheduler: the schedule's, likewise.
        step, avg_loss, metadata: as in LoadedCheckpoint.
    """

    stated_class: Any
    stated: dict[str, Any]
    tensors: dict[str, Tensor]
    duplicates: list[str]
    optimizer: Any
    scheduler: Any
    step: int
    avg_loss: float
    metadata: dict[str, Any]

    @property
    def model_class(self) -> str:
        """The model's, stated or inferred from the tensors' names.

        Raises:
            ConfigError: the stated one is none of ours, or no model has these names.
        """
        if self.stated_class is not None:
            return model_config.known_class(self.stated_class)
        return model_config.infer_class(weights.shapes_of(self.tensors))

    def config(self, num_heads: int | None = None) -> ModelConfig:
        """The model's: what is stated, then what the shapes show, then the defaults.

        Args:
            num_heads: see `load_torch`.

        Raises:
            ConfigError: no model has these values, or one is missing.
        """
        shapes = weights.shapes_of(self.tensors)
        return model_config.resolve(self.model_class, self.stated, shapes, num_heads)


def load_torch(
    path: PathLike, *, num_heads: int | None = None, model_only: bool = False
) -> LoadedCheckpoint:
    """Reads a .pt file of any of the models, training state included, bit for bit.

    The config is the file's own where it has one, and is inferred from names and shapes where
    it has not. Keys may be prefixed by what DataParallel and torch.compile put before them, and
    the file may be a bare state dict.

    Args:
        path: the .pt file.
        num_heads: the heads of the attention, which no shape shows; needed only if the file does
            not state them.
        model_only: leave optimizer and schedule alone, whatever they are; the step is 0 then.

    Raises:
        BridgeError: the file cannot be read, is unsafe, or does not hold exactly a model's
            tensors; the message is one line that begins with the path.

    Warns:
        NonFiniteWarning: some weights are NaN or infinite.
    """
    with about(path), torch_file.reading(path) as content:
        return _loaded(_stored(content), num_heads, model_only)


def load_safetensors(
    path: PathLike, *, num_heads: int | None = None, model_only: bool = False
) -> LoadedCheckpoint:
    """Reads a .safetensors file: one of ours, or the bare tensors of a model; see `load_torch`."""
    with about(path), safetensors_file.reading(path) as content:
        return _loaded(_stored(content), num_heads, model_only)


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
    """Writes a .pt file that the original reads and `load_torch` needs nothing else for.

    The path holds either what it held before or the whole new file. Equal checkpoints make equal
    files.

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
    parts = (optimizer_state, scheduler_state, step, avg_loss, metadata)
    with about(path):
        torch_file.write(path, _content(model, *parts))


def save_safetensors(
    path: PathLike,
    model: Model,
    *,
    optimizer_state: OptimizerState | None = None,
    scheduler_state: SchedulerState | None = None,
    step: int = 0,
    avg_loss: float = 0.0,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a .safetensors file; see `save_torch`.

    The model's tensors have the original's names. Without training state there are no others, so
    that any program that reads the format has just the model.
    """
    parts = (optimizer_state, scheduler_state, step, avg_loss, metadata)
    with about(path):
        safetensors_file.write(path, _content(model, *parts))


@contextlib.contextmanager
def stored(path: PathLike) -> Iterator[StoredCheckpoint]:
    """What a .pt or .safetensors file states; its tensors are readable until the block ends.

    Raises:
        BridgeError: as for `load_torch`.
    """
    container = safetensors_file if is_safetensors(path) else torch_file
    with about(path), container.reading(path) as content:
        yield _stored(content)


def as_stored(loaded: LoadedCheckpoint) -> StoredCheckpoint:
    """What a file of a loaded checkpoint would state."""
    return _stored(_content(loaded.model, **loaded.training_state()))


def is_safetensors(path: PathLike) -> bool:
    """Whether a file's name says that it is a .safetensors file."""
    return str(path).endswith(".safetensors")


def stated_by(model: Model, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metadata of a checkpoint: what is given, and the model's own class and config.

    Raises:
        FormatError: something in it is not plain data.
        TypeError: the model is none of ours.
    """
    model_class = weights.class_name(model)
    given = plain(dict(metadata or {}), "metadata")
    stated = given.get("config")
    stated = stated if isinstance(stated, dict) else {}
    config = model_config.to_checkpoint(model_class, model.config, stated)
    return {**given, "model_class": model_class, "config": config}


def _content(
    model: Model,
    optimizer_state: OptimizerState | None,
    scheduler_state: SchedulerState | None,
    step: int,
    avg_loss: float,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    described = stated_by(model, metadata)
    check_rate(optimizer_state, scheduler_state)
    optimizer = scheduler = None
    if optimizer_state is not None:
        table = entries(weights.class_name(model), model.config)
        optimizer = optimizer_to_torch(optimizer_state, table)
    if scheduler_state is not None:
        scheduler = scheduler_to_torch(scheduler_state)
    return {
        "model_state_dict": weights.tensors_of(model),
        "optimizer_state_dict": optimizer,
        "scheduler_state_dict": scheduler,
        "step": int(step),
        "avg_loss": float(avg_loss),
        "metadata": described,
    }


def _stored(content: Any) -> StoredCheckpoint:
    if not isinstance(content, Mapping):
        raise FormatError(f"holds a {type(content).__name__}, not a checkpoint")
    content = _with_model_state(content)
    tensors, duplicates = weights.unwrapped(content["model_state_dict"])
    stated_class, stated = model_config.find(content)
    return StoredCheckpoint(
        stated_class=stated_class,
        stated=stated,
        tensors=tensors,
        duplicates=duplicates,
        optimizer=content.get("optimizer_state_dict"),
        scheduler=content.get("scheduler_state_dict"),
        step=_step(content),
        avg_loss=_number(content, "loss" if content.get("avg_loss") is None else "avg_loss", float),
        metadata=plain(dict(content.get("metadata") or {}), "metadata"),
    )


def _loaded(stored: StoredCheckpoint, num_heads: int | None, model_only: bool) -> LoadedCheckpoint:
    config = stored.config(num_heads)
    table = entries(stored.model_class, config)
    optimizer, scheduler = stored.optimizer, stored.scheduler
    if model_only:
        optimizer = scheduler = None
    model = weights.model_from_tensors(
        stored.model_class, config, stored.tensors, duplicates=stored.duplicates
    )
    optimizer_state = None if optimizer is None else optimizer_from_torch(optimizer, table)
    scheduler_state = None if scheduler is None else scheduler_from_torch(scheduler)
    check_rate(optimizer_state, scheduler_state)
    return LoadedCheckpoint(
        model=model,
        optimizer_state=optimizer_state,
        scheduler_state=scheduler_state,
        step=0 if model_only else stored.step,
        avg_loss=stored.avg_loss,
        metadata=stored.metadata,
    )


def _with_model_state(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    if "model_state_dict" in content:
        if not isinstance(content["model_state_dict"], Mapping):
            raise FormatError("model_state_dict is not a dictionary of tensors")
        if not isinstance(content.get("metadata") or {}, Mapping):
            raise FormatError("metadata is not a dictionary")
        return content
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return {"model_state_dict": content}
    keys = ", ".join(shown(str(key)) for key in list(content)[:8]) or "nothing"
    raise FormatError(
        f"holds neither a model_state_dict nor the tensors of one, but {keys}: save the model's "
        "state_dict() alone, or under that name"
    )


def _step(content: Mapping[str, Any]) -> int:
    """The steps made, as the file states them, or else its schedule or optimizer."""
    stated: Any = {"step": content.get("step")}
    schedule, optimizer = content.get("scheduler_state_dict"), content.get("optimizer_state_dict")
    if stated["step"] is None and isinstance(schedule, Mapping):
        stated = {"step": schedule.get("last_epoch")}
    if stated["step"] is None and isinstance(optimizer, Mapping):
        of_parameters = optimizer.get("state")
        if isinstance(of_parameters, Mapping) and of_parameters:
            stated = next(iter(of_parameters.values()))
    step: int = _number(stated if isinstance(stated, Mapping) else {}, "step", int)
    if step < 0:
        raise FormatError(f"step is {step}, below 0")
    return step


def _number(content: Mapping[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if value is None:
        return kind(0)
    if isinstance(value, Tensor) and value.size == 1:
        value = value.read().item()
    if type(value) is float and kind is int and value.is_integer():
        value = int(value)
    if (type(value) is int and abs(value) < 2**63) or type(value) is kind is float:
        return kind(value)
    raise FormatError(f"{key} is {value!r:.80}, not {'a whole' if kind is int else 'a'} number")


def check_rate(optimizer: OptimizerState | None, scheduler: SchedulerState | None) -> None:
    """Makes sure that optimizer and schedule, where there are both, are at the same rate.

    Raises:
        BridgeError: they are not.
    """
    if optimizer is None or scheduler is None:
        return
    rate, wanted = optimizer.hyperparameters.get("lr"), scheduler.learning_rate()
    if rate is None or not abs(rate - wanted) <= _RATE_TOLERANCE * scheduler.base_lr:
        raise BridgeError(
            f"the optimizer's lr is {rate}, but its schedule's after {scheduler.step} steps is "
            f"{wanted}: PyTorch would go on from the wrong rate"
        )
