"""Which of a model's arrays are trained: what else there is keeps no moments and no gradient.

Arrays are held by their path in the model, with stacked blocks. Where the first blocks are frozen,
each array of the blocks is cut in two along its axis of layers.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmrec_jax import MMRec100M, MMRecModel
from mmrec_jax.layer_paths import VariablePath

Arrays = dict[VariablePath, jax.Array]
Network = MMRecModel | MMRec100M
"""What is trained: a model from token ids to scores."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What is not trained, or more slowly (docs/model.md section 5.6).

    Attributes:
        modules: names of modules whose parameters all stay as they are.
        blocks: first blocks that stay as they are.
        slow_blocks: first blocks that, unless frozen, are trained at a smaller rate.
        slow_rate: their share of the learning rate.
    """

    modules: frozenset[str] = frozenset()
    blocks: int = 0
    slow_blocks: int = 0
    slow_rate: float = 1.0


class Parameters:
    """Takes models apart into trained and other arrays, and puts them together again."""

    def __init__(self, model: Network, frozen: Frozen) -> None:
        """For models that are built like `model`, whose blocks are stacked."""
        self._frozen = frozen
        self._modules = frozen.modules | set(model.config.untrained_modules)
        self._graphdef: nnx.GraphDef[Network] = nnx.graphdef(model)
        # The variables, without their arrays.
        self._variables = list(_flat(jax.eval_shape(lambda: nnx.state(model))))

    def split(self, model: Network) -> tuple[Arrays, Arrays]:
        """A model's trained arrays and its others, as copies that may be given up."""
        trained: Arrays = {}
        others: Arrays = {}
        for path, variable in _flat(nnx.state(model)):
            array = jnp.copy(variable[...])
            if not isinstance(variable, nnx.Param) or self._modules & set(path):
                others[path] = array
            elif held := self.frozen_layers(path):
                others[path], trained[path] = array[:held], array[held:]
            else:
                trained[path] = array
        return trained, others

    def join(self, trained: Arrays, others: Arrays) -> Network:
        """The model of both, its blocks stacked."""

        def array(path: VariablePath) -> jax.Array:
            parts = [arrays[path] for arrays in (others, trained) if path in arrays]
            if len(parts) == 1:
                return parts[0]
            on_host = isinstance(parts[0], np.ndarray)
            return (np if on_host else jnp).concatenate(parts)

        flat = [(path, variable.replace(array(path))) for path, variable in self._variables]
        return nnx.merge(self._graphdef, nnx.from_flat_state(flat))

    def rates(self, trained: Arrays) -> dict[VariablePath, Any]:
        """Each trained array's share of the learning rate: a number, or one for each layer."""
        return {path: self._rate(path, array) for path, array in trained.items()}

    def frozen_layers(self, path: VariablePath) -> int:
        """How many of an array's first layers are frozen."""
        return self._frozen.blocks if "blocks" in path else 0

    def _rate(self, path: VariablePath, array: jax.Array) -> Any:
        slow = self._frozen.slow_blocks - self._frozen.blocks
        if "blocks" not in path or slow <= 0:
            return 1.0
        rates = np.where(np.arange(array.shape[0]) < slow, self._frozen.slow_rate, 1.0)
        return rates.astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))


def _flat(state: nnx.State) -> Iterator[tuple[VariablePath, nnx.Variable[jax.Array]]]:
    return cast(
        Iterator[tuple[VariablePath, nnx.Variable[jax.Array]]], iter(nnx.to_flat_state(state))
    )
