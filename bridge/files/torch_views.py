"""A tensor's place in a .pt file: a storage, and a view of it that is checked to lie within."""

import dataclasses
import math
from typing import Any

import numpy as np

from bridge.errors import FormatError
from bridge.files.refused import Unread

_MOST_DIMENSIONS = 8

LONGEST_KEY = 100
"""Of a storage; torch counts them."""

_LARGEST = 2**48
"""Of a tensor's sizes and strides: numpy still computes with their products in 64 bits."""


@dataclasses.dataclass(frozen=True)
class Storage(Unread):
    """Consecutive values that tensors are views of.

    Attributes:
        key: the record of the archive that holds them.
        dtype: of the values.
        size: their number.
    """

    key: str
    dtype: np.dtype[Any]
    size: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor's place in its storage; offset and strides count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_shape(value: Any) -> bool:
    """Whether a value is a tuple or list no longer than the shape of a tensor."""
    return isinstance(value, tuple | list) and len(value) <= _MOST_DIMENSIONS


def view_of(storage: Storage, offset: Any, shape: Any, strides: Any, most: int) -> View:
    """A view that lies within its storage.

    Args:
        storage: of the tensor.
        offset, shape, strides: as the file has them.
        most: bytes of a tensor that has more values than its storage, such as an expanded one.

    Raises:
        FormatError: it is not within the storage, or there is no such tensor.
    """
    if (
        type(shape) is not tuple
        or type(strides) is not tuple
        or not len(shape) == len(strides) <= _MOST_DIMENSIONS
        or any(type(n) is not int or not 0 <= n < _LARGEST for n in (offset, *shape, *strides))
        or math.prod(length or 1 for length in shape) >= _LARGEST
    ):
        raise FormatError("holds a tensor without a possible shape")
    size = math.prod(shape)
    reach = offset + sum(
        (length - 1) * stride for length, stride in zip(shape, strides, strict=True)
    )
    if size and reach >= storage.size:
        raise FormatError(
            f"holds a tensor {list(shape)} that claims more values than the {storage.size} stored"
        )
    # A few bytes on disk can claim any number of values through a stride of 0.
    if size > storage.size and size * storage.dtype.itemsize > most:
        raise FormatError(
            f"holds a tensor {list(shape)} that claims more values than the {storage.size} stored, "
            "and too many for so small a file: save it after .clone()"
        )
    return View(storage, offset, shape, strides)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of values that lie one after the other."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))
