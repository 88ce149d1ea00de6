"""Compares the settings that something was made with and the settings given now."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from train.settings.config import Config, DistributedConfig

WITHOUT_EFFECT = {
    "base_model",
    "data_dir",
    "run_dir",
    "prompts",
    "training.remat",
    "training.log_every",
    "training.validate_every",
    "training.validation_batches",
    "training.sample_every",
    "training.tracker",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.keep_exports",
    "training.hang_seconds",
    *(f"distributed.{field.name}" for field in dataclasses.fields(DistributedConfig)),
}
"""Settings that do not change what training computes."""

CHANGEABLE = WITHOUT_EFFECT | {
    "training.precision",
    "optimizer.learning_rate",
    "optimizer.min_learning_rate",
    "mesh.data",
    "mesh.model",
}
"""Settings that may change when a run resumes; any other would make it a different run."""


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def with_defaults(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings that an older version wrote, with defaults for the ones it did not have."""
    defaults = flat(dataclasses.asdict(Config(data_dir="unknown", run_dir="unknown")))
    return {key: defaults[key] for key in new.keys() & defaults.keys()} | dict(old)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The old and the new value of flat settings that differ, by key."""
    return {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key)
    }


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The differences of flat settings by key, as texts such as "seed (0 there, 1 now)"."""
    return {
        key: f"{key} ({before} there, {now} now)"
        for key, (before, now) in differences(old, new).items()
    }
