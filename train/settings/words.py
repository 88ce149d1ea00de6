"""The words of a command line, as the parser of settings takes them."""

import json
import re
from collections.abc import Collection, Sequence

from bridge import unknown_argument
from train.settings.yaml_keys import is_text
from train.system.errors import UserError


def check_words(words: Sequence[str], names: Sequence[str], *, has_config: bool) -> None:
    """Finds what the parser would not say, or say too late.

    Args:
        words: the command line without --config.
        names: of the options, without their dashes.
        has_config: whether there was a --config.

    Raises:
        UserError: a word is not Unicode text; or --config is missing, since it is misspelt or left
            out before the file.
    """
    for word in words:
        if not is_text(word):
            raise UserError(
                f"command line: {word!a} is not text in this system's encoding: rename what "
                "it names"
            )
        if has_config:
            continue
        if word.startswith("--") and word[2:].partition("=")[0] not in names:
            raise UserError(unknown_argument(word, names))
        if word.endswith((".yaml", ".yml")):
            raise UserError(f"{word} is not an option: write --config {word}")


def with_single_values(words: Sequence[str], lists: Collection[str]) -> list[str]:
    """The command line with a list for each single value of a setting that is one.

    Args:
        words: the command line, such as ["--prompts", "def "].
        lists: the names of the settings that are lists.

    Raises:
        UserError: a setting is given several times, so that only the last value would count.
    """
    taken: list[str] = []
    seen = set()
    rest = iter(words)
    for word in rest:
        found = re.fullmatch(r"--([\w.]+)(?:=(.*))?", word, re.DOTALL)
        if not found or found[1] not in lists:
            taken.append(word)
            continue
        name, value = found[1], found[2]
        if name in seen:
            raise UserError(f"--{name} is given twice: write --{name} '[ONE, ANOTHER]'")
        seen.add(name)
        if value is None:
            value = next(rest, None)
        if value is None or value.startswith("--"):  # its value is missing, which the parser says
            taken += [word] if value is None else [word, value]
        elif value.lstrip().startswith("[") or value in ("", "null"):
            taken.append(f"--{name}={value}")
        else:
            taken.append(f"--{name}={json.dumps([value])}")
    return taken
