"""The config as a checkpoint's metadata states it (docs/model.md section 6.1)."""

from collections.abc import Mapping
from typing import Any

from bridge.config.fields import FIELDS, OWN_NAMES, VARIANT_OF
from bridge.errors import ConfigError
from bridge.keys import MODEL_CLASSES
from mmrec_jax import ModelConfig
from mmrec_jax.config import LONGEST_WHOLE


def stated_config(checkpoint: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model's class and config as the file states them.

    What metadata.config does not state comes from model_config, then from config, then from args
    (docs/model.md section 6.1); the last two mix the model's settings with others, which may keep
    them in a section `model` of their own. The class is for `known_class` to check.
    """
    metadata = checkpoint.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    model_class = metadata.get("model_class")
    stated: dict[str, Any] = {}
    for place in (
        metadata.get("config"),
        checkpoint.get("model_config"),
        checkpoint.get("config"),
        checkpoint.get("args"),
    ):
        for section in (place, place.get("model")) if isinstance(place, Mapping) else ():
            if isinstance(section, Mapping):
                before = {key: item for key, item in stated.items() if item is not None}
                stated = dict(section) | before
    return model_class, stated


def known_class(stated: Any) -> str:
    """The class that metadata names.

    Raises:
        ConfigError: it is not one of ours.
    """
    if isinstance(stated, str) and stated in MODEL_CLASSES:
        return stated
    raise ConfigError(
        f"metadata.model_class is {stated!r:.80}, not one of {', '.join(MODEL_CLASSES)}"
    )


def to_checkpoint(
    model_class: str, config: ModelConfig, stated: Mapping[str, Any]
) -> dict[str, Any]:
    """The config as a checkpoint's metadata.config states it.

    Args:
        model_class: the class's name.
        config: the config of the model that is saved.
        stated: the config in the file that the model came from, if any. Its keys that are not
            ours (max_seq_len, num_memories) are kept, and its order too.
    """
    own_names = OWN_NAMES.get(model_class, {})
    ours: dict[str, Any] = {}
    for field in FIELDS[model_class]:
        name = own_names.get(field, field)
        value: Any = getattr(config, field)
        if field == "fused_dim" and model_class == "FusionLayer":
            value = config.fusion_dim
        switch = field if field.startswith("use_") else VARIANT_OF.get(field)
        wanted = value is not None and (switch is None or getattr(config, switch))
        if wanted or (name in stated and field not in VARIANT_OF):
            ours[name] = value
        if field == "ffn_dim":
            ours["mem_dim"] = config.model_dim
    return {key: ours.get(key, value) for key, value in stated.items()} | ours


def for_the_original(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The two entries of a file in which the original's own scripts look for the model's settings.

    Args:
        config: metadata.config, which says the same.
    """
    model_config = dict(config)
    if "num_layers" in config:
        # No number of the model depends on them, but the original's constructors take them.
        model_config.setdefault("max_seq_len", LONGEST_WHOLE)
        if "vocab_size" not in config or "expert_dim" in config:
            model_config.setdefault("num_memories", 1)
    args = {field: False for field in FIELDS["MMRecModel"] if field.startswith("use_")}
    if "expert_dim" in config:
        args["model_dim"] = config["expert_dim"]
    return {"model_config": model_config, "args": args | model_config}


def in_full(model_class: str, config: ModelConfig) -> dict[str, Any]:
    """Like `to_checkpoint`, but with dimensions that follow from others written out."""
    described = to_checkpoint(model_class, config, {})
    if described.get("use_hem"):
        described["pe_dim"] = config.fused_projection_dim - 5 * config.model_dim
    if "fusion_method" in described:
        described["fused_dim"] = config.fusion_dim
    return described
