"""What a checkpoint is, according to its names, shapes and notes; its values stay unread."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge import weights
from bridge.any_format import stated_in
from bridge.checkpoint import is_safetensors
from bridge.config.infer import infer_fields
from bridge.config.metadata import in_full
from bridge.config.resolve import contradictions
from bridge.errors import BridgeError, ConfigError, FormatError
from bridge.files.disk import PathLike
from bridge.files.plain_data import plain
from bridge.files.tensors import Tensor
from bridge.keys import Entry, entries, named_parameters
from bridge.optimizer import MOMENTS, state_problems
from bridge.orbax_folder import find_state
from bridge.schedule import SchedulerState, scheduler_from_torch
from bridge.stated import StatedCheckpoint
from mmrec_jax import ModelConfig

_VARIANTS = {"use_hem": "HEM", "use_dpg": "DPG", "use_sparse": "sparse", "use_uboo": "UBOO"}
"""The original's names of the variants, by their switches. HEM projects through one fused matrix,
DPG computes the decay at low rank, UBOO adds a planning loss (docs/model.md section 2)."""

_SETTINGS = ("lr", "betas", "eps", "weight_decay")
_BUFFERS = ("router.hyperplanes", "router.powers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorCount:
    """How much of a file has one dtype.

    Attributes:
        tensors: the number of tensors.
        values: the number of their values.
    """

    tensors: int
    values: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What a file states of AdamW.

    Attributes:
        moments: parameters that have moments.
        parameters: parameters that it is over.
        settings: lr, betas, eps and weight_decay, None where they are not stated.
    """

    moments: int
    parameters: int
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a file or folder is.

    Attributes:
        path: the file, or the state's folder.
        format: ".pt", ".safetensors" or "Orbax".
        size: bytes on disk.
        model_class: of the model; None if neither stated nor shown.
        dimensions: what is known of the model's config, by the checkpoint's names and as far as it
            means something in this class and variant; num_heads is None where it is unknown.
        variants: the switches that are on.
        parameters: how many each part has, a tied tensor counted once.
        tied: whether the head is the embedding.
        buffers: values that are not trained.
        dtypes: of the model's tensors, tied ones once.
        optimizer: None if there is none, or none that is understood.
        schedule: likewise.
        step: optimizer steps made.
        stated_step: what the file's own counter says where that is another number, else None.
        avg_loss: the loss that is stated.
        problems: everything for which the checkpoint cannot be loaded as it is, by kind.
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
    problems: dict[str, list[str]]

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def trained(self) -> float | None:
        """The share of the schedule's steps that are made; None without a schedule."""
        if self.schedule is None or not self.schedule.total_steps:
            return None
        return self.step / self.schedule.total_steps

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return dataclasses.asdict(self) | {"total": self.total, "trained": self.trained}


def inspect(path: PathLike) -> Inspection:
    """Describes a checkpoint of any format; a .pt or .safetensors file's values stay unread.

    A file that fits no model is described too, as far as it can be, with its problems.

    Raises:
        BridgeError: it cannot be read, is unsafe, or is no checkpoint at all.
    """
    with stated_in(path) as stated:
        model = _model(stated)
        problems = model.problems | {"duplicate": list(dict.fromkeys(stated.duplicates))}
        tied = model.model_class == "MMRecModel"
        parameters, buffers, dtypes = _counted(stated.tensors, tied)
        optimizer, schedule = None, None
        if stated.optimizer is not None:
            optimizer, problems["about its optimizer"] = _optimizer(stated.optimizer, model.table)
        if stated.scheduler is not None:
            try:
                schedule = scheduler_from_torch(stated.scheduler)
            except BridgeError as error:
                problems["about its schedule"] = [error.message]
    place, kind = _place(path)
    return Inspection(
        path=place,
        format=kind,
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
        problems={kind: items for kind, items in problems.items() if items},
    )


def size_on_disk(path: PathLike) -> int:
    """The bytes of a file, or of all files below a folder.

    Raises:
        OSError: it is not there.
    """
    place = Path(path)
    if not place.is_dir():
        return place.stat().st_size
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def parameter_count(model_class: str, config: ModelConfig) -> int:
    """The number of a model's parameters, a tied tensor counted once."""
    return sum(math.prod(entry.shape) for entry in named_parameters(entries(model_class, config)))


@dataclasses.dataclass(frozen=True)
class _Model:
    """What is known of a model; its table is empty where its config is unknown."""

    model_class: str | None
    dimensions: dict[str, Any]
    table: list[Entry]
    problems: dict[str, list[str]]


def _model(stated: StatedCheckpoint) -> _Model:
    model_class, dimensions = None, {}
    shapes = weights.shapes_of(stated.tensors)
    try:
        model_class = stated.model_class
        dimensions = infer_fields(model_class, shapes)
        config, unknown_heads = _config(stated)
    except ConfigError as error:
        return _Model(model_class, dimensions, [], {"about its config": [error.message]})
    dimensions = in_full(model_class, config)
    if unknown_heads:
        dimensions["num_heads"] = None
    table = entries(model_class, config)
    contradictory = contradictions(model_class, config, shapes)
    problems = {"contradictory": contradictory} | weights.problems(table, stated.tensors)
    return _Model(model_class, dimensions, table, problems)


def _meaningful(dimensions: Mapping[str, Any]) -> dict[str, Any]:
    """Without the switches, and without what a file states and no tensor has."""
    useless = {*_VARIANTS, "mem_dim", *(["ffn_dim"] if dimensions.get("use_sparse") else [])}
    return {key: value for key, value in dimensions.items() if key not in useless}


def _config(stated: StatedCheckpoint) -> tuple[ModelConfig, bool]:
    """The config, and whether its num_heads is only there to have one."""
    try:
        return stated.config(), False
    except ConfigError as error:
        try:
            return stated.config(num_heads=1), True
        except ConfigError:
            raise error from None


def _counted(
    tensors: Mapping[str, Tensor], tied: bool
) -> tuple[dict[str, int], int, dict[str, TensorCount]]:
    """Parameters by part, values of buffers, and dtypes."""
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


def _optimizer(state_dict: Any, table: list[Entry]) -> tuple[Optimizer | None, list[str]]:
    """What an optimizer's state dict states, and what would keep it from being loaded."""
    try:
        state, (group,) = state_dict["state"], state_dict["param_groups"]
        group = plain(dict(group), "param_groups[0]")
        indices = list(group["params"])
        moments = [index for index in state if set(MOMENTS) <= set(state[index])]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, FormatError):
        return None, ["it is not what torch's AdamW writes, over one group of parameters"]
    settings = {name: group.get(name) for name in _SETTINGS}
    problems = [f"it states no {name}" for name, value in settings.items() if value is None]
    if table:
        problems += _wrong_moments(state, indices, named_parameters(table))
    optimizer = Optimizer(moments=len(moments), parameters=len(indices), settings=settings)
    return optimizer, problems


def _wrong_moments(state: Any, indices: list[Any], parameters: list[Entry]) -> Iterator[str]:
    if indices != list(range(len(parameters))):
        yield f"it is over {len(indices)} parameters, where the model has {len(parameters)}"
        return
    if not isinstance(state, Mapping):
        yield f"its state is a {type(state).__name__}, not a dictionary"
        return
    for kind, items in state_problems(state, parameters).items():
        yield from (f"{kind}: {item}" for item in items)


def _place(path: PathLike) -> tuple[str, str]:
    """Where a checkpoint lies, and in which format."""
    if os.path.isdir(path):
        return os.fspath(find_state(path)), "Orbax"
    return os.fspath(path), ".safetensors" if is_safetensors(path) else ".pt"
