"""The memory of this machine: whether a model fits into it, and what this process has used."""

import contextlib
import os
import re
import resource
from pathlib import Path

import jax

from mmrec_jax import ModelConfig
from train.system.errors import UserError

_BYTES_PER_PARAMETER = 8
"""The weight and its gradient in float32; and as many for the two moments."""


def check_memory(model: ModelConfig, memory: int, parts: int = 1) -> None:
    """Makes sure that a model's training state is not larger than a memory of so many bytes.

    Args:
        model: the model's config.
        memory: the bytes.
        parts: over how many such memories the moments are cut.

    Raises:
        UserError: it is; building it would take the machine down.
    """
    width = model.model_dim
    # The least that every variant of a model has: four projections and a feed-forward layer.
    layers = model.num_layers * (4 * width**2 + 2 * width * model.ffn_dim)
    needed = _BYTES_PER_PARAMETER * (1 + 1 / parts) * (model.vocab_size * width + layers)
    if needed > memory:
        raise UserError(
            f"model: num_layers {model.num_layers}, model_dim {width} and ffn_dim "
            f"{model.ffn_dim} need at least {needed / 1e9:,.1f} GB for weights, gradients and "
            f"moments, and this machine has {memory / 1e9:,.1f} GB: lower them"
        )


def memory() -> int:
    """The bytes that the device has, or this machine."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return int(limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def device_peak_bytes() -> int | None:
    """The most memory of the device that this process has had so far; None for a CPU's."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    # getrusage would include the parent's memory at the time when it started this process.
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes, where there is no /proc
