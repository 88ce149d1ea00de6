"""The fields of ModelConfig: which model classes have them, and their types."""

from collections.abc import Mapping
from typing import Any

from bridge.config.wording import type_in_words
from bridge.errors import ConfigError

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
"""The fields of ModelConfig that each class uses; the others keep their defaults."""

OWN_NAMES = {
    "FusionLayer": {"model_dim": "expert_dim"},
    "MMRec100M": {"model_dim": "expert_dim"},
}
"""Fields of ModelConfig that have a different name in the checkpoints of a class."""

VARIANT_OF = {
    "pe_dim": "use_hem",
    "dpg_rank": "use_dpg",
    "lambda_P": "use_uboo",
    "num_experts": "use_sparse",
    "sparse_chunk_size": "use_sparse",
}
"""Fields that matter only in one variant."""

_LARGEST = 2**31


def typed(name: str, value: Any, kind: type) -> Any:
    """A stated value, if it has the field's type.

    Args:
        name: the field's name, for errors.
        value: the stated value.
        kind: the type; a whole number also counts as a float.

    Raises:
        ConfigError: it has another type, or is a number larger than in any model.
    """
    if kind is float and type(value) is int and abs(value) < _LARGEST:
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            f"{name} in the file's config is {value!r:.80}, not {type_in_words(kind)}"
        )
    if isinstance(value, int | float) and not abs(value) < _LARGEST:
        raise ConfigError(f"{name} in the file's config is {value!r:.80}, and no model has that")
    return value
