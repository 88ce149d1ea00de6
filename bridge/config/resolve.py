"""A checkpoint's config: what it states, then what its tensors show, then the defaults."""

from collections.abc import Mapping
from typing import Any

from bridge.config.fields import FIELDS, OWN_NAMES, VARIANT_OF, Shapes, typed
from bridge.config.infer import block_numbers, infer_fields
from bridge.errors import ConfigError, counted, listed
from mmrec_jax import ModelConfig

_MOST_LAYERS = 2000
"""The most layers: a config takes time in proportion to them, however few tensors a file has."""


def resolve_config(
    model_class: str, stated: Mapping[str, Any], shapes: Shapes | None, num_heads: int | None
) -> ModelConfig:
    """The config of a checkpoint: what it states, else what its shapes show, else the defaults.

    The key table checks later whether the tensors fit this config. Without shapes, what is not
    stated gets its default.

    Raises:
        ConfigError: a stated value is impossible, or a dimension is neither stated nor shown.
    """
    fields = FIELDS[model_class]
    values = _stated_values(model_class, stated)
    if "num_heads" in fields and num_heads is not None:
        stated_heads = values.setdefault("num_heads", num_heads)
        if stated_heads != num_heads:
            raise ConfigError(f"num_heads is {stated_heads} in the file's config, not {num_heads}")
    found = {} if shapes is None else infer_fields(model_class, shapes)
    for field, switch in VARIANT_OF.items():
        if not (found | values).get(switch):
            values.pop(field, None)  # values such as 0, where nothing uses them
    values = found | values
    if "num_layers" in fields:
        _check_layers(values, shapes)
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
        memory_dim = typed("mem_dim", stated["mem_dim"], int)
        if memory_dim != values["model_dim"]:
            raise ConfigError(
                f"mem_dim is {memory_dim} in the file's config, but the memory has model_dim = "
                f"{values['model_dim']} channels"
            )
    if model_class != "FusionLayer":
        # A value that equals the default stays None, as in a config that does not mention it.
        # FusionLayer's config always mentions it.
        for field, usual in (("pe_dim", 1), ("fused_dim", 2)):
            if field not in stated and values.get(field) == usual * values["model_dim"]:
                values[field] = None
    try:
        config = ModelConfig(**values)
    except ValueError as error:
        raise ConfigError(f"no model has this config: {error!s:.200}") from None
    check_config(model_class, config)
    return config


def _stated_values(model_class: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The stated values under the names of ModelConfig's fields."""
    own_names = OWN_NAMES.get(model_class, {})
    values: dict[str, Any] = {}
    for field, kind in FIELDS[model_class].items():
        for name in dict.fromkeys((own_names.get(field, field), field)):
            if stated.get(name) is not None:
                values[field] = typed(name, stated[name], kind)
                break
    return values


def _check_layers(values: Mapping[str, Any], shapes: Shapes | None) -> None:
    if shapes is not None and "num_layers" not in values:
        raise ConfigError(
            f"the blocks are numbered {listed(list(map(str, block_numbers(shapes))))}: "
            "not from 0 without gaps"
        )
    if values.get("num_layers", 0) > _MOST_LAYERS:
        raise ConfigError(f"num_layers is {values['num_layers']}, more than {_MOST_LAYERS}")
    if shapes is not None and values["num_layers"] > len(shapes):
        raise ConfigError(
            f"num_layers is {values['num_layers']} in the file's config, but the file holds only "
            f"{counted(len(shapes), 'tensor')}"
        )


def check_config(model_class: str, config: ModelConfig) -> None:
    """Makes sure that a config is possible for a class.

    Raises:
        ConfigError: it is not.
    """
    fused_dim = 2 * config.model_dim
    if model_class == "MMRec100M" and config.fusion_dim != fused_dim:
        raise ConfigError(
            f"no MMRec100M has this config: fused_dim must be 2 * model_dim = {fused_dim}, not "
            f"{config.fused_dim}"
        )


def contradictions(model_class: str, config: ModelConfig, shapes: Shapes) -> list[str]:
    """Messages about dimensions or variants that differ between the shapes and the config."""
    expected = {field: getattr(config, field) for field in FIELDS[model_class]}
    if "pe_dim" in expected:
        expected["pe_dim"] = config.fused_projection_dim - 5 * config.model_dim
    if "fused_dim" in expected:
        expected["fused_dim"] = config.fusion_dim
    inferred = infer_fields(model_class, shapes)
    return [
        f"{field} is {expected[field]} in the config and {value} in the tensors"
        for field, value in inferred.items()
        if value != expected[field]
    ]
