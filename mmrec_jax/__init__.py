"""MM-Rec, a recurrent language model with an external multi-slot memory, in JAX.

This package is the model alone: no files, no training, and nothing imported but jax, flax and
numpy. docs/model.md states every formula; the docstrings cite its sections.

Letters in shapes, here and in all docstrings:
    B batch, T tokens, D model_dim, H num_heads, F ffn_dim, I inner_dim, V vocab_size,
    L num_layers, M slots of the long-term memory, S slots that attention reads (M / 16),
    P pe_dim, E num_experts.
"""

from mmrec_jax.config import ModelConfig
from mmrec_jax.expert import ExpertModule
from mmrec_jax.fusion import FusionLayer, MMRec100M
from mmrec_jax.memory import LongTermMemory
from mmrec_jax.model import MMRecModel, ModelOutput
from mmrec_jax.transfer import Transfer, transfer_base_to_expert

__all__ = [
    "ExpertModule",
    "FusionLayer",
    "LongTermMemory",
    "MMRec100M",
    "MMRecModel",
    "ModelConfig",
    "ModelOutput",
    "Transfer",
    "transfer_base_to_expert",
]
