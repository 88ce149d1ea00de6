"""Names of tensors: the model's own, out of those that wrappers make of them."""

import functools
from collections.abc import Iterable

from bridge.keys import MODEL_CLASSES, entries
from mmrec_jax import ModelConfig

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Names that DataParallel, torch.compile, FSDP and checkpointing put into others, anywhere."""


def own_names(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """The model's own name of each, and the prefix that all had in common ("" if none).

    A prefix is one or more modules around the model, such as `model.` or `net.backbone.`; what
    wrappers put into names is left out, and is no part of it.
    """
    own = {name: [part for part in name.split(".") if part not in _WRAPPERS] for name in set(names)}
    common: list[str] = []
    while own:
        first = {parts[0] if len(parts) > 1 else "" for parts in own.values()}
        if len(first) != 1 or first & {"", *_top_level()}:
            break
        common += first
        own = {name: parts[1:] for name, parts in own.items()}
    return {name: ".".join(parts) for name, parts in own.items()}, ".".join([*common, ""])


@functools.cache
def _top_level() -> frozenset[str]:
    """The first part of every name that a model has."""
    tables = (entries(model_class, ModelConfig(num_layers=1)) for model_class in MODEL_CLASSES)
    weighted = entries("FusionLayer", ModelConfig(fusion_method="weighted"))
    return frozenset(entry.key.split(".")[0] for table in (*tables, weighted) for entry in table)
