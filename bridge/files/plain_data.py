"""Plain data: what a checkpoint holds besides tensors, kept in .pt files and as JSON.

Also the limits that keep a small file from becoming large data, or a slow program: whatever its
author meant, what a file holds is in proportion to what it is long.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bridge.errors import FormatError
from bridge.files.tensors import Tensor

MOST_PARTS = 2**20
"""Of one pickle or JSON text, as each takes memory and time; 250 layers and their optimizer."""

_MOST_VALUES = MOST_PARTS // 4
"""Of metadata and the like. No value takes more than three parts, so that all can be read again."""

_MOST_TEXT = 2**24
"""Characters of all strings together, each as often as it comes."""

_LARGEST_LIST = 2**14
"""Values of a tensor, such as a random generator's state, that is kept as a list."""

_DEEPEST = 50
_DEEPEST_OF_ALL = _DEEPEST + 10
"""Metadata and the like are some levels down in the content of a file."""

_MOST_OTHER_KEYS = 2**17
"""Keys that are not strings; only a string's hash is one that nobody can choose."""

_MOST_TIMES = 4
"""How often a file's bytes may come in tensors, counted together; a tied tensor comes twice."""


def safe_name(name: str) -> str:
    """A file's own name for something, as a message can hold it: printable and not too long."""
    return repr(name[:80])[1:-1][:100]


def plain(value: Any, where: str) -> Any:
    """`value` made of dicts, lists, tuples, numbers, strings and None, nothing shared.

    Dataclasses become dicts, arrays and small tensors lists, paths and dates strings; `where` names
    the value in errors.

    Raises:
        FormatError: something has no such form, or there is too much of it.
    """
    left, text_left = _MOST_VALUES, _MOST_TEXT
    keys = Keys()

    def convert(value: Any, where: str, depth: int) -> Any:
        nonlocal left, text_left
        left -= 1
        text_left -= len(value) if isinstance(value, str) else 0
        if depth > _DEEPEST or left < 0 or text_left < 0:
            raise FormatError(f"{where.split('[')[0]} is nested too deeply or too large")
        if value is None:
            return None
        # Subclasses of these, enums and numpy's among them, would be pickled by their own class.
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                number = kind(value)
                if type(number) is int and number.bit_length() > 1000:
                    raise FormatError(f"{where:.200} is a number of {number.bit_length()} bits")
                return number
        if isinstance(value, Mapping):
            return {
                keys.checked(convert(key, f"a key of {where}", depth + 1)): convert(
                    item, f"{where}[{key!r:.80}]", depth + 1
                )
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            items = [convert(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, Tensor) and value.size <= _LARGEST_LIST:
            return convert(value.read().tolist(), where, depth + 1)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if dataclasses.is_dataclass(value) and not isinstance(value, Tensor | type):
            return convert(dataclasses.asdict(value), where, depth + 1)
        if hasattr(value, "__array__"):
            return convert(np.asarray(value).tolist(), where, depth + 1)
        raise FormatError(
            f"{where:.200} cannot be kept: a {type(value).__name__} is not plain data"
        )

    return convert(value, where, 0)


class Keys:
    """Checks the keys of a file's dictionaries.

    A string is found as fast as any other, as nobody can choose its hash. Numbers and tuples can
    be chosen so that all have the same, and a nested tuple so that computing it takes forever.
    """

    def __init__(self) -> None:
        self._left = _MOST_OTHER_KEYS

    def checked(self, key: Any) -> Any:
        """The same key, if a dictionary of a checkpoint may have it.

        Raises:
            FormatError: it is neither a string nor a usual number nor None, or one too many.
        """
        if type(key) is str:
            return key
        if type(key) is int and key.bit_length() > 60:
            raise FormatError("a dictionary has a huge number as a key")
        if key is not None and type(key) not in (bool, int, float):
            raise FormatError(f"a dictionary has a {type(key).__name__} as a key")
        self._left -= 1
        if self._left < 0:
            raise FormatError(f"its dictionaries have more than {_MOST_OTHER_KEYS} numbers as keys")
        return key


def check_extent(content: Any, stored: int) -> None:
    """Makes sure that what was read from a file is plain data and Tensors, and not too much.

    A few bytes of pickle can put a container into itself, or one container or tensor any number
    of times into another; what works with the content afterwards would meet it each time.

    Args:
        content: of the file.
        stored: bytes that the file has.

    Raises:
        FormatError: it is nested too deeply or in itself, has too many values or larger tensors
            than the file can fill, or holds something else.
    """
    known: dict[int, tuple[int, int, int]] = {}

    def extent(value: Any, depth: int) -> tuple[int, int, int]:
        """The values, the bytes of tensors, and the levels of containers."""
        if isinstance(value, Tensor):
            return 1, value.nbytes, 0
        if value is None or isinstance(value, bool | int | float | str):
            return 1, 0, 0
        if not isinstance(value, dict | list | tuple):
            raise FormatError(f"holds a {type(value).__name__.strip('_')} as a value")
        if id(value) not in known and depth <= _DEEPEST_OF_ALL:
            known[id(value)] = 0, 0, _DEEPEST_OF_ALL  # until it is known: too deep inside itself
            values, size, levels = 1, 0, 0
            for item in (*value, *value.values()) if isinstance(value, dict) else value:
                more_values, more_size, more_levels = extent(item, depth + 1)
                values += more_values
                size += more_size
                levels = max(levels, more_levels)
            known[id(value)] = values, size, levels + 1
        values, size, levels = known.get(id(value), (0, 0, 0))
        if depth + levels > _DEEPEST_OF_ALL:
            raise FormatError("its containers are nested too deeply, or in themselves")
        return values, size, levels

    values, size, _ = extent(content, 1)
    if values > MOST_PARTS:
        raise FormatError(f"holds more than {MOST_PARTS} values")
    if size > _MOST_TIMES * stored:
        raise FormatError(f"its tensors claim {size} bytes, where the file has {stored}")


def to_json(value: Any, reference: Callable[[Tensor], str] | None = None) -> str:
    """Plain data as one line of JSON that `from_json` restores exactly.

    What JSON lacks is marked: a tuple is {"tuple": [...]}, a dictionary whose keys are not all
    strings, or which could be taken for a mark, is {"pairs": [[key, value], ...]}, and a Tensor is
    {"tensor": its name}.

    Args:
        value: plain data.
        reference: the name of a Tensor, where there are any.
    """

    def marked(value: Any) -> Any:
        if isinstance(value, Tensor) and reference is not None:
            return {"tensor": reference(value)}
        if isinstance(value, dict):
            if all(isinstance(key, str) for key in value) and value.keys() not in _MARKS:
                return {key: marked(item) for key, item in value.items()}
            return {"pairs": [[marked(key), marked(item)] for key, item in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [marked(item) for item in value]}
        if isinstance(value, list):
            return [marked(item) for item in value]
        return value

    return json.dumps(marked(value))


def from_json(text: str, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """The plain data that `to_json` wrote.

    Args:
        text: the JSON.
        tensors: by the names that it refers to.

    Raises:
        FormatError: it is not JSON, names a key twice, or refers to a tensor that there is not.
    """
    keys = Keys()

    def restored(found: dict[str, Any]) -> Any:
        if found.keys() == {"tuple"}:
            return tuple(found["tuple"])
        if found.keys() == {"pairs"}:
            return unique([(keys.checked(key), value) for key, value in found["pairs"]])
        if found.keys() == {"tensor"}:
            return (tensors or {})[found["tensor"]]
        return found

    try:
        return parsed(text, lambda pairs: restored(unique(pairs)))
    except (ValueError, TypeError, KeyError):
        raise FormatError("its JSON is damaged") from None


def parsed(text: str, dictionary: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    """What a JSON text holds.

    Args:
        text: the JSON.
        dictionary: makes what stands for a dictionary from its pairs.

    Raises:
        FormatError: it has too many values.
        ValueError: it is no JSON.
    """
    if not is_short(text):
        raise FormatError(f"its JSON has more than {MOST_PARTS} values")
    try:
        return json.loads(text, object_pairs_hook=dictionary)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_short(text: str) -> bool:
    """Whether a JSON text is one that `parsed` reads."""
    return sum(map(text.count, ",[{")) <= MOST_PARTS


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary of these pairs.

    Raises:
        FormatError: a key comes twice.
    """
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FormatError(f"has the key {key!r:.80} twice in one dictionary")
        found[key] = value
    return found


_MARKS = ({"tuple"}, {"pairs"}, {"tensor"})
