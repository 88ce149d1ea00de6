"""The parameter groups of torch's AdamW: its settings, and which parameter each entry is of."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.errors import FormatError, MismatchError, listed
from bridge.files.plain_data import plain, safe_name
from bridge.keys import Entry
from bridge.names import own_names

NAMES = "param_names"
"""The parameters' names; torch writes them when the optimizer is given named parameters."""

_REQUIRED = {"lr", "betas", "eps", "weight_decay"}

_ADDED = (
    {"amsgrad"},
    {"maximize"},
    {"foreach", "capturable"},
    {"differentiable"},
    {"fused"},
    {"decoupled_weight_decay"},
)
"""The other settings of AdamW, in the order in which versions of torch added them. A version's are
those up to some place; other optimizers lack some of them in between."""

_OF_SCHEDULES = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
"""What torch's schedules note in a group; AdamW itself does not read it."""

_UNSUPPORTED = {"amsgrad": True, "maximize": True, "decoupled_weight_decay": False}
"""Settings with which AdamW, or Adam, computes something else."""

_FOREIGN = {
    "momentum_decay": "NAdam",
    "correct_bias": "the AdamW of transformers",
    "bias_correction": "LAMB or apex's FusedAdam",
    "weight_lr_power": "schedule-free AdamW",
    "d_coef": "Prodigy or D-Adaptation",
    "nus": "QHAdam",
    "final_lr": "AdaBound",
    "scale_parameter": "Adafactor",
    "momentum": "SGD or RMSprop",
    "rho": "Adadelta",
    "lr_decay": "Adagrad",
    "lambd": "ASGD",
}
"""A setting that an optimizer has and AdamW has not, and whose it is."""

_REMEDY = "import the weights alone with --model-only"

_LARGEST = 1e30
"""Of a setting; with larger ones, and with NaN, AdamW computes nothing."""


def read_groups(state_dict: Any) -> tuple[dict[str, Any], list[str] | None, int]:
    """The settings that all groups share, the parameters' names if stated, and their number.

    Args:
        state_dict: of an optimizer, of Tensors.

    Raises:
        FormatError: it is not AdamW's, or its groups have different settings.
    """
    try:
        groups = [plain(dict(group), "param_groups") for group in state_dict["param_groups"]]
        indices = [index for group in groups for index in group.pop("params")]
        usable = bool(groups) and isinstance(state_dict["state"], Mapping)
    except (KeyError, TypeError, IndexError, ValueError):
        usable = False
    if not usable:
        raise FormatError("optimizer_state_dict is not what torch's optimizers write")
    if indices != list(range(len(indices))):
        raise FormatError("optimizer_state_dict numbers its parameters otherwise than torch does")
    names = _names(groups, len(indices))
    settings = groups[0]
    different = [
        key
        for key in dict.fromkeys(key for group in groups for key in group)
        if any(key not in group or group[key] != settings.get(key) for group in groups)
    ]
    if different:
        keys = listed([safe_name(str(key)) for key in different])
        raise FormatError(
            f"optimizer_state_dict has {len(groups)} parameter groups with different {keys}, and "
            f"training here has one: {_REMEDY}"
        )
    _check_settings(settings)
    return settings, names, len(indices)


def ordered_parameters(
    names: Sequence[str] | None, count: int, parameters: Sequence[Entry]
) -> list[Entry]:
    """The parameter of each entry of the optimizer's state.

    Args:
        names: of the parameters in the optimizer's order; None means that it is the model's.
        count: how many parameters the optimizer is over.
        parameters: the model's, in its own order.

    Raises:
        FormatError: without names, the optimizer is over another number of parameters.
        MismatchError: a name is not the model's, or comes twice.
    """
    if names is None:
        if count != len(parameters):
            raise FormatError(
                f"optimizer_state_dict is over {count} parameters, where the model has "
                f"{len(parameters)}, and does not state their names"
            )
        return list(parameters)
    by_name = {entry.key: entry for entry in parameters}
    own, _ = own_names(names)
    found = [own[name] for name in names]
    times = collections.Counter(found)
    problems = {
        "unknown": [name for name in found if name not in by_name],
        "duplicate": [name for name, count in times.items() if count > 1],
    }
    if any(problems.values()):
        raise MismatchError("the optimizer's param_names are not the model's", problems)
    return [by_name[name] for name in found]


def _names(groups: Sequence[dict[str, Any]], count: int) -> list[str] | None:
    stated = [group.pop(NAMES) for group in groups if NAMES in group]
    if not stated:
        return None
    if not all(isinstance(names, list | tuple) for names in stated):
        raise FormatError("optimizer_state_dict has param_names that are not a list")
    names = [name for names in stated for name in names]
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"optimizer_state_dict has {len(names)} param_names for {count} parameters"
        )
    return names


def _check_settings(settings: Mapping[str, Any]) -> None:
    added = set().union(*_ADDED)
    foreign = [key for key in settings if key not in _REQUIRED | added | _OF_SCHEDULES]
    if foreign:
        whose = next((_FOREIGN[key] for key in foreign if key in _FOREIGN), "another optimizer")
        raise FormatError(
            f"optimizer_state_dict is of {whose}, not of AdamW, which has no setting "
            f"{listed([safe_name(str(key)) for key in foreign])}: {_REMEDY}"
        )
    wrong = [key for key in ("lr", "eps", "weight_decay") if not _usable(settings.get(key))]
    betas = settings.get("betas")
    if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(map(_usable, betas))):
        wrong.append("betas")
    if wrong:
        raise FormatError(
            f"optimizer_state_dict is not AdamW's: it has no usable {', '.join(wrong)}"
        )
    newest = max((i for i, keys in enumerate(_ADDED) if keys & settings.keys()), default=0)
    lacking = set().union(*_ADDED[: newest + 1]) - settings.keys()
    if lacking:
        raise FormatError(
            "optimizer_state_dict is of another optimizer, such as RAdam: AdamW also has the "
            f"settings {', '.join(sorted(lacking))}: {_REMEDY}"
        )
    for key, value in _UNSUPPORTED.items():
        if settings.get(key, not value) == value:
            raise FormatError(f"optimizer_state_dict has {key} = {value}, which is not plain AdamW")


def _usable(number: Any) -> bool:
    return type(number) in (int, float) and 0 <= number < _LARGEST
