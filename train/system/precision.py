"""Decides on bfloat16: which precision a run's matrix products have on this machine.

training.precision asks for it, `matmul_precision` says what the machine can do, and the training
step sets that as JAX's default. Then mmrec_jax/matmul.py rounds the operands of the products.
Everything else stays float32: parameters, optimizer state, the recurrence and all scoring.
"""

import functools
from pathlib import Path
from typing import Literal

import jax

Precision = Literal["float32", "bfloat16"]


def matmul_precision(asked: Precision) -> Precision:
    """The precision to use: the one that is asked for, or float32 on a CPU without bfloat16."""
    if jax.default_backend() == "cpu" and not multiplies_bfloat16():
        return "float32"
    return asked


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16; False if unknown."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
