"""Where weights lie in a file's content, and what else it holds, in words."""

from collections.abc import Mapping
from typing import Any

from bridge.errors import FormatError, counted, listed
from bridge.files.plain_data import safe_name
from bridge.files.refused import Refused
from bridge.files.tensors import Tensor

_DEEPEST = 2
"""Levels of dictionaries around weights that are looked for, to name them."""


def entry_of(content: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    """The weights of this name; a dot goes into a dictionary."""
    found: Any = content
    if name in content:
        found = content[name]
    else:
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, Refused):
        raise found.error(safe_name(name))
    if not isinstance(found, Mapping) or not _tensors_in(found):
        raise FormatError(
            f"has no weights called {name}; dictionaries of tensors in it: "
            f"{listed(weights_in(content)) or 'none'}"
        )
    return found


def is_weight(item: Any) -> bool:
    """Whether it belongs to a model: averages have a rate of decay and counters beside weights."""
    return isinstance(item, Refused) or (isinstance(item, Tensor) and item.shape != ())


def _tensors_in(item: Any) -> int:
    values = item.values() if isinstance(item, Mapping) else ()
    return sum(isinstance(value, Tensor) for value in values)


def weights_in(content: Any, path: str = "", known: set[int] | None = None) -> list[str]:
    """The dictionaries of tensors in a content, as --weights names them, what is shared once."""
    known = set() if known is None else known
    if not isinstance(content, Mapping) or "param_groups" in content:  # an optimizer's
        return []
    found = []
    for key, item in content.items():
        if not (isinstance(key, str) and isinstance(item, Mapping)) or id(item) in known:
            continue
        known.add(id(item))
        found += [safe_name(path + key)] if _tensors_in(item) else []
        if "." not in key and path.count(".") < _DEEPEST:
            found += weights_in(item, f"{path}{key}.", known)
    return found


def described(item: Any) -> str:
    """What an entry is, in a few words."""
    if isinstance(item, Mapping):
        tensors = _tensors_in(item)
        entries = f"a dictionary of {counted(len(item), 'entry')}"
        return counted(tensors, "tensor") if tensors else entries
    if isinstance(item, list | tuple):
        return f"a {type(item).__name__} of {counted(len(item), 'value')}"
    if isinstance(item, Refused):
        return f"{item.shown}, not read" if item.is_object else item.what
    return f"{item!r:.40}"


def advice(weights: list[str]) -> str:
    """What to do where the weights are in none of the usual places, but in these, if any."""
    if not weights:
        return "save the model's state_dict() alone, or under that name"
    if len(weights) == 1:
        return f"--weights {weights[0]} takes the tensors in there"
    return f"give --weights and the name of those to take: {listed(weights)}"
