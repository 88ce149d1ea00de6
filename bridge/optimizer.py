"""AdamW's state between PyTorch and JAX (docs/model.md section 6.3)."""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bridge.errors import (
    FormatError,
    MismatchError,
    NonFiniteWarning,
    listed,
    or_the_weights_alone,
)
from bridge.files.plain_data import safe_name
from bridge.files.tensors import FLOATS, Tensor, computed_ahead, host_array, tensor_of
from bridge.keys import Entry, named_parameters
from bridge.parameter_group import NAMES, ordered_parameters, read_groups
from mmrec_jax.layer_paths import AnyArray, VariablePath

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The names of AdamW's moments, in files and in OptimizerState."""

_KEYS = {"step", *MOMENTS}
"""What torch's AdamW keeps of each parameter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerState:
    """AdamW's state, its moments in the JAX model's layout.

    Attributes:
        step: optimizer steps made, the same for all parameters.
        exp_avg: the first moments, by the path of their parameter in the JAX model (blocks as a
            list) and of its shape. Parameters that never had a gradient are left out, and before
            the first step all are.
        exp_avg_sq: the second moments, likewise.
        hyperparameters: the settings of torch's parameter group: lr, betas, eps, weight_decay,
            initial_lr and torch's own switches, see `adamw_hyperparameters`, and param_names if
            the file has them, in the model's order.
    """

    step: int
    exp_avg: Mapping[VariablePath, AnyArray]
    exp_avg_sq: Mapping[VariablePath, AnyArray]
    hyperparameters: dict[str, Any]


def adamw_hyperparameters(
    *,
    learning_rate: float,
    initial_learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> dict[str, Any]:
    """The settings of torch's AdamW, its switches at their defaults.

    Args:
        learning_rate: of the next step: SchedulerState.learning_rate().
        initial_learning_rate: the schedule's base rate.
        betas, eps, weight_decay: AdamW's own.
    """
    import torch  # takes a second, which commands that write no file need not wait for

    optimizer = torch.optim.AdamW(
        [torch.zeros(())], lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay
    )
    group = optimizer.state_dict()["param_groups"][0]
    del group["params"]
    return {**group, "initial_lr": initial_learning_rate}


def optimizer_to_torch(state: OptimizerState, table: list[Entry]) -> dict[str, Any]:
    """The state dict of torch's AdamW over the parameters in named_parameters() order, of Tensors.

    Raises:
        MismatchError: the moments are not those of the model's parameters; lists all that differ.
    """
    parameters = named_parameters(table)
    check_moments(state, parameters)
    per_parameter = {}
    for index, entry in enumerate(parameters):
        assert entry.path is not None
        if state.step == 0 or entry.path not in state.exp_avg:
            continue
        per_parameter[index] = {
            # One tensor each: torch increments them in place.
            "step": tensor_of(np.array(state.step, np.float32)),
            "exp_avg": tensor_of(state.exp_avg[entry.path], transpose=entry.transpose),
            "exp_avg_sq": tensor_of(state.exp_avg_sq[entry.path], transpose=entry.transpose),
        }
    group = {**state.hyperparameters, "params": list(range(len(parameters)))}
    return {"state": per_parameter, "param_groups": [group]}


@or_the_weights_alone()
def optimizer_from_torch(state_dict: Any, table: list[Entry]) -> OptimizerState:
    """Reads the state dict of an AdamW over the model's parameters.

    They are in the order of its param_names, or else in the model's. torch's own loading checks no
    shapes, so two swapped entries would pass it silently.

    Args:
        state_dict: the checkpoint's optimizer_state_dict, of Tensors.
        table: the model's entries.

    Raises:
        FormatError: it is of another optimizer or of another number of parameters.
        MismatchError: its names or moments are not those of the parameters; lists all that differ.

    Warns:
        FileWarning: it may be Adam's.
        NonFiniteWarning: moments are NaN or infinite, or second ones negative; says where.
    """
    settings, names, count = read_groups(state_dict)
    parameters = ordered_parameters(names, count, named_parameters(table))
    if names is not None:
        settings[NAMES] = [entry.key for entry in named_parameters(table)]
    per_parameter = state_dict["state"]
    step = _common_step(per_parameter, parameters)
    places = [
        (index, entry, name)
        for index, entry in enumerate(parameters)
        if index in per_parameter
        for name in MOMENTS
    ]

    def convert(index: int, entry: Entry, name: str) -> tuple[jax.Array, bool]:
        values = host_array(per_parameter[index][name], transpose=entry.transpose)
        usable = np.isfinite(values) if name == "exp_avg" else (values >= 0) & (values < np.inf)
        return jax.device_put(values), bool(usable.all())

    moments: dict[str, dict[VariablePath, AnyArray]] = {name: {} for name in MOMENTS}
    unusable = []
    converted = computed_ahead(functools.partial(convert, *place) for place in places)
    for (_, entry, name), (array, usable) in zip(places, converted, strict=True):
        assert entry.path is not None
        moments[name][entry.path] = array
        if not usable:
            unusable.append(f"{name} of {entry.key}")
    if unusable:
        warnings.warn(
            f"NaN, infinite or negative moments: {listed(unusable)}",
            NonFiniteWarning,
            stacklevel=2,
        )
    return OptimizerState(step=step, hyperparameters=settings, **moments)


def state_problems(state: Mapping[Any, Any], parameters: list[Entry]) -> dict[str, list[str]]:
    """What is wrong with the entries of torch's optimizer state, by kind; no values are read.

    Args:
        state: by the index of the parameter, of Tensors.
        parameters: the model's, in torch's order.
    """
    problems: dict[str, list[str]] = {
        "incomplete": [],
        "unexpected": [
            f"index {index!r:.80}"
            for index in state
            if type(index) is not int or index not in range(len(parameters))
        ],
        "misshapen": [],
        "of the wrong type": [],
    }
    for index, entry in enumerate(parameters):
        if index not in state:
            continue
        item = state[index]
        name = f"{index} ({entry.key})"
        if not isinstance(item, Mapping) or set(item) != _KEYS:
            keys = set(item) if isinstance(item, Mapping) else set()
            wrong = " and ".join(
                f"{verb} {listed(sorted(safe_name(str(key)) for key in some))}"
                for verb, some in (("lacks", _KEYS - keys), ("has", keys - _KEYS))
                if some
            )
            problems["incomplete"].append(f"{name} {wrong}")
            continue
        for moment in MOMENTS:
            tensor = item[moment]
            if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
                problems["of the wrong type"].append(f"{moment} of {name}")
            elif tensor.shape != entry.shape:
                found, wanted = list(tensor.shape), list(entry.shape)
                problems["misshapen"].append(f"{moment} of {name} is {found}, not {wanted}")
    return problems


def _common_step(state: Mapping[Any, Any], parameters: list[Entry]) -> int:
    """The step of all entries, after checking everything else about them."""
    problems = state_problems(state, parameters)
    steps: dict[int, str] = {}
    for index, entry in enumerate(parameters):
        item = state.get(index)
        if isinstance(item, Mapping) and "step" in item:
            name = f"{index} ({entry.key})"
            step = _whole_step(item["step"])
            if step is None:
                problems["of the wrong type"].append(f"step of {name}")
            else:
                steps.setdefault(step, name)
    if any(problems.values()):
        raise MismatchError("the optimizer state is not the model's", problems)
    if len(steps) > 1:
        each = listed([f"{step} at {name}" for step, name in steps.items()])
        raise FormatError(
            f"optimizer_state_dict has parameters at different steps: {each}, and "
            "training here has one step for all"
        )
    return next(iter(steps), 0)


def _whole_step(step: Any) -> int | None:
    """The number of steps that an entry states, None if it is no such number."""
    if isinstance(step, Tensor) and step.size == 1:
        step = step.read().item()
    if type(step) not in (int, float) or not 0 <= step < 2**53 or step != step // 1:
        return None
    return int(step)


def check_moments(state: OptimizerState, parameters: list[Entry]) -> None:
    """Makes sure that the moments are of these parameters.

    Raises:
        MismatchError: they are not; lists all that differ.
    """
    shapes = {
        entry.path: entry.shape[::-1] if entry.transpose else entry.shape for entry in parameters
    }
    problems: dict[str, list[str]] = {
        "without a pair": [str(path) for path in state.exp_avg.keys() ^ state.exp_avg_sq.keys()],
        "unexpected": [],
        "misshapen": [],
    }
    for moments in (state.exp_avg, state.exp_avg_sq):
        for path, array in moments.items():
            if path not in shapes:
                problems["unexpected"].append(str(path))
            elif array.shape != shapes[path]:
                problems["misshapen"].append(f"{path} is {array.shape}, not {shapes[path]}")
    if any(problems.values()):
        raise MismatchError("the optimizer state is not the model's", problems)
