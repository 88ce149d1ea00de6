"""Memory that JAX takes over without a copy."""

from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""In bytes: JAX need not copy an array that starts at a multiple of this."""


def aligned_bytes(count: int) -> npt.NDArray[Any]:
    """An uninitialised array of uint8 that starts at a multiple of ALIGNMENT."""
    memory = np.empty(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count]
