"""The hashes of windows (train/preparation/windows.py)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.preparation.window_hashes import mixed, window_hashes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@given(st.data(), st.integers(1, 70), st.integers(1, 3))
def test_windows_are_equal_where_their_hashes_are(dtype, data, width, letters):
    values = data.draw(st.lists(st.integers(0, letters - 1), max_size=width + 40))
    hashes = window_hashes(np.array(values, dtype), width).tolist()
    windows = [tuple(values[i : i + width]) for i in range(len(values) - width + 1)]
    assert len(hashes) == len(windows)
    known: dict[tuple[int, ...], int] = {}
    for window, value in zip(windows, hashes, strict=True):
        assert known.setdefault(window, value) == value
    assert len(set(known.values())) == len(known)


@pytest.mark.parametrize("width", range(1, 71))
def test_every_value_of_a_window_and_its_place_count(width):
    """Windows of which one value differs, or two have changed places."""
    values = np.arange(100, 100 + width, dtype=np.uint16)
    others = [values, values[::-1]]
    for i in range(width):
        others += [values.copy(), np.roll(values, i)]
        others[-2][i] += 1000
    distinct = {other.tobytes(): window_hashes(other, width).item() for other in others}
    assert len(set(distinct.values())) == len(distinct)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.integers(1, 60))
def test_a_window_hashes_alike_wherever_it_stands(values, width):
    array = np.array(values, np.uint64)
    for i, value in enumerate(window_hashes(array, width).tolist()):
        assert window_hashes(array[i : i + width], width).tolist() == [value]


def test_numbers_are_never_mixed_into_one():
    values = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    values = np.concatenate([np.arange(100_000, dtype=np.uint64), values])
    assert len(np.unique(mixed(values))) == len(np.unique(values))
