"""The names that a pickle of torch's mentions: what each stands for, without importing any.

Whatever is not listed here becomes a `Refused`, whether it is named, called or made an object of.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from bridge.errors import FormatError
from bridge.files.refused import Refused, Unread
from bridge.files.tensors import BFLOAT16, DTYPES
from bridge.files.torch_views import LONGEST_KEY, Storage, View, is_shape, view_of

STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype(np.float32),
    "BFloat16Storage": BFLOAT16,
    "HalfStorage": np.dtype(np.float16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
"""torch's classes of storages, by name, and what they hold."""

_BYTES_STORAGE = "torch.storage.UntypedStorage"
"""A storage of bytes, of tensors whose type is stated with each."""

_TENSOR = "torch._utils._rebuild_tensor_v2"
_TENSOR_OF_TYPE = "torch._utils._rebuild_tensor_v3"
_TENSOR_WITH_STATE = "torch._tensor._rebuild_from_type_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_PARAMETER_WITH_STATE = "torch._utils._rebuild_parameter_with_state"
_TENSOR_CLASSES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_NUMPY_SCALARS = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_NUMPY_ARRAYS = {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "numeric._frombuffer")
}
_OBJECTS = {f"{module}._reconstructor" for module in ("copyreg", "copy_reg")}
"""What makes an object of a class in older pickles."""

_KNOWN = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "numpy.dtype",
    "_codecs.encode",
    _BYTES_STORAGE,
    _TENSOR,
    _TENSOR_OF_TYPE,
    _TENSOR_WITH_STATE,
    _PARAMETER,
    _PARAMETER_WITH_STATE,
    *_TENSOR_CLASSES,
    *_NUMPY_SCALARS,
    *(f"torch.{storage}" for storage in STORAGES),
}
"""Names that a pickle may use, by what `called` does in their place."""

_TORCH_TYPE = re.compile(r"torch\.(bool|(bfloat|float|complex|u?int|qu?int|bits)\d+\w{,20})")
"""Names of types of values; as data they are text."""

_NUMPY_SCALAR = re.compile(r"b1|[iu][1248]|f[248]|U\d{1,3}")
"""Codes of numpy's scalars that are read, as numbers and texts."""

_NUMPY_KINDS = {
    "f": "numpy.floating",
    "c": "numpy.complexfloating",
    "U": "numpy.str_",
    "M": "numpy.datetime64",
    "m": "numpy.timedelta64",
}
"""Other scalars of numpy's, by how their codes begin."""

_MOST_BYTES = 256
"""Of a scalar of numpy's; a text has four bytes for a character."""


@dataclasses.dataclass(frozen=True)
class Global(Unread):
    """A known name, which is of use only where it is called."""

    name: str


@dataclasses.dataclass(eq=False, slots=True)
class _Bytes(Refused):
    """A few bytes, of which a scalar may be made."""

    data: bytes


@dataclasses.dataclass(eq=False, slots=True)
class NumpyType(Refused):
    """A type of numpy's: its code, such as "f8", and its byte order."""

    code: str
    order: str = "<"


def named(name: str) -> Any:
    """What stands for a name that a pickle mentions."""
    if name in _KNOWN:
        return Global(name)
    if _TORCH_TYPE.fullmatch(name):
        return name
    start, found, kind = name.partition("torch._utils._rebuild_")
    if found and not start:
        return Refused("tensor", kind)
    return Refused("name", name)


def of_bytes(data: bytes) -> Refused:
    """What stands for bytes: they are kept only where they may be a scalar's."""
    if len(data) > _MOST_BYTES:
        return Refused("object", "builtins.bytes")
    return _Bytes("object", "builtins.bytes", bytes(data))


def made(cls: Any, arguments: Any) -> Refused:
    """What stands for an object of a class, from what is given to make it."""
    if not isinstance(cls, Refused | Global):
        raise ValueError("not a class")
    return Refused("sequence" if arguments else "object", cls.name)


def storage_of(identifier: Any) -> Storage | Refused:
    """The storage that a persistent identifier names.

    Raises:
        ValueError, TypeError: it names none.
    """
    kind, storage_type, key, _, size = identifier
    usable = type(key) is str and len(key) <= LONGEST_KEY and type(size) is int and size >= 0
    if kind != "storage" or not usable or not isinstance(storage_type, Refused | Global):
        raise ValueError("not the identifier of a storage")
    if isinstance(storage_type, Refused):
        return Refused("tensor", storage_type.name)
    if storage_type.name == _BYTES_STORAGE:
        return Storage(key, np.dtype(np.uint8), size)
    return Storage(key, STORAGES[storage_type.name.removeprefix("torch.")], size)


def called(function: Any, arguments: Any, tensor: Callable[[View], Any], most: int) -> Any:
    """What stands for the result of a call.

    Args:
        function: what `named` made of its name.
        arguments: a tuple, if the pickle is sound.
        tensor: makes what stands for a tensor of its place.
        most: see `view_of`.

    Raises:
        ValueError, TypeError: no pickle of torch's has such a call.
    """
    if isinstance(function, Refused):
        return _of_refused(function, arguments)
    if not isinstance(function, Global):
        raise ValueError("not a function")
    match function.name, arguments:
        case "collections.OrderedDict", ():
            return {}
        # Nothing of any length is copied: a pickle could ask for it again and again.
        case "torch.Size", (tuple() | list() as shape,) if is_shape(shape):
            return tuple(shape)
        case "torch.device", (str() as kind,) if len(kind) <= LONGEST_KEY:
            return kind
        case "torch.device", (str() as kind, int() as index) if len(kind) <= LONGEST_KEY:
            return f"{kind}:{index}"
        case name, _ if name in (_TENSOR, _TENSOR_OF_TYPE):
            try:
                return _tensor(name, arguments, tensor, most)
            except FormatError as error:
                return Refused("value", error.message)
        case "torch._utils._rebuild_parameter", (value, bool(), {}):
            return value
        case "torch._utils._rebuild_parameter_with_state", (value, bool(), {}, _):
            return value
        case "torch._tensor._rebuild_from_type_v2", (Global() as inner, cls, tuple() as inside, _):
            if inner.name not in (_TENSOR, _TENSOR_OF_TYPE, _PARAMETER):
                raise ValueError("not a tensor")
            if isinstance(cls, Refused):
                return Refused("subclass", cls.name)
            return called(inner, inside, tensor, most)
        case "torch._tensor._rebuild_from_type_v2", (Refused() as inner, _, _, _):
            return _of_refused(inner, ())
        case "numpy.dtype", (str() as code, *_) if len(code) <= LONGEST_KEY:
            return NumpyType("object", "numpy.dtype", code)
        case "_codecs.encode", (str() as text, "latin1"):
            if len(text) > _MOST_BYTES:
                return Refused("object", "builtins.bytes")
            return of_bytes(text.encode("latin1"))
        case name, (NumpyType() as kind, Refused() as data) if name in _NUMPY_SCALARS:
            return _scalar(kind, data)
        case name, _ if name in _NUMPY_SCALARS:
            return Refused("object", "numpy.generic")
        # What was not foreseen is no damage.
        case "numpy.dtype", _:
            return NumpyType("object", "numpy.dtype", "")
        case "_codecs.encode", _:
            return Refused("object", "builtins.bytes")
        case "collections.OrderedDict", _:
            return Refused("mapping", "collections.OrderedDict")
    raise ValueError("no such call")


def _tensor(name: str, arguments: Any, tensor: Callable[[View], Any], most: int) -> Any:
    storage, offset, shape, strides, _, _, *rest = arguments
    if isinstance(storage, Refused):
        return storage
    if not isinstance(storage, Storage):
        raise ValueError("not a storage")
    if name == _TENSOR_OF_TYPE:
        stated, *rest = rest
        dtype = DTYPES.get(str(stated).removeprefix("torch."))
        if dtype is None:
            return Refused("tensor", str(stated).removeprefix("torch."))
        storage = Storage(storage.key, dtype, storage.size // dtype.itemsize)
    if rest and isinstance(rest[0], dict) and rest[0].get("neg"):
        return Refused("tensor", "negated")
    return tensor(view_of(storage, offset, shape, strides, most))


def _scalar(kind: NumpyType, data: Refused) -> Any:
    dtype = np.dtype(f"{kind.order}{kind.code}") if _NUMPY_SCALAR.fullmatch(kind.code) else None
    if dtype is None or not isinstance(data, _Bytes) or len(data.data) != dtype.itemsize:
        return Refused("object", _NUMPY_KINDS.get(kind.code[:1], "numpy.generic"))
    return np.frombuffer(data.data, dtype)[0].item()


def _of_refused(function: Refused, arguments: Any) -> Refused:
    if function.kind == "tensor":
        return function
    if function.name in _NUMPY_ARRAYS:
        return Refused("object", "numpy.ndarray")
    if function.name in _OBJECTS and arguments and isinstance(arguments[0], Refused):
        return Refused("object", arguments[0].name)
    match arguments:
        case (int() | float() | str(),):
            return Refused("call", function.name)
    return Refused("object", function.name)
