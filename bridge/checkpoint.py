"""Reads and writes whole checkpoints as .pt and .safetensors files (docs/model.md section 6.1).

Both kinds of file have the same content: plain data, and tensors under the original's names.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, Unpack

from bridge import weights
from bridge.config.metadata import for_the_original, to_checkpoint
from bridge.errors import BridgeError, FileWarning, errors_about
from bridge.files import any_file, safetensors_file, torch_file
from bridge.files.disk import PathLike
from bridge.files.plain_data import plain
from bridge.keys import Model, entries
from bridge.optimizer import OptimizerState, optimizer_from_torch, optimizer_to_torch
from bridge.schedule import SchedulerState, scheduler_from_torch, scheduler_to_torch
from bridge.stated import StatedCheckpoint, needed_of, understand
from mmrec_jax import ModelConfig

_RATE_TOLERANCE = 1e-6


class TrainingState(TypedDict, total=False):
    """Everything in a checkpoint except its model; defaults are those of LoadedCheckpoint."""

    optimizer_state: OptimizerState | None
    scheduler_state: SchedulerState | None
    step: int
    stated_step: int | None
    avg_loss: float
    metadata: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class LoadedCheckpoint:
    """What a checkpoint holds.

    Attributes:
        model: the model; its arrays have the file's dtypes.
        optimizer_state: None if the file has none.
        scheduler_state: None if the file has none.
        step: optimizer steps made; 0 if the file does not say.
        stated_step: what the file's own counter says where the optimizer made another number of
            steps, else None; it is written again, and nothing depends on it.
        avg_loss: the loss that the file states, 0 if it states none.
        metadata: the file's own, unchanged; give it to `save_torch` to keep it.
        left_out: the file's entries that were not taken over, by name: what each is.
        wrappers: what names in the file have besides the model's own, such as "model.".
    """

    model: Model
    optimizer_state: OptimizerState | None = None
    scheduler_state: SchedulerState | None = None
    step: int = 0
    stated_step: int | None = None
    avg_loss: float = 0.0
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    wrappers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        moments = "no moments" if self.optimizer_state is None else "AdamW's moments"
        schedule = "no schedule" if self.scheduler_state is None else "a schedule"
        return f"{type(self.model).__name__} at step {self.step}, with {moments} and {schedule}"

    @property
    def config(self) -> ModelConfig:
        """The model's config."""
        return self.model.config

    @property
    def counter(self) -> int:
        """The step that a file states: its own counter where that is not the optimizer's."""
        return self.step if self.stated_step is None else self.stated_step

    def training_state(self) -> TrainingState:
        """Everything except the model, as arguments for `save_torch` and similar functions."""
        return {
            "optimizer_state": self.optimizer_state,
            "scheduler_state": self.scheduler_state,
            "step": self.step,
            "stated_step": self.stated_step,
            "avg_loss": self.avg_loss,
            "metadata": self.metadata,
        }


def load_torch(
    path: PathLike,
    *,
    num_heads: int | None = None,
    model_only: bool = False,
    entry: str | None = None,
) -> LoadedCheckpoint:
    """Reads a .pt file of any of the models, including the training state, bit for bit.

    The content decides how the file is read, whatever its name: it may be a .safetensors file too,
    or the index of a checkpoint in several files, such as model.safetensors.index.json.

    If the file states no config, it is inferred from names and shapes. Keys may have the prefixes
    that DataParallel and torch.compile add, and the file may be a bare state dict.

    Args:
        path: the file.
        num_heads: the heads of the attention, which no shape shows; needed only if the file does
            not state them.
        model_only: leave optimizer and schedule alone, whatever they are; the step is 0 then. The
            file may hold any other objects too, which are left out.
        entry: the name of other weights in the file, such as "ema_state_dict", to take in place of
            the trained ones; as with model_only there is no training state then.

    Raises:
        BridgeError: the file cannot be read, is unsafe, or does not hold exactly a model's
            tensors; the message is one line that begins with the path.

    Warns:
        NonFiniteWarning: some weights are NaN or infinite.
        FileWarning: the file's name does not fit its content, or it has no checksums.
    """
    with stated_in(path, entry, model_only) as stated:
        return completed(stated, num_heads, model_only)


def load_safetensors(
    path: PathLike,
    *,
    num_heads: int | None = None,
    model_only: bool = False,
    entry: str | None = None,
) -> LoadedCheckpoint:
    """Reads a .safetensors file, ours or one with only a model's tensors; see `load_torch`."""
    return load_torch(path, num_heads=num_heads, model_only=model_only, entry=entry)


def save_torch(path: PathLike, model: Model, **training_state: Unpack[TrainingState]) -> None:
    """Writes a .pt file that the original and `load_torch` can read without other arguments.

    If writing fails, the path still has its old content. Equal checkpoints give equal files.

    Args:
        path: the file to write; its folder must exist.
        model: with its blocks in either form, a list or stacked.
        training_state: any of these, by name:
            optimizer_state: AdamW's; its lr must equal the schedule's if both are given.
            scheduler_state: the schedule's.
            step: the number of optimizer steps so far.
            stated_step: what the file is to state instead, as the one that it came from did.
            avg_loss: the loss to state.
            metadata: plain data to keep. The model's own class and config replace those in it; keys
                of the config that the model does not have are kept.

    Raises:
        BridgeError: the file cannot be written, or the training state does not fit the model.
        TypeError: the model is not one of ours.
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
def stated_in(
    path: PathLike, entry: str | None = None, model_only: bool = False
) -> Iterator[StatedCheckpoint]:
    """What a .pt or .safetensors file states; its tensors are readable until the block ends.

    Args:
        path: the file.
        entry: see `load_torch`.
        model_only: see `load_torch`.

    Raises:
        BridgeError: as for `load_torch`.
    """
    needed = needed_of(entry, model_only)
    with errors_about(path), any_file.reading(path, needed) as content:
        yield understand(content, entry, model_only)


def stated_by(checkpoint: LoadedCheckpoint) -> StatedCheckpoint:
    """What a checkpoint would state if it were written to a file."""
    return understand(_content(checkpoint))


def is_safetensors(path: PathLike) -> bool:
    """Whether a file's name says that it is a .safetensors file."""
    return str(path).lower().endswith(".safetensors")


def full_metadata(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """A checkpoint's metadata, with the class and config of its model.

    Raises:
        FormatError: something in it is not plain data.
        TypeError: the model is not one of ours.
    """
    model_class = weights.class_name(checkpoint.model)
    given = plain(dict(checkpoint.metadata), "metadata")
    stated = given.get("config")
    stated = stated if isinstance(stated, dict) else {}
    config = to_checkpoint(model_class, checkpoint.config, stated)
    return {**given, "model_class": model_class, "config": config}


def _content(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    """The content of a checkpoint's file: plain data and Tensors."""
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


def completed(
    stated: StatedCheckpoint, num_heads: int | None = None, model_only: bool = False
) -> LoadedCheckpoint:
    """The checkpoint that a file states, its tensors read; see `load_torch`."""
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
    optimizer_state = at_the_schedules_rate(optimizer_state, scheduler_state)
    return LoadedCheckpoint(
        model=model,
        optimizer_state=optimizer_state,
        scheduler_state=scheduler_state,
        step=0 if model_only else stated.step,
        stated_step=None if model_only else stated.stated_step,
        avg_loss=stated.avg_loss,
        metadata=stated.metadata,
        left_out=stated.left_out,
        wrappers=stated.wrappers,
    )


def check_rate(optimizer: OptimizerState | None, scheduler: SchedulerState | None) -> None:
    """Makes sure that optimizer and schedule, if both are there, have the same rate.

    Raises:
        BridgeError: they have not.
    """
    different = _different_rates(optimizer, scheduler)
    if different is not None:
        raise BridgeError(
            f"{different[1]}: PyTorch would continue with the wrong rate, so set "
            'hyperparameters["lr"] to the schedule\'s, or leave out the schedule'
        )


def at_the_schedules_rate(
    optimizer: OptimizerState | None, scheduler: SchedulerState | None
) -> OptimizerState | None:
    """The optimizer's state with the rate of its schedule, if both are there.

    Warns:
        FileWarning: it had another rate, set by hand.
    """
    different = _different_rates(optimizer, scheduler)
    if optimizer is None or different is None:
        return optimizer
    rate, text = different
    warnings.warn(f"{text}: training continues with the schedule's", FileWarning, stacklevel=2)
    return dataclasses.replace(optimizer, hyperparameters=optimizer.hyperparameters | {"lr": rate})


def _different_rates(
    optimizer: OptimizerState | None, scheduler: SchedulerState | None
) -> tuple[float, str] | None:
    """The schedule's rate, and what to say of it, if the optimizer has another."""
    if optimizer is None or scheduler is None:
        return None
    rate, wanted = optimizer.hyperparameters.get("lr"), scheduler.learning_rate()
    if rate is not None and abs(rate - wanted) <= _RATE_TOLERANCE * scheduler.base_lr:
        return None
    return wanted, (
        f"the optimizer's lr is {rate}, but its schedule's after {scheduler.step} steps is {wanted}"
    )
