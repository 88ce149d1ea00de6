"""The language model of a Hugging Face folder: the twin, with what transformers asks of a model."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from bridge.huggingface.configuration_mmrec import MMRecConfig
from bridge.twin.models import MMRec100M, MMRecModel
from bridge.twin.state import DecodeState

State = DecodeState | dict[str, DecodeState]
"""What generation keeps of the tokens so far; its size does not depend on their number."""

_SPARSE = (
    "the sparse variant routes whole chunks of tokens, later ones included: it scores texts, but "
    "has no token-by-token decoding"
)


@dataclasses.dataclass
class MMRecOutput(ModelOutput):
    """What the model returns.

    Attributes:
        loss: mean nats per label, plus the model's auxiliary loss; None without labels.
        logits: [B, T, V].
        state: to give to the next call with the tokens that follow; None without `use_cache`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    state: State | None = None


class MMRecForCausalLM(PreTrainedModel, GenerationMixin):
    """MM-Rec in transformers; the recurrent state takes the place of a cache of keys and values."""

    config_class = MMRecConfig
    base_model_prefix = "model"
    _is_stateful = True  # no token can be taken back
    # Used only where the config ties them.
    _tied_weights_keys = {"model.lm_head.weight": "model.embedding.weight"}  # noqa: RUF012

    def __init__(self, config: MMRecConfig) -> None:
        super().__init__(config)
        twin = MMRec100M if config.model_class == "MMRec100M" else MMRecModel
        self.model: Any = twin(config.of_model())  # of either class, with its own kind of state
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The twin's own constructors have drawn the initial values."""

    def get_input_embeddings(self) -> nn.Module:
        """The embedding [V, D]."""
        return self.model.embedding

    def get_output_embeddings(self) -> nn.Module:
        """The head; in an MMRecModel it has the embedding's weights."""
        return self.model.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        state: State | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **options: Any,
    ) -> MMRecOutput | tuple[Any, ...]:
        """Scores every next token.

        Args:
            input_ids: [B, T]; with a state, those that it has not seen.
            attention_mask: 0 for padding, which may be on either side, and 1 for tokens [B, T]; it
                may also have a column for each token before, as `generate` gives it.
            labels: the inputs themselves, -100 where there is no loss [B, T].
            state: from an earlier call; None for the beginning.
            use_cache: whether to return the state; None returns it if the model is not training.
            logits_to_keep: score only the last so many tokens; 0 for all.
            return_dict: False for a tuple.
            options: of the loss; others that `generate` has have no meaning here.

        Raises:
            ValueError: a sparse model is given a state or padding.
        """
        sparse = self.config.use_sparse
        real = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].bool()
        if real is not None and real.all():
            real = None
        if sparse and (state is not None or real is not None):
            raise ValueError(f"{_SPARSE}, and takes no padding")
        if use_cache is None:
            use_cache = not self.training
        order = None
        if real is not None:  # the twin's padding comes last
            order = torch.argsort(~real, dim=1, stable=True)
            input_ids, real = input_ids.gather(1, order), real.gather(1, order)
        if state is None:
            state = self.model.start_decoding(input_ids, self.config.chunk_size)
        y, auxiliary_loss, state = self.model.decode(input_ids, state, real=real)
        if order is not None:
            y = y.gather(1, torch.argsort(order, dim=1)[..., None].expand_as(y))
        logits = self.model.lm_head(y[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **options)
            loss = loss + auxiliary_loss
        output = MMRecOutput(loss, logits, state if use_cache and not sparse else None)
        return output.to_tuple() if return_dict is False else output

    def generate(self, *arguments: Any, **options: Any) -> Any:
        """As of transformers; see GenerationMixin.

        Raises:
            ValueError: the model is sparse.
        """
        if self.config.use_sparse:
            raise ValueError(_SPARSE)
        return super().generate(*arguments, **options)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        state: State | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """The arguments of the next call: after the prompt, the last token alone."""
        return {
            "input_ids": input_ids if state is None else input_ids[:, -1:],
            "attention_mask": attention_mask,
            "state": state,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
        }

    def _update_model_kwargs_for_generation(
        self, outputs: MMRecOutput, model_kwargs: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **options)
        # Without a cache there is none, and beam search has nothing to reorder.
        return model_kwargs if outputs.state is None else model_kwargs | {"state": outputs.state}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    @staticmethod
    def _reorder_cache(state: State, beams: Tensor) -> State:
        """The state of the beams [N] that beam search goes on with."""
        if isinstance(state, DecodeState):
            return state.of(beams)
        return {name: each.of(beams) for name, each in state.items()}
