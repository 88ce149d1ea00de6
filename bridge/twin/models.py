"""The models in PyTorch (docs/model.md section 3).

Modules have the names in the files, in the same order. So an exported file loads with
`load_state_dict(strict=True)`, and its optimizer state fits. `train()` and `eval()` switch dropout.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bridge.twin.block import MMRecBlock, RMSNorm
from bridge.twin.state import DecodeState, LongTermMemory, Memory
from mmrec_jax import ModelConfig
from mmrec_jax.config import chunk_size_for


class ModelOutput(NamedTuple):
    """What MMRecModel and MMRec100M return.

    Attributes:
        logits: [B, T, V].
        memory: the new memory, each [B, M, D], without gradient; for MMRec100M by expert.
        auxiliary_loss: lambda_P times the planning losses of all layers (section 2.10).
    """

    logits: Tensor
    memory: list[LongTermMemory] | dict[str, list[LongTermMemory]]
    auxiliary_loss: Tensor


class BlockStack(nn.Module):
    """Blocks in order, then a norm: what MMRecModel and ExpertModule have in common."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def add_blocks(self) -> None:
        """Registers the blocks and the norm; in MMRecModel the embedding comes before them."""
        self.blocks = nn.ModuleList(MMRecBlock(self.config) for _ in range(self.config.num_layers))
        self.norm = RMSNorm(self.config.model_dim)

    def hidden_states(
        self,
        x: Tensor,
        memory: Memory | None = None,
        *,
        chunk_size: int | None = None,
        router_threshold: float = 0.0,
    ) -> tuple[Tensor, list[LongTermMemory], Tensor]:
        """Runs all blocks and the norm over a sequence (sections 2 and 3.1).

        Args:
            x: embeddings [B, T, D].
            memory: one per layer; None for zeros.
            chunk_size: cut the sequence into pieces of so many tokens, run them in order, and pass
                each layer's memory from piece to piece; None runs it whole, but in pieces of
                8,192 tokens if it has more than 32,768.
            router_threshold: the certainty below which the sparse layer gives 0.

        Returns:
            [B, T, D], the new memory, and the planning loss, summed over layers.

        Raises:
            ValueError: the number of memories or chunk_size does not fit.
        """
        state = DecodeState.first(self.config, x, memory, chunk_size)
        y, planning_loss, state = self.decode_hidden_states(
            x, state, router_threshold=router_threshold
        )
        return y, state.long_term_memory(), planning_loss

    def decode_hidden_states(
        self,
        x: Tensor,
        state: DecodeState,
        *,
        real: Tensor | None = None,
        router_threshold: float = 0.0,
    ) -> tuple[Tensor, Tensor, DecodeState]:
        """Continues from a state, by one token or by many (section 3.5).

        Args:
            x: embeddings [B, T, D].
            state: from `DecodeState.first` or an earlier call.
            real: which tokens are not padding [B, T] bool; padding comes only after real tokens.
                None means all.
            router_threshold: see `hidden_states`.

        Returns:
            [B, T, D], the planning loss, summed over layers, and the next state.
        """
        batch, tokens, _ = x.shape
        state = dataclasses.replace(state, chunk_size=chunk_size_for(tokens, state.chunk_size))
        mask = x.new_ones(batch, tokens, dtype=torch.bool) if real is None else real
        outputs, planning_loss, start = [], x.new_zeros(()), 0
        while start < tokens:
            left = mask[:, start:]
            state = state.written(left[:, 0])
            piece = slice(start, start + state.room(left))
            in_piece = None if real is None else real[:, piece]
            y, loss, state = self._run_piece(x[:, piece], state, in_piece, router_threshold)
            planning_loss = planning_loss + loss * (mask[:, piece].sum() / mask.sum())
            outputs.append(y)
            start = piece.stop
        return self.norm(torch.cat(outputs, dim=1)), planning_loss, state

    def _run_piece(
        self, y: Tensor, state: DecodeState, real: Tensor | None, router_threshold: float
    ) -> tuple[Tensor, Tensor, DecodeState]:
        layers = zip(self.blocks, state.k, state.v, state.h, strict=True)
        states, totals, planning_loss = [], [], y.new_zeros(())
        for block, k, v, h in layers:
            out = block(y, (k, v), h, real=real, router_threshold=router_threshold)
            y, planning_loss = out.y, planning_loss + out.planning_loss
            counted = y.detach() if real is None else y.detach() * real[..., None]
            states.append(out.h)
            totals.append(counted.sum(dim=1, dtype=torch.float32))
        tokens = torch.full_like(state.tokens, y.shape[1]) if real is None else real.sum(dim=1)
        after = state.after(torch.stack(states), torch.stack(totals), tokens)
        return y, planning_loss, after


class MMRecModel(BlockStack):
    """Embedding, blocks, norm, and a head tied to the embedding (section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.model_dim)
        self.add_blocks()
        self.lm_head = nn.Linear(config.model_dim, config.vocab_size, bias=False)
        # In this order the table starts with the head's initial values, as in section 4.
        self.embedding.weight = self.lm_head.weight

    def forward(
        self,
        input_ids: Tensor,
        memory: Memory | None = None,
        *,
        chunk_size: int | None = None,
        router_threshold: float = 0.0,
    ) -> ModelOutput:
        """Scores every next token; input_ids [B, T], the rest as in `hidden_states`."""
        y, memory, planning_loss = self.hidden_states(
            self.embedding(input_ids),
            memory,
            chunk_size=chunk_size,
            router_threshold=router_threshold,
        )
        return ModelOutput(self.lm_head(y), memory, self.config.lambda_P * planning_loss)

    def start_decoding(self, input_ids: Tensor, chunk_size: int | None = None) -> DecodeState:
        """The state before the first token of as many sequences as input_ids [B, T] has."""
        return DecodeState.first(
            self.config, self.embedding(input_ids[:, :0]), chunk_size=chunk_size
        )

    def decode(
        self, input_ids: Tensor, state: DecodeState, *, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor, DecodeState]:
        """Continues from a state, by one token or by many (section 3.5).

        Args:
            input_ids: [B, T].
            state: from `start_decoding` or an earlier call.
            real: see `decode_hidden_states`.

        Returns:
            The head's input [B, T, D], lambda_P times the planning loss, and the next state.
        """
        y, planning_loss, state = self.decode_hidden_states(
            self.embedding(input_ids), state, real=real
        )
        return y, self.config.lambda_P * planning_loss, state


class ExpertModule(BlockStack):
    """Blocks and a norm; it uses the base model's embedding and head (section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.add_blocks()

    def forward(
        self, x: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, list[LongTermMemory]]:
        """x [B, T, D] -> [B, T, D], and the new memory, one per layer, each [B, M, D]."""
        y, written, _ = self.hidden_states(x, memory)
        return y, written


class FusionLayer(nn.Module):
    """Joins the experts' outputs, side by side or after a gate (section 3.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.model_dim
        self.config = config
        self.fusion_proj = nn.Linear(2 * dim, config.fusion_dim)
        if config.fusion_method == "weighted":
            self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())

    def forward(self, text_output: Tensor, code_output: Tensor) -> Tensor:
        """text_output, code_output [B, T, D] -> [B, T, fused_dim]."""
        both = torch.cat([text_output, code_output], dim=-1)
        if self.config.fusion_method == "weighted":
            gate = self.gate(both)
            both = torch.cat([gate * text_output, (1 - gate) * code_output], dim=-1)
        return self.fusion_proj(both)


class MMRec100M(nn.Module):
    """A shared embedding, both experts, the fusion layer, and an untied head (section 3.4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        fused_dim = 2 * config.model_dim
        if config.fusion_dim != fused_dim:
            raise ValueError(
                f"MMRec100M needs fused_dim = 2 * model_dim = {fused_dim}, not {config.fused_dim}"
            )
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.model_dim)
        self.text_expert = ExpertModule(config)
        self.code_expert = ExpertModule(config)
        self.fusion = FusionLayer(config)
        self.final_norm = RMSNorm(fused_dim)
        self.lm_head = nn.Linear(fused_dim, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        memory: Mapping[str, Memory] | None = None,
        *,
        expert_type: Literal["text", "code"] | None = None,
        chunk_size: int | None = None,
    ) -> ModelOutput:
        """Scores every next token; the new memory is a dictionary of the experts that ran.

        Args:
            input_ids: [B, T].
            memory: {"text": one per layer, "code": one per layer}; a missing one is zeros.
            expert_type: runs only this expert, with zeros as the other's output; None runs both.
            chunk_size: see BlockStack.hidden_states.

        Raises:
            ValueError: expert_type, chunk_size or the memory does not fit.
        """
        experts = {"text": self.text_expert, "code": self.code_expert}
        if expert_type is not None and expert_type not in experts:
            raise ValueError(f"expert_type must be None, 'text' or 'code', not {expert_type!r}")
        unknown = (memory or {}).keys() - experts.keys()
        if unknown:
            raise ValueError(f"memory is for 'text' and 'code', not {', '.join(sorted(unknown))}")
        x = self.embedding(input_ids)
        outputs = {name: torch.zeros_like(x) for name in experts}
        written, planning_loss = {}, x.new_zeros(())
        for name in experts if expert_type is None else [expert_type]:
            outputs[name], written[name], loss = experts[name].hidden_states(
                x, (memory or {}).get(name), chunk_size=chunk_size
            )
            planning_loss = planning_loss + loss
        fused = self.fusion(outputs["text"], outputs["code"])
        logits = self.lm_head(self.final_norm(fused))
        return ModelOutput(logits, written, self.config.lambda_P * planning_loss)

    def start_decoding(
        self, input_ids: Tensor, chunk_size: int | None = None
    ) -> dict[str, DecodeState]:
        """See MMRecModel.start_decoding; a state for each expert."""
        x = self.embedding(input_ids[:, :0])
        first = DecodeState.first(self.config, x, chunk_size=chunk_size)
        return {"text": first, "code": first}

    def decode(
        self, input_ids: Tensor, state: Mapping[str, DecodeState], *, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, DecodeState]]:
        """See MMRecModel.decode; both experts run, and the head's input is [B, T, 2 D]."""
        x = self.embedding(input_ids)
        text, text_loss, text_state = self.text_expert.decode_hidden_states(
            x, state["text"], real=real
        )
        code, code_loss, code_state = self.code_expert.decode_hidden_states(
            x, state["code"], real=real
        )
        fused = self.final_norm(self.fusion(text, code))
        planning_loss = self.config.lambda_P * (text_loss + code_loss)
        return fused, planning_loss, {"text": text_state, "code": code_state}


TWINS: dict[str, type[nn.Module]] = {
    "MMRecModel": MMRecModel,
    "ExpertModule": ExpertModule,
    "FusionLayer": FusionLayer,
    "MMRec100M": MMRec100M,
}
"""The twins by class name, as bridge.keys.MODEL_CLASSES has the JAX models."""


def twin(model_class: str, config: ModelConfig) -> nn.Module:
    """A model of that class with initial values as in section 4, in training mode."""
    return TWINS[model_class](config)
