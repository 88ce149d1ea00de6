"""Which parts of a model are frozen: these have no gradient and no moments (section 5.6).

A stage's `frozen` says which modules and blocks are frozen. For an expert that comes from
`block_rates`, which the transfer uses too; for the fusion, from fusion.trainable. `Parameters`
separates a model's trained arrays from the others. Arrays are stored under their path in the model,
with stacked blocks. If the first blocks are frozen, each stacked array is cut in two along its axis
of layers.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmrec_jax import MMRec100M, MMRecModel, ModelConfig
from mmrec_jax.layer_paths import VariablePath

Arrays = dict[VariablePath, jax.Array]
Network = MMRecModel | MMRec100M
"""A model that can be trained: it scores tokens from token ids."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The parts that are not trained, or are trained more slowly.

    Attributes:
        modules: names of modules that are frozen completely.
        rates: each block's share of the learning rate, 0 if it is frozen, from
            mmrec_jax.block_rates; empty if all blocks are trained alike.
    """

    modules: frozenset[str] = frozenset()
    rates: tuple[float, ...] = ()

    def covers(self, path: VariablePath, config: ModelConfig) -> bool:
        """Whether an array is not trained, of a model with this config and a list of blocks."""
        if not set(path).isdisjoint({*self.modules, *config.untrained_modules}):
            return True
        return "blocks" in path and path[path.index("blocks") + 1] in range(self.rates.count(0.0))


class Parameters:
    """Separates a model's trained arrays from the others, and joins them again."""

    def __init__(self, model: Network, frozen: Frozen) -> None:
        """For models with the structure of `model`, whose blocks are stacked."""
        self._rates = frozen.rates
        self._modules = frozen.modules | set(model.config.untrained_modules)
        self._graphdef: nnx.GraphDef[Network] = nnx.graphdef(model)
        # The variables, without their arrays.
        self._variables = list(_flat(jax.eval_shape(lambda: nnx.state(model))))

    def split(self, model: Network) -> tuple[Arrays, Arrays]:
        """A model's trained arrays and the others, as copies whose buffers may be reused."""
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
        """The model with both, its blocks stacked."""

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
        """How many of the first layers of an array are frozen."""
        return self._rates.count(0.0) if "blocks" in path else 0

    def _rate(self, path: VariablePath, array: jax.Array) -> Any:
        rates = [rate for rate in self._rates if rate]
        if "blocks" not in path or all(rate == 1 for rate in rates):
            return 1.0
        return np.asarray(rates, np.float32).reshape(-1, *[1] * (array.ndim - 1))


def _flat(state: nnx.State) -> Iterator[tuple[VariablePath, nnx.Variable[jax.Array]]]:
    return cast(
        Iterator[tuple[VariablePath, nnx.Variable[jax.Array]]], iter(nnx.to_flat_state(state))
    )
