"""Which settings are paths, and that `~` stands for the home folder in all of them."""

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


def with_home(key: str, value: Any) -> Any:
    """A setting's value, where it names paths with the home folder in place of `~`."""
    if key not in PATHS:
        return value
    if isinstance(value, list):
        return [with_home(key, item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value
