"""Where the arrays of a run lie: on one device, or batches and states cut over a mesh of them.

Every device runs the whole computation on its own sequences of a batch, as one device would. Large
parameters and their moments are cut over the devices of a group, and put together for a step.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.data.batches import Batch
from train.settings.config import MeshConfig
from train.system import processes
from train.system.errors import UserError

_AXES = ("data", "model")
ROWS = PartitionSpec(_AXES)
"""Each device has its sequences of a batch."""

WHOLE = PartitionSpec()
"""Each device has the whole array."""

Tree = Any
"""Arrays in dictionaries, tuples and lists."""


class Devices:
    """The devices of a run, and what moves arrays to them and back.

    Attributes:
        count: how many there are.
    """

    def __init__(self, config: MeshConfig) -> None:
        """Takes the first devices of all processes.

        Raises:
            UserError: there are fewer, or some process would have none.
        """
        self.count = config.devices
        available, several = jax.devices(), processes.count() > 1
        if self.count > len(available) or (several and self.count != len(available)):
            raise UserError(
                f"mesh: data {config.data} times model {config.model} is {self.count} devices, and "
                f"{'the processes have' if several else 'there are'} {len(available)}: set "
                "mesh.data and mesh.model to as many"
            )
        self._in_group = config.model
        chosen = np.array(available[: self.count]).reshape(config.data, config.model)
        self._mesh = Mesh(chosen, _AXES)
        self._copy = jax.jit(lambda tree: tree, out_shardings=self.shardings(WHOLE))
        if not self.is_one:
            self._meet()

    def _meet(self) -> None:
        """Lets all groups of devices connect now: they must do so within 30 seconds."""
        processes.gathered([0])  # which waits for however long
        sums = self.on_each(
            lambda x: [jax.lax.psum(x, axes) for axes in (*_AXES, _AXES)], (WHOLE,), WHOLE
        )
        jax.block_until_ready(jax.jit(sums)(np.zeros(1, np.float32)))

    @property
    def is_one(self) -> bool:
        """Whether there is one device, on which nothing is cut."""
        return self.count == 1

    def cut(self, tree: Tree) -> Tree:
        """Arrays that every process has, as arrays of the mesh."""
        if self.is_one:
            return tree
        return jax.tree.map(lambda array: self._put(array, self._spec(array)), tree)

    def here(self, tree: Tree) -> Tree:
        """Whole arrays on this process's first device; all processes must call it."""
        if self.is_one:
            return tree
        whole = tree if self._in_group == 1 else self._copy(tree)
        return jax.tree.map(lambda array: array.addressable_data(0), whole)

    def rows(self, batch: Batch) -> Batch:
        """The sequences that this process has of a batch, as a batch of the mesh."""
        if self.is_one:
            return batch
        put = functools.partial(
            jax.make_array_from_process_local_data, NamedSharding(self._mesh, ROWS)
        )
        return jax.tree.map(lambda array: put(np.asarray(array)), batch)

    def same_rows(self, batch: Batch) -> Batch:
        """A batch that every process has, as a batch of the mesh."""
        if self.is_one:
            return batch
        return jax.tree.map(lambda array: self._put(array, ROWS), batch)

    def _put(self, array: Any, spec: PartitionSpec) -> jax.Array:
        """An array that every process has, cut over the mesh."""
        whole = np.asarray(array)
        sharding = NamedSharding(self._mesh, spec)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    def shardings(self, spec: Tree) -> Tree:
        """The shardings of a tree of specs; None where there is one device."""
        if self.is_one:
            return None
        return jax.tree.map(lambda each: NamedSharding(self._mesh, each), spec)

    def specs(self, tree: Tree) -> Tree:
        """How each array is cut."""
        return jax.tree.map(self._spec, tree)

    def _spec(self, array: Any) -> PartitionSpec:
        """Cuts the longest axis that the devices of a group divide, of arrays of weights."""
        axes = [axis for axis, size in enumerate(array.shape) if size % self._in_group == 0]
        is_weights = array.ndim >= 2 and jnp.issubdtype(array.dtype, jnp.floating)
        if self._in_group == 1 or not is_weights or not axes:
            return WHOLE
        longest = max(axes, key=lambda axis: array.shape[axis])
        return PartitionSpec(*[None] * longest, "model")

    def on_each(
        self, function: Callable[..., Any], specs: tuple[Tree, ...], out: Tree
    ) -> Callable[..., Any]:
        """A function that runs on every device with its parts of the arguments."""
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=specs, out_specs=out, check_vma=False
        )

    # What follows is for functions that run on every device.

    def index(self) -> jax.Array:
        """Which device this is."""
        return jax.lax.axis_index(_AXES)

    def joined(self, tree: Tree, specs: Tree) -> Tree:
        """Whole arrays, of the parts that the devices of a group have."""

        def join(part: jax.Array, spec: PartitionSpec) -> jax.Array:
            if "model" not in spec:
                return part
            return jax.lax.all_gather(part, "model", axis=spec.index("model"), tiled=True)

        return jax.tree.map(join, tree, specs)

    def summed(self, tree: Tree) -> Tree:
        """The sums over all devices."""
        return jax.lax.psum(tree, _AXES)

    def largest(self, tree: Tree) -> Tree:
        """The largest values of all devices."""
        return jax.lax.pmax(tree, _AXES)

    def parts(self, tree: Tree, specs: Tree) -> Tree:
        """This device's parts of whole arrays.

        A sum of which each device takes its part: XLA makes a reduce-scatter of it where that is
        good. The one of CPUs breaks off after 30 seconds (jax #40831), so it is not asked for.
        """

        def part(array: jax.Array, spec: PartitionSpec) -> jax.Array:
            if "model" not in spec:
                return array
            axis = spec.index("model")
            size = array.shape[axis] // self._in_group
            start = jax.lax.axis_index("model") * size
            return jax.lax.dynamic_slice_in_dim(array, start, size, axis)

        return jax.tree.map(part, tree, specs)
