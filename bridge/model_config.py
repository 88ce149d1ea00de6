"""A checkpoint's config: read from the file where it has one, else from names and shapes."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bridge.errors import ConfigError, UnreadableFileError, about
from bridge.files.disk import PathLike
from bridge.keys import MODEL_CLASSES
from mmrec_jax import ModelConfig

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK_FIELDS: dict[str, type] = {
    "num_layers": int,
    "num_heads": int,
    "ffn_dim": int,
    "dropout": float,
    "use_hem": bool,
    "pe_dim": int,
    "use_dpg": bool,
    "dpg_rank": int,
    "use_uboo": bool,
    "lambda_P": float,
    "use_sparse": bool,
    "num_experts": int,
    "sparse_chunk_size": int,
}
_VOCABULARY: dict[str, type] = {"vocab_size": int}
_DIM: dict[str, type] = {"model_dim": int}
_FUSION: dict[str, type] = {"fused_dim": int, "fusion_method": str}

FIELDS: dict[str, dict[str, type]] = {
    "MMRecModel": _VOCABULARY | _DIM | _BLOCK_FIELDS,
    "ExpertModule": _DIM | _BLOCK_FIELDS,
    "FusionLayer": _DIM | _FUSION,
    "MMRec100M": _VOCABULARY | _DIM | _BLOCK_FIELDS | _FUSION,
}
"""The fields of ModelConfig that shape each class; the others are left at their defaults."""

_OWN_NAMES = {
    "FusionLayer": {"model_dim": "expert_dim"},
    "MMRec100M": {"model_dim": "expert_dim"},
}
"""Where a class's checkpoint calls a field of ModelConfig by another name."""

_VARIANT_OF = {
    "pe_dim": "use_hem",
    "dpg_rank": "use_dpg",
    "lambda_P": "use_uboo",
    "num_experts": "use_sparse",
    "sparse_chunk_size": "use_sparse",
}
"""Fields that mean something only in a variant."""

_LARGEST = 2**31
_MOST_LAYERS = 2000
"""What is done with a config takes time in proportion to its layers, whatever the file holds."""

_BLOCK = r"(?:(?:text|code)_expert\.)?blocks\.\d{1,6}\."


def find(checkpoint: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model's class and config as the file states them.

    What metadata.config does not state comes from model_config, then from args (docs/model.md
    section 6.1); the last two mix the model's settings with others. The class is for
    `known_class` to check.
    """
    metadata = checkpoint.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    model_class = metadata.get("model_class")
    stated: dict[str, Any] = {}
    for place in (
        metadata.get("config"),
        checkpoint.get("model_config"),
        checkpoint.get("args"),
    ):
        if isinstance(place, Mapping):
            stated = dict(place) | {key: item for key, item in stated.items() if item is not None}
    return model_class, stated


def known_class(stated: Any) -> str:
    """The class that metadata names.

    Raises:
        ConfigError: it is none of ours.
    """
    if isinstance(stated, str) and stated in MODEL_CLASSES:
        return stated
    raise ConfigError(
        f"metadata.model_class is {stated!r:.80}, not one of {', '.join(MODEL_CLASSES)}"
    )


def infer_class(shapes: Shapes) -> str:
    """The class that has tensors of these names.

    Raises:
        ConfigError: none has.
    """
    tops = {key.split(".")[0] for key in shapes}
    if tops & {"text_expert", "code_expert", "fusion"}:
        return "MMRec100M"
    if tops & {"embedding", "lm_head"}:
        return "MMRecModel"
    if "fusion_proj" in tops:
        return "FusionLayer"
    if "blocks" in tops:
        return "ExpertModule"
    raise ConfigError(f"no model has tensors of these names: {', '.join(sorted(tops)[:8])}")


def infer(model_class: str, shapes: Shapes) -> dict[str, Any]:
    """The fields of ModelConfig that names and shapes show; those they do not are left out.

    Blocks that are not numbered from 0 without gaps show no num_layers.
    """
    found: dict[str, Any] = {}

    def read(field: str, pattern: str, axis: int) -> None:
        for key, shape in shapes.items():
            if field not in found and re.fullmatch(pattern, key) and len(shape) > axis:
                found[field] = shape[axis]

    fields = FIELDS[model_class]
    if "vocab_size" in fields:
        read("vocab_size", r"(embedding|lm_head)\.weight", 0)
    if "num_layers" in fields:
        read("model_dim", r"(?:\w+\.)?norm\.weight", 0)
        read("model_dim", rf"{_BLOCK}norm[12]\.weight", 0)
        blocks = _block_numbers(shapes)
        if blocks == list(range(len(blocks))):
            found["num_layers"] = len(blocks)
        read("ffn_dim", rf"{_BLOCK}ffn\.0\.weight", 0)
        for flag, pattern in (
            ("use_hem", r"W_fused\..*"),
            ("use_dpg", r"W_gamma_(down|up)\..*"),
            ("use_uboo", r"mdi\.W_planning_.*"),
            ("use_sparse", r"ffn\.(expert_weights|router\..*)"),
        ):
            found[flag] = any(re.fullmatch(_BLOCK + pattern, key) for key in shapes)
        read("dpg_rank", rf"{_BLOCK}W_gamma_down\.weight", 0)
        read("num_experts", rf"{_BLOCK}ffn\.expert_weights", 0)
        read("fused_rows", rf"{_BLOCK}W_fused\.weight", 0)
        rows = found.pop("fused_rows", None)
        if rows is not None and "model_dim" in found:
            found["pe_dim"] = rows - 5 * found["model_dim"]
    if "fusion_method" in fields:
        weighted = any(re.fullmatch(r"(fusion\.)?gate\..*", key) for key in shapes)
        found["fusion_method"] = "weighted" if weighted else "concatenate"
        if model_class == "FusionLayer":  # in an MMRec100M it has no choice
            read("fused_dim", r"fusion_proj\.weight", 0)
        read("doubled_dim", r"(fusion\.)?fusion_proj\.weight", 1)
        doubled = found.pop("doubled_dim", 0)
        if doubled:
            found.setdefault("model_dim", doubled // 2)
    return found


def resolve(
    model_class: str, stated: Mapping[str, Any], shapes: Shapes | None, num_heads: int | None
) -> ModelConfig:
    """The config of a checkpoint: what it states, then what its shapes show, then the defaults.

    Whether the tensors are those of this config is for the key table to say. Without shapes, what
    is not stated has its default.

    Raises:
        ConfigError: a stated value is impossible, or a dimension is neither stated nor shown.
    """
    own_names = _OWN_NAMES.get(model_class, {})
    fields = FIELDS[model_class]
    values: dict[str, Any] = {}
    for field, kind in fields.items():
        for name in dict.fromkeys((own_names.get(field, field), field)):
            if stated.get(name) is not None:
                values[field] = _typed(name, stated[name], kind)
                break
    if "num_heads" in fields and num_heads is not None:
        stated_heads = values.setdefault("num_heads", num_heads)
        if stated_heads != num_heads:
            raise ConfigError(f"num_heads is {stated_heads} in the file's config, not {num_heads}")
    found = {} if shapes is None else infer(model_class, shapes)
    for field, switch in _VARIANT_OF.items():
        if not (found | values).get(switch):
            values.pop(field, None)  # 0 and the like, where nothing reads it
    values = found | values
    if shapes is not None and "num_layers" in fields and "num_layers" not in values:
        raise ConfigError(
            f"the blocks are numbered {', '.join(map(str, _block_numbers(shapes)[:20]))}: "
            "not from 0 without gaps"
        )
    if values.get("num_layers", 0) > _MOST_LAYERS:
        raise ConfigError(f"num_layers is {values['num_layers']}, more than {_MOST_LAYERS}")
    if shapes is not None and "num_layers" in fields and values["num_layers"] > len(shapes):
        raise ConfigError(
            f"num_layers is {values['num_layers']} in the file's config, but the file holds only "
            f"{len(shapes)} tensors"
        )
    for field in ("vocab_size", "model_dim"):
        if field in fields and field not in values:
            raise ConfigError(f"{field} is neither in the file's config nor shown by a tensor")
    if "num_heads" not in fields:
        values["num_heads"] = 1
    elif "num_heads" not in values:
        raise ConfigError(
            "the file does not state num_heads and no shape shows it: give num_heads (--num-heads)"
        )
    if "num_heads" in fields and stated.get("mem_dim") is not None:
        memory_dim = _typed("mem_dim", stated["mem_dim"], int)
        if memory_dim != values["model_dim"]:
            raise ConfigError(
                f"mem_dim is {memory_dim} in the file's config, but the memory has model_dim = "
                f"{values['model_dim']} channels"
            )
    if model_class != "FusionLayer":
        # What the default means already stays None, as in a config that never mentions it;
        # FusionLayer's config always does.
        for field, usual in (("pe_dim", 1), ("fused_dim", 2)):
            if field not in stated and values.get(field) == usual * values["model_dim"]:
                values[field] = None
    try:
        config = ModelConfig(**values)
    except ValueError as error:
        raise ConfigError(f"no model has this config: {error!s:.200}") from None
    check(model_class, config)
    return config


def check(model_class: str, config: ModelConfig) -> None:
    """Makes sure that a class can have a config.

    Raises:
        ConfigError: it cannot.
    """
    fused_dim = 2 * config.model_dim
    if model_class == "MMRec100M" and config.fusion_dim != fused_dim:
        raise ConfigError(
            f"no MMRec100M has this config: fused_dim must be 2 * model_dim = {fused_dim}, not "
            f"{config.fused_dim}"
        )


def from_yaml(path: PathLike) -> ModelConfig:
    """The model of a training config's YAML file; its other sections are ignored.

    Raises:
        UnreadableFileError: it cannot be read.
        ConfigError: it is not YAML, has no section `model`, or a key of that is unknown, set twice
            or of a value that no model can have.
    """
    with about(path):
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


def contradictions(model_class: str, config: ModelConfig, shapes: Shapes) -> list[str]:
    """Where the shapes show other dimensions or variants than the config, in words."""
    expected = {field: getattr(config, field) for field in FIELDS[model_class]}
    if "pe_dim" in expected:
        expected["pe_dim"] = config.fused_projection_dim - 5 * config.model_dim
    if "fused_dim" in expected:
        expected["fused_dim"] = config.fusion_dim
    shown = infer(model_class, shapes)
    return [
        f"{field} is {expected[field]} in the config and {value} in the tensors"
        for field, value in shown.items()
        if value != expected[field]
    ]


def to_checkpoint(
    model_class: str, config: ModelConfig, stated: Mapping[str, Any]
) -> dict[str, Any]:
    """The config as a checkpoint's metadata.config states it.

    Args:
        model_class: the class's name.
        config: of the model that is saved.
        stated: the config of the file that the model came from, or nothing; keys that are not
            ours (max_seq_len, num_memories) are kept, and ours come in the same order.
    """
    own_names = _OWN_NAMES.get(model_class, {})
    ours: dict[str, Any] = {}
    for field in FIELDS[model_class]:
        name = own_names.get(field, field)
        value: Any = getattr(config, field)
        if field == "fused_dim" and model_class == "FusionLayer":
            value = config.fusion_dim
        switch = field if field.startswith("use_") else _VARIANT_OF.get(field)
        wanted = value is not None and (switch is None or getattr(config, switch))
        if wanted or (name in stated and field not in _VARIANT_OF):
            ours[name] = value
        if field == "ffn_dim":
            ours["mem_dim"] = config.model_dim
    return {key: ours.get(key, value) for key, value in stated.items()} | ours


def in_full(model_class: str, config: ModelConfig) -> dict[str, Any]:
    """As `to_checkpoint`, with the dimensions that stand for their defaults spelt out."""
    described = to_checkpoint(model_class, config, {})
    if described.get("use_hem"):
        described["pe_dim"] = config.fused_projection_dim - 5 * config.model_dim
    if "fusion_method" in described:
        described["fused_dim"] = config.fusion_dim
    return described


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
    return _typed(f"model.{key}", value, kinds[key])


def _block_numbers(shapes: Shapes) -> list[int]:
    matches = (re.match(r"(?:\w+\.)?blocks\.(\d{1,6})\.", key) for key in shapes)
    return sorted({int(match[1]) for match in matches if match})


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) is int and abs(value) < _LARGEST:
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            f"{name} in the file's config is {value!r:.80}, not of type {kind.__name__}"
        )
    if isinstance(value, int | float) and not abs(value) < _LARGEST:
        raise ConfigError(f"{name} in the file's config is {value!r:.80}, and no model has that")
    return value
