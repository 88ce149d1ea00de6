"""What the names and shapes of tensors show of a model's class and config."""

import re
from typing import Any

from bridge.config.fields import FIELDS, Shapes
from bridge.errors import ConfigError, listed

_BLOCK = r"(?:(?:text|code)_expert\.)?blocks\.\d{1,6}\."


def infer_class(shapes: Shapes) -> str:
    """The class whose tensors have these names.

    Raises:
        ConfigError: there is none.
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
    raise ConfigError(f"no model has tensors of these names: {listed(sorted(tops)) or 'none'}")


def infer_fields(model_class: str, shapes: Shapes) -> dict[str, Any]:
    """The fields of ModelConfig that names and shapes show, without the others.

    num_layers is shown only if the blocks are numbered from 0 without gaps.
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
        blocks = block_numbers(shapes)
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
        if model_class == "FusionLayer":  # in an MMRec100M it is fixed
            read("fused_dim", r"fusion_proj\.weight", 0)
        read("doubled_dim", r"(fusion\.)?fusion_proj\.weight", 1)
        doubled = found.pop("doubled_dim", 0)
        if doubled:
            found.setdefault("model_dim", doubled // 2)
    return found


def block_numbers(shapes: Shapes) -> list[int]:
    """The numbers of the blocks that have tensors, in ascending order."""
    matches = (re.match(r"(?:\w+\.)?blocks\.(\d{1,6})\.", key) for key in shapes)
    return sorted({int(match[1]) for match in matches if match})
