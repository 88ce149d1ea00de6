"""ExpertModule: blocks without an embedding or a head, specialised in one domain."""

from collections.abc import Sequence

import jax

from mmrec_jax.memory import LongTermMemory
from mmrec_jax.stack import BlockStack


class ExpertModule(BlockStack):
    """Blocks and a norm; it uses the base model's embedding and head (section 3.2)."""

    def __call__(
        self, x: jax.Array, memory: Sequence[LongTermMemory] | None = None
    ) -> tuple[jax.Array, list[LongTermMemory]]:
        """x [B, T, D] -> [B, T, D], and the new memory, one per layer, each [B, M, D].

        Raises:
            ValueError: the memory does not fit.
        """
        out = self.hidden_states(x, memory)
        return out.y, out.memory
