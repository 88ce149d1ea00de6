"""What a checkpoint is, and whether it can be loaded and trained further as it is."""

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from bridge import weights
from bridge.any_format import format_of, located, size_on_disk, stated_in
from bridge.checkpoint import LoadedCheckpoint, completed
from bridge.config.infer import infer_fields
from bridge.config.metadata import in_full
from bridge.config.resolve import contradictions
from bridge.errors import (
    BridgeError,
    ConfigError,
    FileWarning,
    FormatError,
    MismatchError,
    UnreadableFileError,
)
from bridge.files.disk import PathLike
from bridge.files.plain_data import plain
from bridge.files.tensors import Tensor
from bridge.keys import Entry, entries, named_parameters
from bridge.optimizer import MOMENTS, optimizer_from_torch
from bridge.resumability import disagreement, obstacles
from bridge.schedule import SchedulerState, scheduler_from_torch
from bridge.stated import StatedCheckpoint
from mmrec_jax import ModelConfig

_VARIANTS = {"use_hem": "HEM", "use_dpg": "DPG", "use_sparse": "sparse", "use_uboo": "UBOO"}
"""The original's names for the variants, by switch. HEM has one fused projection, DPG computes the
decay at low rank, UBOO adds a planning loss (docs/model.md section 1)."""

_REVISED = ("DPG", "sparse", "UBOO")
"""The variants that not all revisions of the original compute alike."""

_REVISIONS = "revisions of the original differ here, see docs/model.md section 1"

_SETTINGS = ("lr", "betas", "eps", "weight_decay")
_BUFFERS = ("router.hyperplanes", "router.powers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorCount:
    """How much of a file has a certain dtype.

    Attributes:
        tensors: the number of tensors.
        values: the number of their values.
    """

    tensors: int
    values: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What a file states about AdamW.

    Attributes:
        moments: the number of parameters that have moments.
        parameters: the number of all its parameters.
        settings: lr, betas, eps and weight_decay; None if not stated.
    """

    moments: int
    parameters: int
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """The description of a checkpoint.

    Attributes:
        path: the file, or the state's folder.
        format: ".pt", ".safetensors" or "Orbax".
        size: bytes on disk.
        model_class: the model's class; None if neither stated nor shown.
        dimensions: what is known of the model's config, under the checkpoint's names, without
            fields that its class and variant do not use; num_heads is None if it is unknown.
        variants: the switches that are on.
        parameters: how many each part has, a tied tensor counted once.
        tied: whether the head has the embedding's values.
        buffers: values that are not trained.
        dtypes: the dtypes of the model's tensors, with tied ones counted once.
        optimizer: None if there is none, or only one that we do not know.
        schedule: likewise.
        step: optimizer steps made.
        stated_step: what the file's own counter says where that is another number, else None.
        avg_loss: the loss that is stated.
        wrappers: what names in the file have besides the model's own, such as "model.".
        left_out: entries of the file that are not taken over, by name: what each is.
        warnings: what is odd about its values.
        problems: everything for which the checkpoint cannot be loaded or training cannot resume
            from it as it is, by kind.
    """

    path: str
    format: str
    size: int
    model_class: str | None
    dimensions: dict[str, Any]
    variants: tuple[str, ...]
    parameters: dict[str, int]
    tied: bool
    buffers: int
    dtypes: dict[str, TensorCount]
    optimizer: Optimizer | None
    schedule: SchedulerState | None
    step: int
    stated_step: int | None
    avg_loss: float
    wrappers: tuple[str, ...]
    left_out: dict[str, str]
    warnings: tuple[str, ...]
    problems: dict[str, list[str]]

    @property
    def total(self) -> int:
        """The number of all parameters."""
        return sum(self.parameters.values())

    @property
    def trained(self) -> float | None:
        """The share of all steps until the schedule ends; None without a schedule."""
        steps = 0 if self.schedule is None else self.schedule.ends_at(self.step)
        return self.step / steps if steps else None

    @property
    def reminder(self) -> str:
        """What to know of its variants before it is used beside the original; "" if nothing."""
        revised = ", ".join(name for name in self.variants if name in _REVISED)
        return revised and f"{revised}: {_REVISIONS}"

    def to_json(self) -> dict[str, Any]:
        """The description as plain data."""
        derived = {"total": self.total, "trained": self.trained, "reminder": self.reminder}
        return dataclasses.asdict(self) | derived


def inspect(
    path: PathLike,
    *,
    num_heads: int | None = None,
    model_only: bool = False,
    entry: str | None = None,
) -> Inspection:
    """Describes a checkpoint of any format, after loading it as a conversion would.

    A file that fits no model is described as far as possible, with its problems.

    Args:
        path: the file or folder.
        num_heads: see `load_torch`.
        model_only: see `load_torch`.
        entry: see `load_torch`.

    Raises:
        BridgeError: it cannot be read, is damaged or unsafe, or is no checkpoint at all.
    """
    recording = warnings.catch_warnings(record=True, action="always", category=FileWarning)
    with recording as caught, stated_in(path, entry, model_only) as stated:
        model = _model(stated, num_heads)
        loaded, problems = _loaded(stated, model, num_heads)
        tied = model.model_class == "MMRecModel" and (
            loaded is not None or _is_tied(stated.tensors)  # loading has compared them
        )
        parameters, buffers, dtypes = _counted(stated.tensors, tied)
        optimizer = None if stated.optimizer is None else _optimizer(stated.optimizer)
        schedule = None
        if loaded is not None:
            schedule = loaded.scheduler_state
        elif stated.scheduler is not None:
            with contextlib.suppress(BridgeError):
                schedule = scheduler_from_torch(stated.scheduler)
    place = located(path)
    return Inspection(
        path=os.fspath(place),
        format=format_of(place),
        size=size_on_disk(place),
        model_class=model.model_class,
        dimensions=_meaningful(model.dimensions),
        variants=tuple(name for switch, name in _VARIANTS.items() if model.dimensions.get(switch)),
        parameters=parameters,
        tied=tied,
        buffers=buffers,
        dtypes=dtypes,
        optimizer=optimizer,
        schedule=schedule,
        step=stated.step,
        stated_step=stated.stated_step,
        avg_loss=stated.avg_loss,
        wrappers=stated.wrappers,
        left_out=stated.left_out,
        warnings=tuple(
            dict.fromkeys(  # what does not load is read twice
                str(each.message) for each in caught if issubclass(each.category, FileWarning)
            )
        ),
        problems={kind: items for kind, items in problems.items() if items},
    )


def parameter_count(model_class: str, config: ModelConfig) -> int:
    """The number of a model's parameters, a tied tensor counted once."""
    return sum(math.prod(entry.shape) for entry in named_parameters(entries(model_class, config)))


@dataclasses.dataclass(frozen=True)
class _Model:
    """What is known about a model; the table is empty if the config is unknown."""

    model_class: str | None
    dimensions: dict[str, Any]
    table: list[Entry]
    problems: dict[str, list[str]]


def _model(stated: StatedCheckpoint, num_heads: int | None) -> _Model:
    model_class, dimensions = None, {}
    shapes = weights.shapes_of(stated.tensors)
    try:
        model_class = stated.model_class
        dimensions = infer_fields(model_class, shapes)
        config, unknown_heads = _config(stated, num_heads)
    except ConfigError as error:
        return _Model(model_class, dimensions, [], {"about its config": [error.message]})
    dimensions = in_full(model_class, config)
    problems: dict[str, list[str]] = {}
    if unknown_heads:
        dimensions["num_heads"] = None
        problems["about its config"] = [unknown_heads]
    table = entries(model_class, config)
    problems["contradictory"] = contradictions(model_class, config, shapes)
    return _Model(model_class, dimensions, table, problems)


def _loaded(
    stated: StatedCheckpoint, model: _Model, num_heads: int | None
) -> tuple[LoadedCheckpoint | None, dict[str, list[str]]]:
    """The checkpoint, if it loads, and all that loading it or resuming from it would refuse."""
    try:
        loaded = completed(stated, num_heads)
    except UnreadableFileError:
        raise
    except BridgeError as error:
        found = model.problems | weights.problems(model.table, stated.tensors)
        found["duplicate"] = list(dict.fromkeys(stated.duplicates))
        if not model.table:
            found = dict(model.problems)
        elif not any(found.values()):
            found["of wrong values"] = list(weights.wrong_values(model.table, stated.tensors))
        if stated.optimizer is not None and model.table:
            found["about its optimizer"] = _refusals(
                lambda: optimizer_from_torch(stated.optimizer, model.table)
            )
        if stated.scheduler is not None:
            found["about its schedule"] = _refusals(lambda: scheduler_from_torch(stated.scheduler))
        if not any(found.values()):
            found = {"about its training state": [error.message]}
        return None, found
    return loaded, {
        "about resuming": obstacles(loaded),
        "about its counters": [text for text in [disagreement(loaded)] if text],
    }


def _refusals(load: Callable[[], Any]) -> list[str]:
    try:
        load()
    except UnreadableFileError:
        raise
    except MismatchError as error:
        return [f"{kind}: {item}" for kind, items in error.problems.items() for item in items]
    except BridgeError as error:
        return [error.message]
    return []


def _is_tied(tensors: Mapping[str, Tensor]) -> bool:
    embedding, head = tensors.get("embedding.weight"), tensors.get("lm_head.weight")
    if embedding is None or head is None:
        return False
    same = (embedding.shape, embedding.dtype) == (head.shape, head.dtype)
    return same and weights.same_values(embedding, head)


def _meaningful(dimensions: Mapping[str, Any]) -> dict[str, Any]:
    """The dimensions, without switches and without what shows in no tensor."""
    useless = {*_VARIANTS, "mem_dim", *(["ffn_dim"] if dimensions.get("use_sparse") else [])}
    return {key: value for key, value in dimensions.items() if key not in useless}


def _config(stated: StatedCheckpoint, num_heads: int | None) -> tuple[ModelConfig, str | None]:
    """The config, and what is wrong if its num_heads is only there to have one."""
    try:
        return stated.config(num_heads), None
    except ConfigError as error:
        try:
            return stated.config(num_heads=1), error.message
        except ConfigError:
            raise error from None


def _counted(
    tensors: Mapping[str, Tensor], tied: bool
) -> tuple[dict[str, int], int, dict[str, TensorCount]]:
    """The numbers of parameters by part and of values in buffers, and the dtypes."""
    parameters: dict[str, int] = {}
    dtypes: dict[str, TensorCount] = {}
    buffers = 0
    for name, tensor in tensors.items():
        if tied and name == "lm_head.weight" and "embedding.weight" in tensors:
            continue
        if name.endswith(_BUFFERS):
            buffers += tensor.size
        else:
            part = name.split(".")[0]
            parameters[part] = parameters.get(part, 0) + tensor.size
        dtype = str(tensor.dtype)
        before = dtypes.get(dtype, TensorCount(tensors=0, values=0))
        dtypes[dtype] = TensorCount(tensors=before.tensors + 1, values=before.values + tensor.size)
    return parameters, buffers, dtypes


def _optimizer(state_dict: Any) -> Optimizer | None:
    """What an optimizer's state dict states."""
    try:
        groups = [plain(dict(group), "param_groups") for group in state_dict["param_groups"]]
        parameters = sum(len(group["params"]) for group in groups)
        moments = [item for item in state_dict["state"].values() if set(MOMENTS) <= set(item)]
        settings = {name: groups[0].get(name) for name in _SETTINGS}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, FormatError):
        return None
    return Optimizer(moments=len(moments), parameters=parameters, settings=settings)
