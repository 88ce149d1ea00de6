"""MMRecModel: the language model that is trained first, and that experts start from."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from mmrec_jax.config import ModelConfig
from mmrec_jax.decode_state import DecodeState
from mmrec_jax.layers import uniform
from mmrec_jax.matmul import dot
from mmrec_jax.memory import LongTermMemory
from mmrec_jax.stack import BlockStack, StackOutput


class ModelOutput(NamedTuple):
    """What MMRecModel and MMRec100M return.

    Attributes:
        logits: [B, T, V].
        memory: the new long-term memory, one per layer, each [B, M, D], without gradient; for
            MMRec100M a dictionary of such lists by expert.
        auxiliary_loss: lambda_P times the planning losses of all layers (section 2.10).
    """

    logits: jax.Array
    memory: list[LongTermMemory] | dict[str, list[LongTermMemory]]
    auxiliary_loss: jax.Array


class Embedding(nnx.Module):
    """A table of token vectors; unlike nnx.Embed, outputs always have the dtype of the table."""

    def __init__(self, vocab_size: int, dim: int, *, init: nnx.Initializer, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Param(init(rngs.params(), (vocab_size, dim)))

    def __call__(self, input_ids: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """input_ids [B, T] -> [B, T, D]; what follows the lengths [B] may be any ids.

        Raises:
            ValueError: an id is outside the vocabulary, where that can be seen: not inside a
                function that JAX compiles.
        """
        table = self.embedding[...]
        check_ids(input_ids, len(table), lengths)
        return table[input_ids]


def check_ids(input_ids: ArrayLike, vocab_size: int, lengths: jax.Array | None = None) -> None:
    """Refuses ids outside the vocabulary, for which JAX would take another token without a word.

    Args:
        input_ids: [B, T]; not checked where they are unknown yet, as JAX compiles.
        vocab_size: V.
        lengths: tokens of each row [B], the rest of it being padding; None for T in all.

    Raises:
        ValueError: an id is not an integer from 0 to V - 1.
    """
    if isinstance(input_ids, jax.core.Tracer) or isinstance(lengths, jax.core.Tracer):
        return
    ids = np.asarray(input_ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"token ids must be integers, not {ids.dtype}")
    wrong = (ids < 0) | (ids >= vocab_size)
    if lengths is not None:
        wrong &= np.arange(ids.shape[1]) < np.asarray(lengths)[:, None]
    if wrong.any():
        raise ValueError(
            f"token ids must lie in the vocabulary, from 0 to {vocab_size - 1}, not {ids[wrong][0]}"
        )


class MMRecModel(BlockStack):
    """Embedding, blocks, norm, and a head tied to the embedding (section 3.1)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        init = uniform(1 / math.sqrt(config.model_dim))
        self.embedding = Embedding(config.vocab_size, config.model_dim, init=init, rngs=rngs)

    def __call__(
        self,
        input_ids: jax.Array,
        memory: Sequence[LongTermMemory] | None = None,
        *,
        chunk_size: int | None = None,
        router_threshold: float = 0.0,
        dropout_key: jax.Array | None = None,
    ) -> ModelOutput:
        """Scores every next token.

        Args:
            input_ids: [B, T].
            memory: the long-term memory, one per layer; None for zeros.
            chunk_size: see `hidden_states`.
            router_threshold: see `hidden_states`.
            dropout_key: None switches dropout off.

        Raises:
            ValueError: the memory or chunk_size does not fit.
        """
        out = self.features(
            input_ids,
            memory,
            chunk_size=chunk_size,
            router_threshold=router_threshold,
            dropout_key=dropout_key,
        )
        return ModelOutput(dot(out.y, self.head_kernel), out.memory, out.auxiliary_loss)

    @property
    def head_kernel(self) -> jax.Array:
        """The head [D, V]: the embedding's table, transposed."""
        return self.embedding.embedding[...].T

    def features(
        self, input_ids: jax.Array, memory: Sequence[LongTermMemory] | None = None, **options: Any
    ) -> StackOutput:
        """The head's input, as `y` [B, T, D], from ids [B, T]; options as in `hidden_states`."""
        return self.hidden_states(self.embedding(input_ids), memory, **options)

    def prefill(
        self,
        input_ids: jax.Array,
        lengths: jax.Array,
        memory: Sequence[LongTermMemory] | None = None,
        *,
        chunk_size: int | None = None,
    ) -> tuple[jax.Array, DecodeState]:
        """Reads whole prompts, in one pass over all tokens (section 3.5).

        Args:
            input_ids: [B, T]; after a prompt's end comes padding, any ids.
            lengths: the number of tokens of each prompt, from 1 to T [B].
            memory: one per layer; None for zeros.
            chunk_size: as in `__call__`; decoding from the state uses the same.

        Returns:
            Logits of the token after each prompt [B, V], and the state to continue from.

        Raises:
            ValueError: the memory or chunk_size does not fit, or the variant cannot be decoded.
        """
        y, state = self.prefill_hidden_states(
            self.embedding(input_ids, lengths), lengths, memory, chunk_size=chunk_size
        )
        return dot(y, self.head_kernel), state

    def decode(self, input_ids: jax.Array, state: DecodeState) -> tuple[jax.Array, DecodeState]:
        """Continues from a state, by one token or by a prompt of many (section 3.5).

        Args:
            input_ids: [B, T].
            state: from `start_decoding`, `prefill` or an earlier call.

        Returns:
            Logits [B, T, V] and the next state; `decode_hidden_states` says which full pass they
            equal.
        """
        y, state = self.decode_hidden_states(self.embedding(input_ids), state)
        return dot(y, self.head_kernel), state
