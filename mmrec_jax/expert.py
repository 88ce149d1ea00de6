"""ExpertModule: blocks without embedding and head, specialised in one domain."""

from collections.abc import Sequence

import jax

from mmrec_jax.memory import LongTermMemory
from mmrec_jax.stack import BlockStack, DecodeState


class ExpertModule(BlockStack):
    """Blocks and a norm; it borrows the base model's embedding and head (section 3.2)."""

    def __call__(
        self, x: jax.Array, memory: Sequence[LongTermMemory] | None = None
    ) -> tuple[jax.Array, list[LongTermMemory]]:
        """x [B, T, D] -> [B, T, D], and the new memory, one a layer, each [B, M, D].

        Raises:
            ValueError: the memory does not fit.
        """
        out = self.hidden_states(x, memory)
        return out.y, out.memory

    def decode(
        self, x: jax.Array, state: DecodeState, *, chunk_size: int | None = None
    ) -> tuple[jax.Array, DecodeState]:
        """See `decode_hidden_states`."""
        return self.decode_hidden_states(x, state, chunk_size=chunk_size)
