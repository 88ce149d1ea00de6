"""How two experts are joined: the fusion layer, and the model around it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block import Health
from mmrec_jax.config import ModelConfig
from mmrec_jax.decode_state import DecodeState
from mmrec_jax.expert import ExpertModule
from mmrec_jax.layers import RMSNorm, linear
from mmrec_jax.matmul import dot
from mmrec_jax.memory import LongTermMemory
from mmrec_jax.model import Embedding, ModelOutput

ExpertType = Literal["text", "code"]


class FusedOutput(NamedTuple):
    """What MMRec100M computes before its head; it has the layers of the experts that ran.

    Attributes:
        y: the experts' outputs joined and normalised [B, T, 2 D].
        memory: the new long-term memory of each expert, one per layer.
        auxiliary_loss: the sum over the experts (section 2.10).
        health: of each layer [layers].
    """

    y: jax.Array
    memory: dict[str, list[LongTermMemory]]
    auxiliary_loss: jax.Array
    health: Health


class FusionLayer(nnx.Module):
    """Joins the experts' outputs, side by side or after a gate (section 3.3)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.fusion_proj = linear(2 * config.model_dim, config.fusion_dim, rngs=rngs)
        if config.fusion_method == "weighted":
            self.gate = linear(2 * config.model_dim, config.model_dim, rngs=rngs)

    def __call__(self, text_output: jax.Array, code_output: jax.Array) -> jax.Array:
        """text_output, code_output [B, T, D] -> [B, T, fused_dim]."""
        if self.config.fusion_method == "weighted":
            share = self.text_share(text_output, code_output)
            text_output, code_output = share * text_output, (1 - share) * code_output
        return self.fusion_proj(jnp.concatenate([text_output, code_output], axis=-1))

    def text_share(self, text_output: jax.Array, code_output: jax.Array) -> jax.Array:
        """The gate of the weighted method: how much of the text expert is taken; all [B, T, D]."""
        both = jnp.concatenate([text_output, code_output], axis=-1)
        return jax.nn.sigmoid(self.gate(both))


class MMRec100M(nnx.Module):
    """A shared embedding, both experts, the fusion layer, and an untied head (section 3.4)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        fused_dim = 2 * config.model_dim
        if config.fusion_dim != fused_dim:
            raise ValueError(
                f"MMRec100M needs fused_dim = 2 * model_dim = {fused_dim}, not {config.fused_dim}"
            )
        self.config = config
        self.embedding = Embedding(
            config.vocab_size, config.model_dim, init=nnx.initializers.normal(1.0), rngs=rngs
        )
        self.text_expert = ExpertModule(config, rngs=rngs)
        self.code_expert = ExpertModule(config, rngs=rngs)
        self.fusion = FusionLayer(config, rngs=rngs)
        self.final_norm = RMSNorm(fused_dim)
        self.lm_head = linear(fused_dim, config.vocab_size, use_bias=False, rngs=rngs)

    def experts(self, expert_type: ExpertType | None) -> dict[str, ExpertModule]:
        """The experts that run with an `expert_type`, by name.

        Raises:
            ValueError: there is no such type.
        """
        experts = {"text": self.text_expert, "code": self.code_expert}
        if expert_type is None:
            return experts
        if expert_type not in experts:
            raise ValueError(f"expert_type must be None, 'text' or 'code', not {expert_type!r}")
        return {expert_type: experts[expert_type]}

    @property
    def head_kernel(self) -> jax.Array:
        """The head [2 D, V]."""
        return self.lm_head.kernel[...]

    def fused(self, outputs: Mapping[str, jax.Array]) -> jax.Array:
        """The experts' outputs [B, T, D] joined and normalised, [B, T, 2 D].

        Zeros replace the output of an expert that is missing.
        """
        zeros = jnp.zeros_like(next(iter(outputs.values())))
        return self.final_norm(self.fusion(outputs.get("text", zeros), outputs.get("code", zeros)))

    def features(
        self,
        input_ids: jax.Array,
        memory: Mapping[str, Sequence[LongTermMemory]] | None = None,
        *,
        expert_type: ExpertType | None = None,
        dropout_key: jax.Array | None = None,
        **options: Any,
    ) -> FusedOutput:
        """The input of the head, as `y` [B, T, 2 D], from ids [B, T].

        Args:
            input_ids, memory, expert_type, dropout_key: see `__call__`.
            options: see BlockStack.hidden_states.
        """
        experts = self.experts(expert_type)
        memory = self._known(memory)
        x = self.embedding(input_ids)
        keys = [None, None] if dropout_key is None else list(jax.random.split(dropout_key))
        outs = {
            name: expert.hidden_states(x, memory.get(name), dropout_key=key, **options)
            for (name, expert), key in zip(experts.items(), keys, strict=False)
        }
        return FusedOutput(
            self.fused({name: out.y for name, out in outs.items()}),
            {name: out.memory for name, out in outs.items()},
            jnp.stack([out.auxiliary_loss for out in outs.values()]).sum(),
            jax.tree.map(
                lambda *layers: jnp.concatenate(layers), *(out.health for out in outs.values())
            ),
        )

    def __call__(
        self,
        input_ids: jax.Array,
        memory: Mapping[str, Sequence[LongTermMemory]] | None = None,
        *,
        expert_type: ExpertType | None = None,
        chunk_size: int | None = None,
        dropout_key: jax.Array | None = None,
    ) -> ModelOutput:
        """Scores every next token; the new memory is a dictionary of the experts that ran.

        Args:
            input_ids: [B, T].
            memory: {"text": one per layer, "code": one per layer}; a missing one is zeros.
            expert_type: runs only this expert, with zeros as the other's output; None runs both.
            chunk_size: see BlockStack.hidden_states.
            dropout_key: None switches dropout off.

        Raises:
            ValueError: the memory, chunk_size or expert_type does not fit.
        """
        out = self.features(
            input_ids,
            memory,
            expert_type=expert_type,
            chunk_size=chunk_size,
            dropout_key=dropout_key,
        )
        return ModelOutput(dot(out.y, self.head_kernel), out.memory, out.auxiliary_loss)

    def start_decoding(
        self,
        batch: int,
        memory: Mapping[str, Sequence[LongTermMemory]] | None = None,
        *,
        chunk_size: int | None = None,
    ) -> dict[str, DecodeState]:
        """The state before the first token, for each expert (section 3.5).

        Raises:
            ValueError: the memory or chunk_size does not fit, or the experts are of the sparse
                variant.
        """
        memory = self._known(memory)
        return {
            name: expert.start_decoding(batch, memory.get(name), chunk_size=chunk_size)
            for name, expert in self.experts(None).items()
        }

    def prefill(
        self,
        input_ids: jax.Array,
        lengths: jax.Array,
        memory: Mapping[str, Sequence[LongTermMemory]] | None = None,
        *,
        chunk_size: int | None = None,
    ) -> tuple[jax.Array, dict[str, DecodeState]]:
        """See MMRecModel.prefill; both experts run."""
        memory = self._known(memory)
        x = self.embedding(input_ids, lengths)
        after = {
            name: expert.prefill_hidden_states(x, lengths, memory.get(name), chunk_size=chunk_size)
            for name, expert in self.experts(None).items()
        }
        return self._scored(after)

    def decode(
        self,
        input_ids: jax.Array,
        state: Mapping[str, DecodeState],
        *,
        expert_type: ExpertType | None = None,
    ) -> tuple[jax.Array, dict[str, DecodeState]]:
        """See MMRecModel.decode; an expert that does not run keeps its old state."""
        x = self.embedding(input_ids)
        after = {
            name: expert.decode_hidden_states(x, state[name])
            for name, expert in self.experts(expert_type).items()
        }
        logits, states = self._scored(after)
        return logits, dict(state) | states

    def _scored(
        self, after: Mapping[str, tuple[jax.Array, DecodeState]]
    ) -> tuple[jax.Array, dict[str, DecodeState]]:
        """The logits from the experts' outputs, and the experts' states."""
        fused = self.fused({name: y for name, (y, _) in after.items()})
        return dot(fused, self.head_kernel), {name: state for name, (_, state) in after.items()}

    def _known(
        self, memory: Mapping[str, Sequence[LongTermMemory]] | None
    ) -> Mapping[str, Sequence[LongTermMemory]]:
        unknown = (memory or {}).keys() - self.experts(None).keys()
        if unknown:
            raise ValueError(f"memory is for 'text' and 'code', not {', '.join(sorted(unknown))}")
        return memory or {}
