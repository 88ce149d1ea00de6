"""The model's section of a training config in YAML."""

import contextlib
from typing import Any

import yaml

from bridge.config.fields import FIELDS, typed
from bridge.config.wording import closest
from bridge.config.yaml_keys import keys_of, read_yaml, wrong_line
from bridge.errors import ConfigError, errors_about
from bridge.files.disk import PathLike
from mmrec_jax import ModelConfig

_KINDS = {field: kind for fields in FIELDS.values() for field, kind in fields.items()}


def from_yaml(path: PathLike) -> ModelConfig:
    """The model that a training config in YAML describes; other sections are ignored.

    Raises:
        UnreadableFileError: it cannot be read.
        ConfigError: it is not YAML or has no section `model`, or a key in that section is unknown,
            set twice, or has a value that no model can have.
    """
    node = read_yaml(path)
    with errors_about(path):
        if node is None:
            raise ConfigError("is empty, and has no section `model`")
        sections = {name: (line, value) for name, line, value in keys_of(node, "", path)}
        if "model" not in sections:
            meant = closest("model", sections)
            hint = f": is it {meant} on line {sections[meant][0]}?" if meant else ""
            raise ConfigError(f"has no section `model`{hint}")
        line, section = sections["model"]
        lines, values = {}, {}
        for name, line, value in keys_of(section, "model.", path):
            try:
                lines[name], values[name] = line, _setting(name, value)
            except ConfigError as error:
                raise wrong_line(path, line, error.message) from None
        try:
            return ModelConfig(**values)
        except ValueError as error:
            line = lines.get(str(error).split()[0], line)
            raise wrong_line(path, line, f"model.{error}") from None


def _setting(key: str, node: yaml.Node) -> Any:
    if key not in _KINDS:
        meant = closest(key, _KINDS)
        hint = f"did you mean model.{meant}?" if meant else f"known: {', '.join(_KINDS)}"
        raise ConfigError(f"unknown key model.{key}; {hint}")
    try:
        value = yaml.SafeLoader("").construct_document(node)
    except (ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"not valid YAML: {problem}") from None
    if value is None and key in ("pe_dim", "fused_dim"):
        return None
    if _KINDS[key] is float and isinstance(value, str):
        # YAML 1.1 takes 1e-1, without a point, for a string; training does not.
        with contextlib.suppress(ValueError):
            value = float(value)
    return typed(f"model.{key}", value, _KINDS[key])
