"""YAML files of keys: read with the line of every key, and one clear line where they are wrong."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from bridge.errors import ConfigError, UnreadableFileError, errors_about
from bridge.files.disk import PathLike, where_to_look

Place = tuple[str, int, yaml.Node]
"""A key, the line that it stands on, and its value."""

_MOST_VALUES = 2000
"""Keys and values of a config; the longest of ours has two hundred."""

_NO_COLON = "a ':' is missing: write 'key: value'"
_BARE_KEY = re.compile(r"\s*[^\s#:\-\[\]{}'\"][^:\[\]{}'\"]*")
_MISPLACED = {
    "mapping values are not allowed here": "no second ':' can stand here: indent keys alike, or "
    "quote the value",
    "expected <block end>": "it is indented like no key above it",
    "expected '<document start>'": "it cannot follow what is above it",
}
"""What a key is told that YAML did not expect, unless the line above is a key without its ':'."""


def read_yaml(path: PathLike) -> yaml.Node | None:
    """The content of a YAML file, its values unread; None where it is empty.

    Raises:
        UnreadableFileError: it cannot be read.
        ConfigError: it is not YAML.
    """
    with errors_about(path):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            remedy = where_to_look(path) if missing else "name a YAML file"
            raise UnreadableFileError(
                f"cannot be read: {error.strerror or error}; {remedy}"
            ) from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"is not UTF-8 text: {error.reason}: save it as UTF-8, or name another file"
            ) from None
        try:
            node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line, problem = _explained(error, text.splitlines())
            raise wrong_line(path, line, f"not valid YAML: {problem}") from None
        except RecursionError:
            raise ConfigError(
                "its values are nested too deep: a config needs five levels"
            ) from None
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"not valid YAML: {error}") from None
    if node is not None:
        _refuse_many(node, path)
    return node


def _refuse_many(node: yaml.Node, path: PathLike) -> None:
    """Raises ConfigError for so many values that reading them would not end, of aliases too."""
    todo, count = [node], 0
    while todo:
        node, count = todo.pop(), count + 1
        if count > _MOST_VALUES:
            raise wrong_line(
                path,
                _line(node),
                f"more than {_MOST_VALUES:,} values up to here, with those that aliases repeat: "
                "name folders or patterns, or remove some",
            )
        if not isinstance(node, yaml.ScalarNode):
            items = (x if isinstance(x, tuple) else (x,) for x in node.value)
            todo += reversed([part for item in items for part in item])


def keys_of(node: yaml.Node, prefix: str, path: PathLike) -> Iterator[Place]:
    """The keys of a section.

    Args:
        node: the section.
        prefix: its own dotted key with a dot behind; empty for the whole file.
        path: of the file.

    Raises:
        ConfigError: it is no section, or a key stands in it twice.
    """
    if not isinstance(node, yaml.MappingNode):
        what = prefix.rstrip(".") or "a config file"
        raise wrong_line(
            path, node.start_mark.line + 1, f"{what} must hold keys, each 'key: value'"
        )
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value) if isinstance(key, yaml.ScalarNode) else "?", _line(key)
        if name in lines:
            raise wrong_line(
                path, line, f"{prefix}{name} was set on line {lines[name]} already: remove one"
            )
        lines[name] = line
        yield name, line, value


def wrong_line(path: PathLike, line: int, problem: str) -> ConfigError:
    """The error about one line of a file."""
    error = ConfigError(problem)
    error.path = f"{path} line {line}"
    return error


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _explained(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[int, str]:
    """The line to correct, and what is wrong with it: YAML names the place where it noticed."""
    mark, begin = error.problem_mark or error.context_mark, error.context_mark
    line = mark.line + 1 if mark else 1
    if error.problem == "could not find expected ':'" and begin:
        return begin.line + 1, _NO_COLON
    problem = error.problem or "it cannot be read"
    for beginning, meaning in _MISPLACED.items():
        if problem.startswith(beginning):
            before = next((n for n in range(line - 1, 0, -1) if _is_content(lines[n - 1])), 0)
            if before and _BARE_KEY.fullmatch(lines[before - 1]):
                return before, _NO_COLON
            return line, meaning
    if begin and begin.line + 1 != line:
        problem += f" {error.context}, which begins on line {begin.line + 1}"
    return line, problem


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
