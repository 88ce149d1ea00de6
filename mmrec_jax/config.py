"""The description of a model: every class in this package is built from a `ModelConfig`."""

import dataclasses
from typing import Literal

MEMORY_SLOTS = 1024
"""Slots in each layer's long-term memory (M in docs/model.md section 1)."""

POOLING = 4
"""Slots that become one at each of the two levels of the memory hierarchy (section 2.5)."""

LONGEST_WHOLE = 32_768
"""Tokens of the longest sequence that runs whole where no chunk_size is given (section 3.1)."""

LONG_CHUNK = 8_192
"""The chunk_size of a longer one."""


Remat = Literal["elementwise", "products", "layers"]
"""What the backward pass computes again: everything except the linear layers' products, the
recurrence and dropout's masks; products too; or the whole layer from its input. Each keeps less
than the one before.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions and variants of a model; names as in checkpoints (docs/model.md section 6.2).

    Attributes:
        vocab_size: rows of the embedding, V. ExpertModule and FusionLayer have none and ignore it.
        model_dim: channels, D; in MMRec100M the channels of each expert.
        num_layers: blocks, L; in MMRec100M the blocks of each expert.
        num_heads: heads of the attention over the memory, H; must divide model_dim.
        ffn_dim: hidden channels of the feed-forward layer, F.
        dropout: probability of dropping an activation while training, in [0, 1).
        use_hem: HEM, one fused projection instead of four (section 2.2).
        pe_dim: unused channels P in HEM's projection; null is model_dim.
        use_dpg: DPG, a low-rank decay instead of the decay networks' (section 2.3).
        dpg_rank: the rank r of DPG's decay.
        use_uboo: UBOO, which adds the planning loss (section 2.10).
        lambda_P: the weight of the planning loss.
        use_sparse: experts, chosen chunk by chunk, as the feed-forward layer (section 2.8).
        num_experts: experts of the sparse layer, a power of two.
        sparse_chunk_size: tokens in a chunk, which go to the same experts.
        fusion_method: how FusionLayer joins the experts (section 3.3).
        fused_dim: channels that FusionLayer returns; null is 2 * model_dim.

    Raises:
        ValueError: a value is out of its range; the message names the key.
    """

    vocab_size: int = 32000
    model_dim: int = 256
    num_layers: int = 12
    num_heads: int = 8
    ffn_dim: int = 1024
    dropout: float = 0.1
    use_hem: bool = False
    pe_dim: int | None = None
    use_dpg: bool = False
    dpg_rank: int = 128
    use_uboo: bool = False
    lambda_P: float = 0.1
    use_sparse: bool = False
    num_experts: int = 64
    sparse_chunk_size: int = 128
    fusion_method: Literal["concatenate", "weighted"] = "concatenate"
    fused_dim: int | None = None

    def __post_init__(self) -> None:
        positive = (
            "vocab_size model_dim num_layers num_heads ffn_dim dpg_rank num_experts "
            "sparse_chunk_size pe_dim fused_dim"
        )
        for key in positive.split():
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        if self.model_dim % self.num_heads:
            raise ValueError(
                f"num_heads must divide model_dim = {self.model_dim}, {self.num_heads} does not"
            )
        if self.model_dim < 4:
            raise ValueError(f"model_dim must be at least 4, not {self.model_dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        if self.num_experts & (self.num_experts - 1) or self.num_experts < 2:
            raise ValueError(f"num_experts must be a power of two, not {self.num_experts}")
        if self.fusion_method not in ("concatenate", "weighted"):
            raise ValueError(
                f"fusion_method must be 'concatenate' or 'weighted', not {self.fusion_method!r}"
            )

    @property
    def inner_dim(self) -> int:
        """Hidden channels of the decay networks, I = D // 4."""
        return self.model_dim // 4

    @property
    def untrained_modules(self) -> tuple[str, ...]:
        """Modules of each block that are in the checkpoint but get no gradient.

        Their parameters have no optimizer state and never change (sections 2.3 and 5.3). Under
        HEM there is no W_k.
        """
        return ("W_gamma", "W_context", "W_k") if self.use_dpg else ()

    @property
    def fused_projection_dim(self) -> int:
        """Output channels of HEM's fused projection, 5 D + P."""
        return 5 * self.model_dim + (self.model_dim if self.pe_dim is None else self.pe_dim)

    @property
    def fusion_dim(self) -> int:
        """Channels that FusionLayer returns."""
        return 2 * self.model_dim if self.fused_dim is None else self.fused_dim


def chunk_size_for(tokens: int, chunk_size: int | None) -> int | None:
    """The chunk_size that a sequence of so many tokens has: the given one, or else by its length.

    Args:
        tokens: T, padding included.
        chunk_size: the given one.

    Returns:
        None for a sequence that runs whole.
    """
    return LONG_CHUNK if chunk_size is None and tokens > LONGEST_WHOLE else chunk_size
