"""Tensors in files, unread, and how they become JAX arrays and back, bit for bit."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from bridge.files.aligned_memory import aligned_bytes

Array = npt.NDArray[Any]
T = TypeVar("T")

BFLOAT16 = np.dtype(jnp.bfloat16)

DTYPES: dict[str, np.dtype[Any]] = {"bool": np.dtype(np.bool_)} | {
    name: np.dtype(getattr(jnp, name))
    for name in (
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}
"""The dtypes that a file's tensors may have, by torch's names; most of them no model has."""

FLOATS = (np.dtype(np.float32), BFLOAT16, np.dtype(np.float16))
"""The dtypes that a parameter may have. float64 is not among them: JAX would round it silently."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a checkpoint in PyTorch's layout, whose values are read when they are needed.

    Tensors that are read from a file and tensors that will be written both have this form. So a
    checkpoint is converted tensor by tensor. One object under two names is a tied tensor.

    Attributes:
        shape: in PyTorch's layout.
        dtype: for bfloat16, which numpy does not have, the one that jax registers.
        read: returns the values [shape], contiguous, in any thread; raises BridgeError if they are
            damaged.
        read_strips: for a matrix, the same values as consecutive blocks of rows, if they can be
            read without holding all of it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array]
    read_strips: Callable[[], Iterator[Array]] | None = None

    def __repr__(self) -> str:
        return f"a tensor {list(self.shape)}"

    @property
    def size(self) -> int:
        """The number of values."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def nbytes(self) -> int:
        """The bytes of all values."""
        return self.size * self.dtype.itemsize


def tensor_of(array: jax.Array | Array, *, transpose: bool = False) -> Tensor:
    """A tensor with an array's values, transposed if asked."""

    def read() -> Array:
        values = np.asarray(array)
        return (
            _transposed([values], values.shape, values.dtype) if transpose else contiguous(values)
        )

    shape = tuple(array.shape)
    return Tensor(shape[::-1] if transpose else shape, np.dtype(array.dtype), read)


def host_array(tensor: Tensor, *, transpose: bool) -> Array:
    """A tensor's values in the host's memory, transposed if asked, with the same dtype."""
    if not transpose:
        return tensor.read()
    strips = [tensor.read()] if tensor.read_strips is None else tensor.read_strips()
    return _transposed(strips, tensor.shape, tensor.dtype)


def computed_ahead(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """The jobs' results in order, computed by two threads and never more than three ahead.

    Work on large arrays lets other threads run, and three large arrays fit into memory.
    """
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) == 3:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def contiguous(values: Array) -> Array:
    """The same values, contiguous; numpy's ascontiguousarray does not keep scalars."""
    return values if values.flags.c_contiguous else values.copy()


def _transposed(strips: Iterable[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The contiguous transpose of a matrix that comes as consecutive blocks of its rows.

    It is made in steps that fit into the cache, which is several times faster than numpy's copy of
    a large matrix. It is aligned, so JAX takes it over without a copy.
    """
    rows, columns = shape
    result = aligned_bytes(rows * columns * dtype.itemsize).view(dtype).reshape(columns, rows)
    row = 0
    for strip in strips:
        for start in range(0, len(strip), 16):
            part = strip[start : start + 16]
            result[:, row : row + len(part)] = part.T
            row += len(part)
    return result
