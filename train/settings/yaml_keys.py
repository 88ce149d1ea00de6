"""The keys of a YAML config file: the line of each, and a check that all are known."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import yaml

import bridge
from train.system.errors import UserError

_NULL, _LIST = "tag:yaml.org,2002:null", "tag:yaml.org,2002:seq"

_OTHER_COMMANDS = {
    "stages": "this is a pipeline's config, for python -m train.pipeline",
    **dict.fromkeys(
        ("base_model", "optimizer", "training"),
        "this is one stage's config, for python -m train.base, train.expert, train.fusion and "
        "train.evaluate; a pipeline's has optimizer and training in stages.base, stages.text, ...",
    ),
}
"""What a file is that has a key which only other commands know."""


def read_config(path: str) -> yaml.Node:
    """The content of a config file, with the line of everything.

    Raises:
        UserError: the file cannot be read, or is not YAML in UTF-8.
    """
    try:
        node = bridge.read_yaml(path)
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error
    if node is None:
        raise UserError(f"the config file {path} is empty: set at least data_dir and run_dir")
    for scalar in _scalars(node):
        if not is_text(scalar.value):
            place = f"{path} line {scalar.start_mark.line + 1}"
            raise UserError(f"{place}: {scalar.value!a} is not Unicode text")
    return node


def is_text(word: str) -> bool:
    """Whether it has no half of a surrogate pair, as YAML can spell and broken bytes become."""
    return word.isascii() or not any("\ud800" <= character <= "\udfff" for character in word)


def key_lines(node: yaml.Node, path: str, kind: type[Any]) -> dict[str, int]:
    """The line of every key in what `read_config` returned, by its dotted name.

    Raises:
        UserError: a key is unknown or set twice, or a section is missing.
    """
    lines: dict[str, int] = {}
    try:
        _collect_lines(node, kind, "", path, lines, list(setting_names(kind)))
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error
    for field in dataclasses.fields(kind):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and dataclasses.is_dataclass(field.type) and field.name not in lines:
            raise UserError(
                f"{path}: the section {field.name} is missing: a pipeline's config has it, and one "
                "stage's, for python -m train.base, train.expert or train.fusion, has not"
            )
    return lines


def take_single_values(node: yaml.Node, kind: type[Any]) -> None:
    """Makes a list of a single value that stands where a list belongs, such as `text: corpus`."""
    hints = typing.get_type_hints(kind)
    for index, (key, value) in enumerate(node.value):
        hint = hints[key.value]
        if dataclasses.is_dataclass(hint):
            take_single_values(value, typing.cast(type[Any], hint))
        elif is_list(hint) and isinstance(value, yaml.ScalarNode) and value.tag != _NULL:
            marks = value.start_mark, value.end_mark
            node.value[index] = key, yaml.SequenceNode(_LIST, [value], *marks)


def is_list(hint: Any) -> bool:
    """Whether a setting of this type is a list."""
    return typing.get_origin(hint) is list


def setting_names(kind: type[Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all settings and sections of a config's class."""
    for name, hint in typing.get_type_hints(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from setting_names(typing.cast(type[Any], hint), f"{prefix}{name}.")


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    todo, seen = [node], set()
    while todo:
        node = todo.pop()
        if isinstance(node, yaml.ScalarNode):
            yield node
        elif id(node) not in seen:  # an alias may even name what it is in
            seen.add(id(node))
            for item in node.value:
                todo.extend(item if isinstance(item, tuple) else [item])


def _collect_lines(
    node: yaml.Node, kind: Any, prefix: str, path: str, lines: dict[str, int], names: list[str]
) -> None:
    known = typing.get_type_hints(kind)
    for name, line, value in bridge.keys_of(node, prefix, path):
        key = prefix + name
        if name not in known:
            raise bridge.wrong_line(path, line, f"unknown key {key}; {_hint(key, known, names)}")
        lines[key] = line
        if dataclasses.is_dataclass(known[name]):
            _collect_lines(value, known[name], f"{key}.", path, lines, names)


def _hint(key: str, known: typing.Iterable[str], names: list[str]) -> str:
    """What to do about an unknown key, of a section that has the keys `known`."""
    if key in _OTHER_COMMANDS:
        return _OTHER_COMMANDS[key]
    section, _, last = key.rpartition(".")
    if key in names:  # written with its dots
        return f"indent {last} below a line '{section}:'"
    meant = bridge.closest(key, names)
    return f"did you mean {meant}?" if meant else f"known: {', '.join(known)}"
