"""The arrays of blocks by path: one array per layer, or one stacked array for all layers.

A list of blocks has one array per layer, such as ("blocks", 3, "W_q", "kernel"). Stacked blocks
have one array with a leading axis of layers, such as ("blocks", "W_q", "kernel").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

VariablePath = tuple[str | int, ...]
"""The path of a variable in a model, as flax.nnx.to_flat_state gives it."""

AnyArray = jax.Array | npt.NDArray[Any]

_BLOCKS = "blocks"


def layer_path(path: VariablePath, layer: int) -> VariablePath:
    """The path of one layer's array, from the path of the stacked array."""
    place = path.index(_BLOCKS) + 1
    return (*path[:place], layer, *path[place:])


def split_layer(path: VariablePath) -> tuple[VariablePath, int | None]:
    """The path of the stacked array, and the layer; None if the path names no layer."""
    if _BLOCKS in path[:-1]:
        place = path.index(_BLOCKS) + 1
        layer = path[place]
        if isinstance(layer, int):
            return (*path[:place], *path[place + 1 :]), layer
    return path, None


def is_stacked(path: VariablePath) -> bool:
    """Whether a path belongs to a stacked array."""
    return _BLOCKS in path[:-1] and split_layer(path)[1] is None


def unstack(
    arrays: Mapping[VariablePath, AnyArray], first_layer: int = 0
) -> dict[VariablePath, AnyArray]:
    """The arrays, with stacked ones split into one per layer; parts of numpy arrays are views.

    Args:
        arrays: in either form.
        first_layer: the layer that the first row of a stacked array belongs to.
    """
    result: dict[VariablePath, AnyArray] = {}
    for path, array in arrays.items():
        if is_stacked(path):
            for row in range(len(array)):
                result[layer_path(path, first_layer + row)] = array[row]
        else:
            result[path] = array
    return result


def stack(
    arrays: Mapping[VariablePath, AnyArray], layers: Sequence[int]
) -> dict[VariablePath, AnyArray]:
    """The arrays, with those of blocks stacked: numpy's on the host, JAX's on their device.

    An array that not every layer has in the same form stays as it is, under the path of its layer.
    An example is a moment that one layer lacks.

    Args:
        arrays: by the paths of a list of blocks.
        layers: the layers that a stacked array must have, in order.
    """
    groups: dict[VariablePath, dict[int, AnyArray]] = {}
    result: dict[VariablePath, AnyArray] = {}
    for path, array in arrays.items():
        stacked_path, layer = split_layer(path)
        if layer is None:
            result[path] = array
        else:
            groups.setdefault(stacked_path, {})[layer] = array
    for path, group in groups.items():
        alike = len({(array.shape, array.dtype) for array in group.values()}) == 1
        if alike and group.keys() == set(layers):
            on_host = all(isinstance(array, np.ndarray) for array in group.values())
            result[path] = (np if on_host else jnp).stack([group[layer] for layer in layers])
        else:
            result |= {layer_path(path, layer): array for layer, array in group.items()}
    return result
