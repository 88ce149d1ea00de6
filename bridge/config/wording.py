"""What is said of a wrong name or value: the name that was meant, and a type in everyday words."""

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}
_SEVERAL = {int: "whole numbers", float: "numbers", str: "texts"}


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a wrong one was probably meant to be; None where none is near.

    Args:
        name: the wrong name, with or without its section.
        known: names, those in sections with dots.
    """
    names = list(known)
    last = name.rpartition(".")[2]
    elsewhere = [each for each in names if each.rpartition(".")[2] == last]
    if len(elsewhere) == 1:
        return elsewhere[0]
    near = difflib.get_close_matches(name, names, n=1)
    return near[0] if near else None


def unknown_argument(word: str, names: Sequence[str]) -> str:
    """What is wrong with a word of a command line that is no option of it.

    Args:
        word: as it was given, such as "--training.step=3".
        names: of the options, without their dashes.
    """
    all_listed = f"--{'help-all' if 'help-all' in names else 'help'} lists them all"
    if not word.startswith("-"):
        return f"{word} is not an option: options are written --NAME VALUE, {all_listed}"
    option = word.partition("=")[0].removesuffix("+")
    meant = closest(option.lstrip("-"), names)
    hint = f"did you mean --{meant}?" if meant else all_listed
    return f"unknown option {option}: {hint}"


def with_own_dashes(words: Sequence[str], names: Iterable[str]) -> list[str]:
    """A command line whose options have the command's own dashes and underscores.

    So `--top-k` and `--top_k` are the same option.

    Args:
        words: the command line.
        names: of the options, without their first dashes.
    """
    own = {name.replace("-", "_"): name for name in names}
    spelled = []
    for word in words:
        if word == "--":
            break
        name, *value = word.removeprefix("--").split("=", 1)
        meant = own.get(name.replace("-", "_")) if word.startswith("--") else None
        spelled.append("=".join([f"--{meant}", *value]) if meant else word)
    return [*spelled, *words[len(spelled) :]]


def type_in_words(hint: Any) -> str:
    """What a setting of this type takes: "a whole number", "a list of texts"."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {_joined(parts)}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_in_words(part) for part in parts)
    if origin is list:
        if typing.get_origin(parts[0]) is typing.Literal:
            return f"a list out of {_joined(typing.get_args(parts[0]))}"
        return f"a list of {_SEVERAL[parts[0]]}"
    if origin is dict:
        return f"names with {_SEVERAL[parts[1]]}, such as {{text: 0.7, code: 0.3}}"
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
