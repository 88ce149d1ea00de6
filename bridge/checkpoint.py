"""A checkpoint as a whole (docs/model.md section 6.1), from and to .pt and .safetensors files.

Both kinds of file hold the same content, plain data and tensors by the original's names.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, Unpack

from bridge import weights
from bridge.config.metadata import for_the_original, to_checkpoint
from bridge.errors import BridgeError, errors_about
from bridge.files import safetensors_file, torch_file
from bridge.files.disk import PathLike
from bridge.files.plain_data import plain
from bridge.keys import Model, entries
from bridge.optimizer import OptimizerState, optimizer_from_torch, optimizer_to_torch
from bridge.schedule import SchedulerState, scheduler_from_torch, scheduler_to_torch
from bridge.stated import StatedCheckpoint, understand
from mmrec_jax import ModelConfig

_RATE_TOLERANCE = 1e-6


class TrainingState(TypedDict, total=False):
    """Everything of a checkpoint but its model; what is left out is as in LoadedCheckpoint."""

    optimizer_state: OptimizerState | None
    scheduler_state: SchedulerState | None
    step: int
    stated_step: int | None
    avg_loss: float
    metadata: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """What a checkpoint holds.

    Attributes:
        model: the model, its arrays of the file's dtypes.
        optimizer_state: None if the file has none.
        scheduler_state: None if the file has none.
        step: optimizer steps made; 0 if the file does not say.
        stated_step: what the file's own counter says where the optimizer made another number of
            steps, else None; it is written again, and nothing depends on it.
        avg_loss: the loss that the file states, 0 if it states none.
        metadata: the file's own, unchanged; give it to `save_torch` to keep it.
    """

    model: Model
    optimizer_state: OptimizerState | None = None
    scheduler_state: SchedulerState | None = None
    step: int = 0
    stated_step: int | None = None
    avg_loss: float = 0.0
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    @property
    def counter(self) -> int:
        """The step that a file states: its own counter where that is not the optimizer's."""
        return self.step if self.stated_step is None else self.stated_step

    def training_state(self) -> TrainingState:
        """Everything but the model, as the arguments of `save_torch` and its like."""
        return {
            "optimizer_state": self.optimizer_state,
            "scheduler_state": self.scheduler_state,
            "step": self.step,
            "stated_step": self.stated_step,
            "avg_loss": self.avg_loss,
            "metadata": self.metadata,
        }


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
    with errors_about(path), torch_file.reading(path) as content:
        return _loaded(understand(content), num_heads, model_only)


def load_safetensors(
    path: PathLike, *, num_heads: int | None = None, model_only: bool = False
) -> LoadedCheckpoint:
    """Reads a .safetensors file: one of ours, or the bare tensors of a model; see `load_torch`."""
    with errors_about(path), safetensors_file.reading(path) as content:
        return _loaded(understand(content), num_heads, model_only)


def save_torch(path: PathLike, model: Model, **training_state: Unpack[TrainingState]) -> None:
    """Writes a .pt file that the original reads; `load_torch` needs nothing else to read it.

    The path holds either what it held before or the whole new file. Equal checkpoints make equal
    files.

    Args:
        path: where to; the folder must exist.
        model: with its blocks in either form, a list or stacked.
        training_state: of these, all by name and none required:
            optimizer_state: AdamW's; its lr must be the schedule's if both are given.
            scheduler_state: the schedule's.
            step: optimizer steps made.
            stated_step: what the file is to state instead, as the one that it came from did.
            avg_loss: the loss to state.
            metadata: plain data that the file keeps. Its model_class and config are overwritten by
                the model's own; keys of a config that are not the model's are kept.

    Raises:
        BridgeError: the file cannot be written, or the training state is not the model's.
        TypeError: the model is none of ours.
    """
    write_torch(path, with_training_state(model, **training_state))


def save_safetensors(path: PathLike, model: Model, **training_state: Unpack[TrainingState]) -> None:
    """Writes a .safetensors file; see `save_torch`.

    The model's tensors have the original's names. Without training state there are no others, so
    any program that reads the format finds just the model.
    """
    write_safetensors(path, with_training_state(model, **training_state))


def with_training_state(model: Model, **training_state: Unpack[TrainingState]) -> LoadedCheckpoint:
    """A model with its training state; see `save_torch`."""
    arguments: dict[str, Any] = dict(training_state)
    arguments["metadata"] = dict(arguments.get("metadata") or {})
    return LoadedCheckpoint(model=model, **arguments)


def write_torch(path: PathLike, checkpoint: LoadedCheckpoint) -> None:
    """As `save_torch`."""
    with errors_about(path):
        torch_file.write(path, _content(checkpoint))


def write_safetensors(path: PathLike, checkpoint: LoadedCheckpoint) -> None:
    """As `save_safetensors`."""
    with errors_about(path):
        safetensors_file.write(path, _content(checkpoint))


@contextlib.contextmanager
def stated_in(path: PathLike) -> Iterator[StatedCheckpoint]:
    """What a .pt or .safetensors file states; its tensors are readable until the block ends.

    Raises:
        BridgeError: as for `load_torch`.
    """
    container = safetensors_file if is_safetensors(path) else torch_file
    with errors_about(path), container.reading(path) as content:
        yield understand(content)


def stated_by(checkpoint: LoadedCheckpoint) -> StatedCheckpoint:
    """What a file of a checkpoint would state."""
    return understand(_content(checkpoint))


def is_safetensors(path: PathLike) -> bool:
    """Whether a file's name says that it is a .safetensors file."""
    return str(path).endswith(".safetensors")


def full_metadata(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """A checkpoint's metadata, with the class and config of its model.

    Raises:
        FormatError: something in it is not plain data.
        TypeError: the model is none of ours.
    """
    model_class = weights.class_name(checkpoint.model)
    given = plain(dict(checkpoint.metadata), "metadata")
    stated = given.get("config")
    stated = stated if isinstance(stated, dict) else {}
    config = to_checkpoint(model_class, checkpoint.config, stated)
    return {**given, "model_class": model_class, "config": config}


def _content(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """A checkpoint in the form of a file: plain data and Tensors."""
    metadata = full_metadata(checkpoint)
    check_rate(checkpoint.optimizer_state, checkpoint.scheduler_state)
    optimizer = scheduler = None
    if checkpoint.optimizer_state is not None:
        table = entries(weights.class_name(checkpoint.model), checkpoint.config)
        optimizer = optimizer_to_torch(checkpoint.optimizer_state, table)
    if checkpoint.scheduler_state is not None:
        scheduler = scheduler_to_torch(checkpoint.scheduler_state)
    return {
        "model_state_dict": weights.tensors_of(checkpoint.model),
        "optimizer_state_dict": optimizer,
        "scheduler_state_dict": scheduler,
        "step": int(checkpoint.counter),
        "avg_loss": float(checkpoint.avg_loss),
        "metadata": metadata,
        **for_the_original(metadata["config"]),
    }


def _loaded(stated: StatedCheckpoint, num_heads: int | None, model_only: bool) -> LoadedCheckpoint:
    config = stated.config(num_heads)
    table = entries(stated.model_class, config)
    optimizer, scheduler = stated.optimizer, stated.scheduler
    if model_only:
        optimizer = scheduler = None
    model = weights.model_from_tensors(
        stated.model_class, config, stated.tensors, duplicates=stated.duplicates
    )
    optimizer_state = None if optimizer is None else optimizer_from_torch(optimizer, table)
    scheduler_state = None if scheduler is None else scheduler_from_torch(scheduler)
    check_rate(optimizer_state, scheduler_state)
    return LoadedCheckpoint(
        model=model,
        optimizer_state=optimizer_state,
        scheduler_state=scheduler_state,
        step=0 if model_only else stated.step,
        stated_step=None if model_only else stated.stated_step,
        avg_loss=stated.avg_loss,
        metadata=stated.metadata,
    )


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
            f"{wanted}: PyTorch would continue with the wrong rate"
        )
