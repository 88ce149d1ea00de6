"""The parameter groups of torch's AdamW: its settings, and which parameter each entry is of."""

import collections
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.errors import FileWarning, FormatError, MismatchError, listed
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

_UNSUPPORTED = ("amsgrad", "maximize")
"""Switches with which AdamW computes something else."""

_LABEL = "name"
"""A group's name, which some programs give it; no optimizer reads it."""

_FOREIGN = {
    "momentum_decay": "NAdam",
    "correct_bias": "the AdamW of transformers",
    "bias_correction": "LAMB or apex's FusedAdam",
    "weight_lr_power": "schedule-free AdamW",
    "d_coef": "Prodigy or D-Adaptation",
    "nus": "QHAdam",
    "final_lr": "AdaBound",
    "scale_parameter": "Adafactor",
    "beta2_decay": "Adafactor",
    "ns_steps": "Muon",
    "dampening": "SGD",
    "centered": "RMSprop",
    "etas": "Rprop",
    "history_size": "LBFGS",
    "rho": "Adadelta",
    "lr_decay": "Adagrad",
    "lambd": "ASGD",
}
"""A setting that an optimizer has and AdamW has not, and whose it is."""

_WITHOUT_BETAS = {"SGD", "RMSprop", "Rprop", "LBFGS", "Adadelta", "Adagrad", "ASGD"}
"""Those that have no betas: with betas, such a setting is another optimizer's."""

_LARGEST = 1e30
"""Of a setting; with larger ones, and with NaN, AdamW computes nothing."""


def read_groups(state_dict: Any) -> tuple[dict[str, Any], list[str] | None, int]:
    """The settings that all groups share, the parameters' names if stated, and their number.

    Args:
        state_dict: of an optimizer, of Tensors.

    Raises:
        FormatError: it is not AdamW's, or its groups have different settings.

    Warns:
        FileWarning: it may be Adam's, which did not differ in old versions of torch, or several
            groups may have the parameters in another order than the model.
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
    for group in groups:
        group.pop(_LABEL, None)
    settings = groups[0]
    _check_settings(settings, state_dict["state"])
    different = [
        key
        for key in dict.fromkeys(key for group in groups for key in group)
        if any(
            key not in group or key not in settings or group[key] != settings[key]
            for group in groups[1:]
        )
    ]
    if different:
        keys = listed([safe_name(str(key)) for key in different])
        raise FormatError(
            f"optimizer_state_dict has {len(groups)} parameter groups with different {keys}, and "
            "training here has one"
        )
    if len(groups) > 1 and names is None:
        warnings.warn(
            f"optimizer_state_dict has {len(groups)} parameter groups and no param_names: its "
            "parameters are taken to be in the model's order",
            FileWarning,
            stacklevel=2,
        )
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


def _check_settings(settings: Mapping[str, Any], state: Mapping[Any, Any]) -> None:
    known = _REQUIRED.union(_OF_SCHEDULES, *_ADDED)
    foreign = [safe_name(str(key)) for key in settings if key not in known]
    whose = _owner(settings, state)
    if foreign:
        raise FormatError(
            f"optimizer_state_dict is of {whose}, not of AdamW, which has no setting "
            f"{listed(foreign)}"
        )
    newest = max((i for i, keys in enumerate(_ADDED) if keys & settings.keys()), default=0)
    lacking = set().union(*_ADDED[: newest + 1]) - settings.keys()
    if whose == "SparseAdam":
        lacking.add("weight_decay")
    wrong = [key for key in ("lr", "eps", "weight_decay") if not _usable(settings.get(key))]
    betas = settings.get("betas")
    if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(map(_usable, betas))):
        wrong.append("betas")
    if wrong and not lacking:
        raise FormatError(
            f"optimizer_state_dict is not AdamW's: it has no usable {', '.join(wrong)}"
        )
    if lacking:
        raise FormatError(
            f"optimizer_state_dict is of {whose}: AdamW also has the settings "
            f"{', '.join(sorted(lacking))}"
        )
    for key in _UNSUPPORTED:
        if settings.get(key):
            raise FormatError(
                f"optimizer_state_dict has {key} = {settings[key]!r:.80}, which is not plain AdamW"
            )
    _check_decay(settings)


def _owner(settings: Mapping[str, Any], state: Mapping[Any, Any]) -> str:
    """The optimizer that writes such settings and such a state, if it is not AdamW."""
    for key, name in _FOREIGN.items():
        if key in settings and not ("betas" in settings and name in _WITHOUT_BETAS):
            return name
    first = next(iter(state.values()), None)
    if isinstance(first, Mapping) and "exp_inf" in first:
        return "Adamax"
    if "amsgrad" not in settings:
        if "decoupled_weight_decay" in settings:
            return "RAdam"
        if "betas" in settings and "weight_decay" not in settings:
            return "SparseAdam"
    return "another optimizer"


def _check_decay(settings: Mapping[str, Any]) -> None:
    """Refuses Adam's, which has the same settings and decays the gradient, not the weights."""
    decay = settings["weight_decay"]
    if not decay:
        return
    # From torch 1.12 to 2.5 their settings differ in their order alone. In a run that an older
    # torch began, a schedule's setting comes before those that were added.
    keys = [key for key in settings if key in ("maximize", "foreach", "initial_lr")]
    if "decoupled_weight_decay" in settings:
        is_adam = not settings["decoupled_weight_decay"]
    elif "foreach" in keys and keys[0] != "initial_lr":
        is_adam = keys.index("maximize") < keys.index("foreach")
    else:
        is_adam = False
        warnings.warn(
            "optimizer_state_dict was begun with torch 1.11 or older, where Adam writes the same "
            f"as AdamW: it is taken for AdamW, with a weight decay of {decay}",
            FileWarning,
            stacklevel=2,
        )
    if is_adam:
        raise FormatError(
            f"optimizer_state_dict is of Adam with a weight decay of {decay}, which AdamW applies "
            "in another way"
        )


def _usable(number: Any) -> bool:
    return type(number) in (int, float) and 0 <= number < _LARGEST
