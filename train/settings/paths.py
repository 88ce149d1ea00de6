"""Which settings are paths, what `~` is in them, and where a run's folder has its settings."""

import os
from typing import Any

PATHS = {
    "data_dir",
    "run_dir",
    "base_model",
    "prepare.text",
    "prepare.code",
    "prepare.detect",
    "prepare.tokenizer",
    "training.start_from",
    "fusion.text_expert",
    "fusion.code_expert",
    "evaluate.checkpoints",
}
"""The dotted keys of settings that name files, folders or patterns of them."""

CONFIG = "config.yaml"
"""The file in a run's folder that has the run's settings."""


def with_home(key: str, value: Any) -> Any:
    """A setting's value, where it names paths with the home folder in place of `~`.

    Raises:
        ValueError: it names the home folder of a user that there is not.
    """
    if key not in PATHS:
        return value
    if isinstance(value, list):
        return [with_home(key, item) for item in value]
    return home_expanded(value) if isinstance(value, str) else value


def home_expanded(path: str) -> str:
    """A path with the home folder in place of `~`.

    Raises:
        ValueError: it begins with `~NAME`, and there is neither such a user nor such a file.
    """
    expanded = os.path.expanduser(path)
    first = path.split("/")[0]
    if expanded.startswith("~") and not os.path.exists(first):
        raise ValueError(f"{path}: there is no user {first[1:]}: correct the path")
    return expanded
