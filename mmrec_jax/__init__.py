"""MM-Rec, a recurrent language model with an external multi-slot memory, in JAX.

This package is only the model: it reads no files, does not train, and imports only jax, flax and
numpy. docs/model.md states every formula; the docstrings cite its sections.

Letters in shapes, here and in all docstrings:
    B batch, T tokens, D model_dim, H num_heads, F ffn_dim, I inner_dim, V vocab_size,
    L num_layers, M slots of the long-term memory, S slots that attention reads (M / 16),
    P pe_dim, E num_experts.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrec_jax.config import ModelConfig as ModelConfig
    from mmrec_jax.expert import ExpertModule as ExpertModule
    from mmrec_jax.fusion import FusionLayer as FusionLayer
    from mmrec_jax.fusion import MMRec100M as MMRec100M
    from mmrec_jax.memory import LongTermMemory as LongTermMemory
    from mmrec_jax.model import MMRecModel as MMRecModel
    from mmrec_jax.model import ModelOutput as ModelOutput
    from mmrec_jax.transfer import Transfer as Transfer
    from mmrec_jax.transfer import transfer_base_to_expert as transfer_base_to_expert

_MODULES = {
    "ExpertModule": "mmrec_jax.expert",
    "FusionLayer": "mmrec_jax.fusion",
    "LongTermMemory": "mmrec_jax.memory",
    "MMRec100M": "mmrec_jax.fusion",
    "MMRecModel": "mmrec_jax.model",
    "ModelConfig": "mmrec_jax.config",
    "ModelOutput": "mmrec_jax.model",
    "Transfer": "mmrec_jax.transfer",
    "transfer_base_to_expert": "mmrec_jax.transfer",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a module when one of its names is first used: a config does not need JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mmrec_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion and `help`."""
    return sorted({*globals(), *__all__})
