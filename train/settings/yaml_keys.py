"""The keys of a YAML config file: the line of each, and a check that all are known."""

import dataclasses
import difflib
import typing
from typing import Any

import yaml

from train.system.errors import UserError


def key_lines(path: str, kind: type[Any]) -> dict[str, int]:
    """The line of every key in a config file, by its dotted name.

    Raises:
        UserError: the file cannot be read, is not YAML, or a key is unknown or set twice.
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
    lines: dict[str, int] = {}
    _collect_lines(node, kind, "", path, lines)
    return lines


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
