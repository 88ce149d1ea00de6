"""Plain data: what a checkpoint holds besides tensors, kept in .pt files and as JSON.

Also the limits that keep a small file from taking much memory or time, even if its author meant it
to: what a file contains must be in proportion to its length.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from bridge.errors import FormatError, UnsafeFileError
from bridge.files.refused import Refused, Unread
from bridge.files.tensors import Tensor

MOST_PARTS = 2**20
"""Values in one pickle or JSON text, as each takes memory and time; enough for 250 layers."""

_MOST_VALUES = MOST_PARTS // 4
"""Values in metadata and the like. Each has at most three parts, so all can be read again."""

_MOST_TEXT = 2**24
"""Characters of all strings together, counted each time that a string occurs."""

_LARGEST_LIST = 2**14
"""Values of a tensor that is kept as a list, such as a random generator's state."""

_DEEPEST = 50
_DEEPEST_OF_ALL = _DEEPEST + 10
"""Levels of nesting; metadata and the like are already some levels down in a file."""

_MOST_OTHER_KEYS = 2**17
"""Keys that are not strings; of other keys an attacker can choose the hash."""

_MOST_TIMES = 4
"""How often a file's bytes may be used in tensors, in all; a tied tensor uses them twice."""

_FREE_BYTES = 2**26
"""What the tensors of any file may claim, however small it is: expanded ones repeat few values."""


def safe_name(name: str) -> str:
    """A name from a file in a form for messages: printable and not too long."""
    return repr(name[:80])[1:-1][:100]


def plain(value: Any, where: str, *, lenient: bool = False) -> Any:
    """`value` as dicts, lists, tuples, numbers, strings and None, with nothing shared.

    Dataclasses become dicts, arrays and small tensors lists, paths and dates strings.

    Args:
        value: of which there may be anything.
        where: says in errors which value it is.
        lenient: leave out what has no such form, each item of a dictionary by itself; where all of
            it has none, the result is None.

    Raises:
        FormatError: something cannot be put in this form, or there is too much of it.
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
        if isinstance(value, Refused):
            raise value.error(where)
        # Subclasses of these, such as enums and numpy's, would be pickled with their own class.
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                number = kind(value)
                if type(number) is int and number.bit_length() > 1000:
                    raise FormatError(f"{where:.200} is a number of {number.bit_length()} bits")
                return number
        if isinstance(value, Mapping):
            result = {}
            for key, item in value.items():
                try:
                    name = keys.checked(convert(key, f"a key of {where}", depth + 1))
                    result[name] = convert(item, f"{where}[{key!r:.80}]", depth + 1)
                except (FormatError, UnsafeFileError):
                    if not lenient:
                        raise
            return result
        if isinstance(value, list | tuple):
            items = [convert(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, Tensor) and value.size <= _LARGEST_LIST:
            return convert(value.read().tolist(), where, depth + 1)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if dataclasses.is_dataclass(value) and not isinstance(value, Tensor | Unread | type):
            return convert(dataclasses.asdict(value), where, depth + 1)
        if hasattr(value, "__array__"):
            return convert(np.asarray(value).tolist(), where, depth + 1)
        raise FormatError(
            f"{where:.200} cannot be kept: a {type(value).__name__} is not plain data"
        )

    try:
        return convert(value, where, 0)
    except (FormatError, UnsafeFileError):
        if not lenient:
            raise
        return None


class Keys:
    """Checks the keys of a file's dictionaries.

    Nobody can choose the hash of a string, so strings are always found fast. Numbers and tuples
    can be chosen so that all have the same hash, and a nested tuple so that its hash takes forever.
    """

    def __init__(self) -> None:
        self._left = _MOST_OTHER_KEYS

    def checked(self, key: Any) -> Any:
        """The key itself, if a dictionary in a checkpoint may have it.

        Raises:
            FormatError: it is not a string, a usual number or None, or there are too many keys.
        """
        if type(key) is str or isinstance(key, Refused):  # nobody can choose their hashes
            return key
        if type(key) is int and key.bit_length() > 60:
            raise FormatError("a dictionary has a huge number as a key")
        if key is not None and type(key) not in (bool, int, float):
            raise FormatError(f"a dictionary has a {type(key).__name__} as a key")
        self._left -= 1
        if self._left < 0:
            raise FormatError(f"its dictionaries have more than {_MOST_OTHER_KEYS} numbers as keys")
        return key


def most_bytes(stored: int) -> int:
    """How many the tensors of a file may claim together.

    Args:
        stored: bytes that the file has.
    """
    return _MOST_TIMES * stored + _FREE_BYTES


def check_extent(content: Any, stored: int, needed: Collection[Any] | None = None) -> Any:
    """Makes sure that a file's content is only plain data, Tensors and Refused, and not too much.

    A few bytes of pickle can put a container into itself, or the same container or tensor into
    another any number of times. Code that uses the content would then meet it each time.

    Args:
        content: the file's content.
        stored: the number of bytes in the file.
        needed: the keys of the content, a dictionary, whose items must be right; None is all.

    Returns:
        The content, with a Refused in place of each item that is wrong and not needed.

    Raises:
        FormatError: it is nested too deeply or in itself, has too many values or larger tensors
            than the file can fill, or holds something else.
    """
    known: dict[int, tuple[int, int, int]] = {}

    def extent(value: Any, depth: int, strict: bool = True) -> tuple[int, int, int]:
        """Counts the values, the bytes of tensors, and the levels of containers."""
        if isinstance(value, Tensor):
            return 1, value.nbytes, 0
        if value is None or isinstance(value, bool | int | float | str | Refused):
            return 1, 0, 0
        if depth > 2 and not strict and isinstance(value, Unread):
            return 1, 0, 0
        if not isinstance(value, dict | list | tuple):
            name = getattr(value, "name", f"a {type(value).__name__}")
            raise FormatError(f"holds {name} as a value")
        if id(value) not in known and depth <= _DEEPEST_OF_ALL:
            known[id(value)] = 0, 0, _DEEPEST_OF_ALL  # until it is known: too deep inside itself
            values, size, levels = 1, 0, 0
            for item in (*value, *value.values()) if isinstance(value, dict) else value:
                more_values, more_size, more_levels = extent(item, depth + 1, strict)
                values += more_values
                size += more_size
                levels = max(levels, more_levels)
            known[id(value)] = values, size, levels + 1
        values, size, levels = known.get(id(value), (0, 0, 0))
        if depth + levels > _DEEPEST_OF_ALL:
            raise FormatError("its containers are nested too deeply, or in themselves")
        return values, size, levels

    if needed is not None and isinstance(content, dict):
        checked = dict(content)
        # What is known once is not looked at again, so the strict come first.
        for key in sorted(content, key=lambda key: key not in needed):
            try:
                extent(content[key], 2, key in needed)
            except FormatError as error:
                if key in needed:
                    raise
                checked[key] = Refused("value", error.message)
        content = checked
    values, size, _ = extent(content, 1)
    if values > MOST_PARTS:
        raise FormatError(f"holds more than {MOST_PARTS} values")
    if size > most_bytes(stored):
        raise FormatError(
            f"its tensors claim {size} bytes, where the file has {stored}: save them after .clone()"
        )
    return content


def to_json(value: Any, reference: Callable[[Tensor], str] | None = None) -> str:
    """Plain data as one line of JSON that `from_json` restores exactly.

    Types that JSON does not have are marked: a tuple is {"tuple": [...]}, and a Tensor is
    {"tensor": its name}. A dictionary is {"pairs": [[key, value], ...]} if not all of its keys are
    strings, or if it could be mistaken for a mark.

    Args:
        value: plain data.
        reference: gives the name of a Tensor, if there are any.
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
        tensors: the tensors, by the names in the JSON.

    Raises:
        FormatError: it is not JSON, has a key twice, or refers to a tensor that does not exist.
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
    """The content of a JSON text.

    Args:
        text: the JSON.
        dictionary: makes a dictionary, or its replacement, from its pairs.

    Raises:
        FormatError: it has too many values.
        ValueError: it is not JSON.
    """
    if not is_short(text):
        raise FormatError(f"its JSON has more than {MOST_PARTS} values")
    try:
        return json.loads(text, object_pairs_hook=dictionary)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_short(text: str) -> bool:
    """Whether `parsed` can read a JSON text."""
    return sum(map(text.count, ",[{")) <= MOST_PARTS


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary of these pairs.

    Raises:
        FormatError: a key occurs twice.
    """
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FormatError(f"has the key {key!r:.80} twice in one dictionary")
        found[key] = value
    return found


_MARKS = ({"tuple"}, {"pairs"}, {"tensor"})
