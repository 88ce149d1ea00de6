"""Memory that is freed stays with the process, so that every step finds it again."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed for the next step; only glibc can be told so.

    By default it gives large arrays back to the kernel, which has to clear their pages again in
    every step: 330,000 of them for the 22.4 M model (docs/performance.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_ARENA_MAX, 1)
