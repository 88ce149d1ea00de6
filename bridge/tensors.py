"""Arrays between torch and jax, bit for bit: NaN payloads, signed zeros and subnormals survive."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that a parameter may have. float64 is not among them: JAX would round it silently."""

_BFLOAT16 = np.dtype(jnp.bfloat16)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A view of a CPU tensor; bfloat16, which numpy lacks, is the dtype that jax registers."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def to_jax(tensor: torch.Tensor, *, transpose: bool) -> jax.Array:
    """A copy on JAX's default device, transposed if asked, of the same dtype."""
    array = to_numpy(tensor)
    return jnp.array(array.T if transpose else array)


def to_torch(array: jax.Array | np.ndarray, *, transpose: bool) -> torch.Tensor:
    """A contiguous copy, transposed if asked, of the same dtype."""
    view = np.asarray(array)
    copy = np.array(view.T if transpose else view, order="C")
    if copy.dtype == _BFLOAT16:
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)


def layout(tensor: torch.Tensor) -> str:
    """What about a tensor, other than shape and dtype, forbids reading it; empty if nothing."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"layout {tensor.layout}"
    if tensor.device.type != "cpu":
        return f"device {tensor.device}"
    # A few bytes on disk can claim any number of elements through a stride of 0.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return "more elements than stored"
    return ""
