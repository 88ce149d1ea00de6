"""Arrays of blocks by path: stacked, split again, and what does not fit together left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax.layer_paths import is_stacked, layer_path, split_layer, stack, unstack

STACKED = ("text_expert", "blocks", "mdi", "W_g", "kernel")
LISTED = ("text_expert", "blocks", 3, "mdi", "W_g", "kernel")
NORM = ("norm", "scale")


def test_paths():
    assert layer_path(STACKED, 3) == LISTED
    assert split_layer(LISTED) == (STACKED, 3)
    assert split_layer(STACKED) == (STACKED, None)
    assert [is_stacked(path) for path in (STACKED, LISTED, NORM, ("blocks",))] == [
        True,
        *[False] * 3,
    ]


@pytest.mark.parametrize("xp", [np, jnp])
def test_there_and_back(xp):
    arrays = {STACKED: xp.arange(6.0).reshape(2, 3), NORM: xp.ones(3)}
    listed = unstack(arrays, first_layer=4)
    assert list(listed) == [layer_path(STACKED, 4), layer_path(STACKED, 5), NORM]
    again = stack(listed, range(4, 6))
    kind = np.ndarray if xp is np else jax.Array
    for path, array in arrays.items():
        assert isinstance(again[path], kind)
        np.testing.assert_array_equal(again[path], array)


def test_numpy_arrays_are_split_as_views():
    array = np.zeros((2, 3))
    assert all(np.shares_memory(row, array) for row in unstack({STACKED: array}).values())


@pytest.mark.parametrize("other", [None, np.zeros(2), np.zeros(3, np.float16)])
def test_what_not_all_layers_have_alike_stays(other):
    listed = {layer_path(STACKED, 0): np.zeros(3)}
    if other is not None:
        listed[layer_path(STACKED, 1)] = other
    assert stack(listed, range(2)) == listed
