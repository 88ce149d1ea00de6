"""The keys of a YAML config file: on which line each stands, and that every one is known."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator
from typing import Any

import yaml

from train.system.errors import UserError


def read_config(path: str) -> yaml.Node:
    """What a config file holds, with the line of everything.

    Raises:
        UserError: the file cannot be read, or is not YAML in UTF-8.
    """
    try:
        with open(path, encoding="utf-8") as file:
            node = yaml.compose(file, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the config file {path} is not UTF-8 text: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
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
    """The line of every dotted key in what `read_config` gave.

    Raises:
        UserError: a key is unknown or set twice.
    """
    lines: dict[str, int] = {}
    _collect_lines(node, kind, "", path, lines)
    return lines


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
    node: yaml.Node, kind: type, prefix: str, path: str, lines: dict[str, int]
) -> None:
    if not isinstance(node, yaml.MappingNode):
        what = prefix.rstrip(".") or "a config file"
        line = node.start_mark.line + 1
        raise UserError(f"{path} line {line}: {what} must hold keys, each 'key: value'")
    known = typing.get_type_hints(kind)
    for key_node, value_node in node.value:
        name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        key, line = prefix + name, key_node.start_mark.line + 1
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
            raise UserError(f"{path} line {line}: unknown key {key}; {hint}")
        if key in lines:
            raise UserError(
                f"{path} line {line}: {key} was set on line {lines[key]} already: remove one"
            )
        lines[key] = line
        if dataclasses.is_dataclass(known[name]):
            _collect_lines(value_node, known[name], f"{key}.", path, lines)
