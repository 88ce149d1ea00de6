"""The state between the pieces of a sequence in PyTorch, and how memory is written in it."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bridge.twin.block import pool
from mmrec_jax import ModelConfig
from mmrec_jax.config import MEMORY_SLOTS, POOLING


class LongTermMemory(NamedTuple):
    """Keys and values of one layer's memory, [M, D], shared by the batch, or [B, M, D]."""

    k: Tensor
    v: Tensor


Memory = Sequence[tuple[Tensor, Tensor]]
"""The long-term memory of a stack of blocks, keys and values, one pair per layer."""


@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Everything that one token passes to the next, without gradient (docs/model.md section 3.5).

    Attributes:
        h: each layer's recurrent state [L, B, D].
        k, v: the pooled slots that attention reads [L, 1 or B, S, D].
        total: the sum of each layer's outputs since the memory was last written [L, B, D], float32.
        tokens: the number of tokens in each sequence's sum [B].
        chunk_size: tokens after which the memory is written; None never writes it.
    """

    h: Tensor
    k: Tensor
    v: Tensor
    total: Tensor
    tokens: Tensor
    chunk_size: int | None

    @classmethod
    def first(
        cls,
        config: ModelConfig,
        like: Tensor,
        memory: Memory | None = None,
        chunk_size: int | None = None,
    ) -> "DecodeState":
        """The state before the first token.

        Args:
            config: the model's.
            like: any tensor of the batch size, the dtype and the device [B, ...].
            memory: one per layer; None for zeros.
            chunk_size: see the attribute.

        Raises:
            ValueError: the number of memories or chunk_size does not fit.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        layers, batch, dim = config.num_layers, len(like), config.model_dim
        if memory is None:
            k = v = like.new_zeros(layers, 1, MEMORY_SLOTS // POOLING**2, dim)
        else:
            if len(memory) != layers:
                raise ValueError(f"{len(memory)} memories for {layers} layers: give one per layer")
            k, v = (
                torch.stack(
                    [slots if slots.ndim == 3 else slots[None] for slots in map(pool, each)]
                )
                for each in zip(*memory, strict=True)
            )
        h = like.new_zeros(layers, batch, dim)
        tokens = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return cls(h, k, v, torch.zeros_like(h, dtype=torch.float32), tokens, chunk_size)

    @property
    def means(self) -> Tensor:
        """The mean of each layer's outputs since the memory was last written [L, B, D]."""
        return (self.total / self.tokens.clamp(min=1)[:, None]).to(self.h.dtype)

    def long_term_memory(self) -> list[LongTermMemory]:
        """The memory that a full pass over the same tokens returns, one per layer (section 2.9)."""
        all_slots = self.means[:, :, None].expand(-1, -1, MEMORY_SLOTS, -1)
        return [LongTermMemory(slots, slots) for slots in all_slots]

    def room(self, real: Tensor) -> int:
        """How many of the next tokens the chunks of all sequences that have any can take.

        Args:
            real: which of them are not padding [B, T] bool; padding comes only after real ones.
        """
        if self.chunk_size is None:
            return real.shape[1]
        left = (self.chunk_size - self.tokens)[real[:, 0]]
        return min(real.shape[1], max(1, int(left.min()))) if len(left) else real.shape[1]

    def written(self, active: Tensor) -> "DecodeState":
        """The state with the memory written for the sequences whose chunk is full.

        Args:
            active: the sequences that another token follows in [B] bool. The others keep their
                sums, which are still to become the memory that a full pass returns.
        """
        if self.chunk_size is None:
            return self
        full = active & (self.tokens >= self.chunk_size)
        if not full.any():
            return self
        slots, per_layer = self.means[:, :, None], full[:, None]
        return DecodeState(
            self.h.masked_fill(per_layer, 0),
            torch.where(per_layer[..., None], slots, self.k),
            torch.where(per_layer[..., None], slots, self.v),
            self.total.masked_fill(per_layer, 0),
            self.tokens.masked_fill(full, 0),
            self.chunk_size,
        )

    def after(self, h: Tensor, total: Tensor, tokens: Tensor) -> "DecodeState":
        """The state after a piece: its last h, the sum of its outputs, both [L, B, D], and [B]."""
        total, tokens = self.total + total, self.tokens + tokens
        return dataclasses.replace(self, h=h, total=total, tokens=tokens)

    def of(self, sequences: Tensor) -> "DecodeState":
        """The state of some of the sequences, by their indices [N], as beam search takes them."""
        k, v = (
            slots if slots.shape[1] == 1 else slots.index_select(1, sequences)
            for slots in (self.k, self.v)
        )
        return DecodeState(
            self.h.index_select(1, sequences),
            k,
            v,
            self.total.index_select(1, sequences),
            self.tokens.index_select(0, sequences),
            self.chunk_size,
        )
