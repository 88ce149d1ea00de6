"""Names of tensors: the model's own, out of those that wrappers make of them."""

import functools
from collections.abc import Iterable

from bridge.keys import MODEL_CLASSES, entries
from mmrec_jax import ModelConfig

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Names that DataParallel, torch.compile, FSDP and checkpointing put into others, anywhere."""


def own_names(names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The model's own name of each, and what else there was in names.

    That is the prefix that all have in common, one or more modules around the model, such as
    `model.` or `net.backbone.`, and what wrappers put into any of them, such as `module.`.
    """
    split = {name: name.split(".") for name in set(names)}
    wrappers = sorted({f"{part}." for parts in split.values() for part in _WRAPPERS & set(parts)})
    own = {name: [part for part in parts if part not in _WRAPPERS] for name, parts in split.items()}
    common: list[str] = []
    while own:
        first = {parts[0] if len(parts) > 1 else "" for parts in own.values()}
        if len(first) != 1 or first & {"", *_top_level()}:
            break
        common += first
        own = {name: parts[1:] for name, parts in own.items()}
    prefix = [".".join([*common, ""])] if common else []
    return {name: ".".join(parts) for name, parts in own.items()}, (*prefix, *wrappers)


@functools.cache
def _top_level() -> frozenset[str]:
    """The first part of every name that a model has."""
    tables = (entries(model_class, ModelConfig(num_layers=1)) for model_class in MODEL_CLASSES)
    weighted = entries("FusionLayer", ModelConfig(fusion_method="weighted"))
    return frozenset(entry.key.split(".")[0] for table in (*tables, weighted) for entry in table)
