"""The model's section of a training config in YAML."""

import contextlib
from pathlib import Path
from typing import Any

import yaml

from bridge.config.fields import FIELDS, typed
from bridge.errors import ConfigError, UnreadableFileError, errors_about
from bridge.files.disk import PathLike
from mmrec_jax import ModelConfig


def from_yaml(path: PathLike) -> ModelConfig:
    """The model that a training config in YAML describes; other sections are ignored.

    Raises:
        UnreadableFileError: it cannot be read.
        ConfigError: it is not YAML or has no section `model`, or a key in that section is unknown,
            set twice, or has a value that no model can have.
    """
    with errors_about(path):
        try:
            text = Path(path).read_text(encoding="utf-8")
            settings = yaml.safe_load(text)
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except OSError as error:
            raise UnreadableFileError(f"cannot be read: {error.strerror or error}") from None
        except yaml.MarkedYAMLError as error:
            line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
            raise ConfigError(f"{line}not valid YAML: {error.problem}") from None
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f"not valid YAML: {error}") from None
        model = settings.get("model") if isinstance(settings, dict) else None
        if not isinstance(model, dict):
            raise ConfigError("has no section `model` of keys, each 'key: value'")
        assert isinstance(node, yaml.MappingNode)
        sections = [value for key, value in node.value if key.value == "model"]
        _refuse_repeated(["model"] * len(sections))
        for section in sections:
            _refuse_repeated([f"model.{key.value}" for key, _ in section.value])
        try:
            return ModelConfig(**{key: _setting(key, value) for key, value in model.items()})
        except ValueError as error:
            raise ConfigError(f"model.{error}") from None


def _refuse_repeated(keys: list[str]) -> None:
    """yaml takes the last of them without a word."""
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"{key} is set twice: remove one")


def _setting(key: Any, value: Any) -> Any:
    kinds = {field: kind for fields in FIELDS.values() for field, kind in fields.items()}
    if key not in kinds:
        raise ConfigError(f"unknown key model.{key}; known: {', '.join(kinds)}")
    if value is None and key in ("pe_dim", "fused_dim"):
        return None
    if kinds[key] is float and isinstance(value, str):
        # YAML 1.1 takes 1e-1, without a point, for a string; training does not.
        with contextlib.suppress(ValueError):
            value = float(value)
    return typed(f"model.{key}", value, kinds[key])
