"""What training asks of the machine that it runs on."""

import ctypes
import functools
import platform
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed for the next step; only glibc can be told so.

    By default it gives large arrays back to the kernel, which has to clear their pages anew in
    every step: 330,000 of them for the 22.4 M model (docs/performance.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_ARENA_MAX, 1)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16; where it cannot be seen, no."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
