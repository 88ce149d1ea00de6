"""Partial loading: loads what fits of a checkpoint into a model, and reports what did not fit."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from bridge import weights
from bridge.any_format import stated_in
from bridge.checkpoint import LoadedCheckpoint, at_the_schedules_rate
from bridge.config.resolve import check_config, resolve_config
from bridge.errors import BridgeError, ConfigError, MismatchError
from bridge.files.disk import PathLike
from bridge.files.tensors import Tensor
from bridge.keys import MODEL_CLASSES, Entry, Model, entries
from bridge.optimizer import OptimizerState, optimizer_from_torch
from bridge.schedule import SchedulerState, scheduler_from_torch
from bridge.stated import StatedCheckpoint
from mmrec_jax import ModelConfig
from mmrec_jax.layer_paths import AnyArray, VariablePath

Shape = tuple[int, ...]

_MOST_GROWTH = 4
"""A model whose size only the file states may have so many times the values in the file."""


_NONE = "none in the file"


class Misshapen(NamedTuple):
    """A tensor whose shape differs from the model's."""

    name: str
    found: Shape
    wanted: Shape


class WrongType(NamedTuple):
    """A tensor with a dtype that would have to be rounded."""

    name: str
    dtype: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What happened to every tensor of a file, and to every tensor of the model.

    Each of the model's tensors is in exactly one of loaded, implied, missing, misshapen,
    wrong_type and wrong_values. The file's tensors of the last three kinds are not used: the model
    keeps its initial values, a tied head those of its embedding, and the router its powers of two.

    Attributes:
        model_class: the model's class.
        loaded: names of tensors whose values come from the file.
        implied: names that the file does not have but whose values follow from others: a tied head
            or embedding if the file has one of the two, and the router's powers of two.
        missing: names that the file does not have.
        unexpected: names that the model does not have.
        misshapen: tensors with another shape than the model's.
        wrong_type: tensors with a dtype other than float32, bfloat16 and float16 (int64 for the
            router's powers).
        wrong_values: a tied head that differs from its embedding, router's powers that are not
            1, 2, 4, ...
        duplicates: names that the file has more than once; the last one was used.
        in_file: the shapes of the file's tensors.
        in_model: the shapes of the model's tensors.
        tensors_loaded: how many of the model's tensors come from the file, with tied ones once.
        tensors: how many tensors the model has, likewise.
        values_loaded: how many of the model's values come from the file, likewise.
        values: how many values the model has.
        training_state: "loaded", "none in the file", or "left out: " and why.
    """

    model_class: str
    loaded: tuple[str, ...]
    implied: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[Misshapen, ...]
    wrong_type: tuple[WrongType, ...]
    wrong_values: tuple[str, ...]
    duplicates: tuple[str, ...]
    in_file: Mapping[str, Shape]
    in_model: Mapping[str, Shape]
    tensors_loaded: int
    tensors: int
    values_loaded: int
    values: int
    training_state: str

    @property
    def complete(self) -> bool:
        """Whether the file has exactly the model's tensors, except implied ones."""
        return not (
            self.missing
            or self.unexpected
            or self.misshapen
            or self.wrong_type
            or self.wrong_values
            or self.duplicates
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain data: names, shapes and counts."""
        return {
            "model_class": self.model_class,
            "complete": self.complete,
            "tensors": {"loaded": self.tensors_loaded, "model": self.tensors},
            "values": {"loaded": self.values_loaded, "model": self.values},
            "training_state": self.training_state,
            "loaded": list(self.loaded),
            "implied": list(self.implied),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "misshapen": [
                {"name": name, "found": list(found), "wanted": list(wanted)}
                for name, found, wanted in self.misshapen
            ],
            "wrong_type": [item._asdict() for item in self.wrong_type],
            "wrong_values": list(self.wrong_values),
            "duplicates": list(self.duplicates),
        }


def load_partial(
    path: PathLike,
    *,
    config: ModelConfig | None = None,
    model_class: str | None = None,
    num_heads: int | None = None,
    seed: int = 0,
    model_only: bool = False,
    entry: str | None = None,
) -> tuple[LoadedCheckpoint, LoadReport]:
    """Loads the tensors of a checkpoint whose name, shape and type fit a model.

    The rest of the model keeps the initial values of a new one, in the dtype that most of the
    loaded values have. The training state is loaded only if everything fits, because moments
    belong to the values of their parameters.

    Args:
        path: a file or folder of any format.
        config: the model's config; None takes the file's own.
        model_class: a name in MODEL_CLASSES; None takes what the file states or its names show, or
            MMRecModel if they show none but a config is given.
        num_heads: see `load_torch`; only without a config.
        seed: for the initial values.
        model_only: see `load_torch`.
        entry: see `load_torch`.

    Returns:
        The checkpoint, at step 0 unless its training state was loaded, and the report.

    Raises:
        BridgeError: the file cannot be read or is unsafe, no model has the config, the file's own
            config is of a model far larger than the file, or nothing in it fits.

    Warns:
        NonFiniteWarning: some of the loaded weights are NaN or infinite.
    """
    with stated_in(path, entry, model_only) as stated:
        model_class = model_class or _class_of(stated, "MMRecModel" if config else None)
        metadata = stated.metadata
        if config is None:
            shapes = weights.shapes_of(stated.tensors)
            config = resolve_config(model_class, stated.stated_config, shapes, num_heads)
            _refuse_growth(entries(model_class, config), stated)
        else:
            check_config(model_class, config)
            metadata = {key: value for key, value in metadata.items() if key != "config"}
        table = entries(model_class, config)
        chosen, found = _sorted_out(table, stated)
        if not chosen:
            raise _nothing_fits(model_class, stated, found)
        arrays = weights.arrays_of(table, chosen)
        model = _completed(model_class, config, arrays, seed)
        report = LoadReport(
            model_class=model_class,
            **found,
            in_file=weights.shapes_of(stated.tensors),
            in_model={entry.key: entry.shape for entry in table},
            tensors_loaded=_count(entry for entry in table if entry.key in found["loaded"]),
            tensors=_count(table),
            values_loaded=sum(array.size for array in arrays.values()),
            values=sum(array.size for array in weights.variables(model).values()),
            training_state="",
        )
        optimizer, schedule, outcome = _training_state(stated, table, report.complete, model_only)
    loaded = LoadedCheckpoint(
        model=model,
        optimizer_state=optimizer,
        scheduler_state=schedule,
        step=stated.step if outcome in ("loaded", _NONE) else 0,
        stated_step=stated.stated_step if outcome == "loaded" else None,
        avg_loss=stated.avg_loss if report.complete else 0.0,
        metadata=metadata,
        left_out=stated.left_out,
        wrappers=stated.wrappers,
    )
    return loaded, dataclasses.replace(report, training_state=outcome)


def _count(table: Iterable[Entry]) -> int:
    """The number of tensors, tied ones counted once."""
    return len({entry.path or entry.key for entry in table})


def _class_of(stated: StatedCheckpoint, default: str | None) -> str:
    try:
        return stated.model_class
    except ConfigError:
        if default is None:
            raise
        return default


def _refuse_growth(table: Sequence[Entry], stated: StatedCheckpoint) -> None:
    """Refuses a model far larger than its file, which could otherwise ask for any size."""
    wanted = sum(math.prod(entry.shape) for entry in table)
    found = sum(tensor.size for tensor in stated.tensors.values())
    if wanted > _MOST_GROWTH * found:
        raise ConfigError(
            f"its config is of a model of {wanted} values, and it holds {found}: give a config of "
            "your own, as adapt does, if you want the rest drawn at random"
        )


def _sorted_out(
    table: Sequence[Entry], stated: StatedCheckpoint
) -> tuple[dict[str, Tensor], dict[str, tuple[Any, ...]]]:
    """The tensors to load, by the first name of their parameter, and the report's lists."""
    tensors = stated.tensors
    found: dict[str, list[Any]] = {
        name: []
        for name in ("loaded", "implied", "missing", "misshapen", "wrong_type", "wrong_values")
    }
    first_names: dict[VariablePath | None, str] = {}
    chosen: dict[str, Tensor] = {}
    absent: list[Entry] = []
    for entry in table:
        first = first_names.setdefault(entry.path, entry.key)
        tensor = tensors.get(entry.key)
        if tensor is None:
            absent.append(entry)
            continue
        misfits = weights.problems([entry], {entry.key: tensor})
        if misfits["misshapen"]:
            found["misshapen"].append(Misshapen(entry.key, tensor.shape, entry.shape))
        elif misfits["of the wrong type"]:
            found["wrong_type"].append(WrongType(entry.key, str(tensor.dtype)))
        elif weights.has_wrong_values(entry, tensor, chosen.get(first)):
            found["wrong_values"].append(entry.key)
        else:
            found["loaded"].append(entry.key)
            if entry.path is not None:
                chosen.setdefault(first, tensor)
    for entry in absent:
        follows = entry.path is None or first_names[entry.path] in chosen
        found["implied" if follows else "missing"].append(entry.key)
    names = {entry.key for entry in table}
    found["unexpected"] = [name for name in tensors if name not in names]
    found["duplicates"] = list(dict.fromkeys(stated.duplicates))
    return chosen, {name: tuple(items) for name, items in found.items()}


def _nothing_fits(
    model_class: str, stated: StatedCheckpoint, found: Mapping[str, tuple[Any, ...]]
) -> MismatchError:
    """The error about a file without a tensor that the model can take, and why that is."""
    problems = {
        "misshapen": [
            f"{name} is {list(shape)}, not {list(wanted)}"
            for name, shape, wanted in found["misshapen"]
        ],
        "of the wrong type": [f"{name} is {dtype}" for name, dtype in found["wrong_type"]],
        "of wrong values": list(found["wrong_values"]),
    }
    if found["misshapen"]:
        advice = "give the model the dimensions of the file (model_dim, ffn_dim, vocab_size)"
    elif any(problems.values()):
        advice = "save them as float32 in PyTorch"
    else:
        problems = {"of other names": list(stated.tensors)}
        advice = "rename them in PyTorch; docs/model.md section 6 has the model's names"
    return MismatchError(
        f"none of its tensors fits the class {model_class} with this config",
        problems,
        advice,
        most=100,  # they all have the same cause
    )


def _completed(
    model_class: str, config: ModelConfig, arrays: Mapping[VariablePath, AnyArray], seed: int
) -> Model:
    """A model with these arrays, and initial values for the others."""
    needed = {entry.path for entry in entries(model_class, config)} - {None}
    if needed <= arrays.keys():
        return weights.assemble(model_class, config, arrays)
    initial = weights.variables(MODEL_CLASSES[model_class](config, rngs=nnx.Rngs(seed)))
    sizes: Counter[Any] = Counter()
    for array in arrays.values():
        sizes[array.dtype] += array.size
    dtype = sizes.most_common(1)[0][0]
    drawn = {path: array.astype(dtype) for path, array in initial.items()}
    return weights.assemble(model_class, config, drawn | dict(arrays))


def _training_state(
    stated: StatedCheckpoint, table: list[Entry], complete: bool, model_only: bool
) -> tuple[OptimizerState | None, SchedulerState | None, str]:
    """Optimizer and schedule, and what happened to them."""
    if model_only:
        return None, None, "left out: only the model was asked for"
    if not complete:
        return None, None, "left out: the model is not wholly the file's"
    try:
        optimizer = schedule = None
        if stated.optimizer is not None:
            optimizer = optimizer_from_torch(stated.optimizer, table)
        if stated.scheduler is not None:
            schedule = scheduler_from_torch(stated.scheduler)
        optimizer = at_the_schedules_rate(optimizer, schedule)
    except BridgeError as error:
        return None, None, f"left out: {error.message}"
    if optimizer is None and schedule is None:
        return None, None, _NONE
    return optimizer, schedule, "loaded"
