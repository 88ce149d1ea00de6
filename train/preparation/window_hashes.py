"""Hashes of all runs of n values in a row, for finding what two sequences share."""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def window_hashes(values: npt.NDArray[np.unsignedinteger], width: int) -> Hashes:
    """The hash of every window along the last axis.

    Equal windows always have equal hashes, different ones almost never (one pair in 2**64).

    Args:
        values: [..., N] integers.
        width: the number of values in a window, W, at least 1.

    Returns:
        [..., max(N - W + 1, 0)], the hash of the window that begins at each position.
    """
    *leading, count = values.shape
    if count < width:
        return np.zeros((*leading, 0), np.uint64)
    # By doubling: `powers` hashes windows of 1, 2, 4, ... values. W is a sum of some of these
    # lengths, and their hashes are joined from the left.
    powers, size = mixed(values.astype(np.uint64)), 1
    whole, done = np.zeros((*leading, count - width + 1), np.uint64), 0
    while True:
        if width & size:
            part = powers[..., done : done + whole.shape[-1]]
            whole = mixed(whole ^ np.uint64(size)) + part
            done += size
        if done == width:
            return whole
        powers = mixed(powers[..., :-size]) + powers[..., size:]
        size *= 2


def mixed(values: Hashes) -> Hashes:
    """A fixed permutation of the 64-bit numbers without visible structure (splitmix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
