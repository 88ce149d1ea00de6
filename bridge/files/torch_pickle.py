"""Reads and writes the pickle in a .pt file, without ever calling what a pickle can name.

`decode` is an interpreter for the few opcodes that plain data and tensors need. It knows a fixed
list of names. Anything else that a pickle asks for is an error, even just to import it. Time and
memory are in proportion to the pickle. `encode` writes what torch.save writes, so that torch.load
reads it with weights_only=True.
"""

import collections
import dataclasses
import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bridge.errors import BridgeError, FormatError, UnreadableFileError, UnsafeFileError
from bridge.files.plain_data import MOST_PARTS, Keys, safe_name
from bridge.files.tensors import BFLOAT16, Tensor

_STORAGES: dict[str, np.dtype[Any]] = {
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
}
"""torch's storage classes by name, and the dtypes of their values."""

_MOST_DIMENSIONS = 8

_LONGEST_KEY = 100
"""Characters in the key of a storage; torch uses numbers as keys."""

_LARGEST = 2**48
"""The largest size or stride of a tensor, so that numpy can compute with them in 64 bits."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """Consecutive values that tensors are views of.

    Attributes:
        key: the record in the archive that has them.
        dtype: the dtype of the values.
        size: the number of values.
    """

    key: str
    dtype: np.dtype[Any]
    size: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor's place in its storage; offset and strides are in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


_INERT = {
    *(f"torch.{storage}" for storage in _STORAGES),
    *(f"torch.{dtype}" for dtype in ("bfloat16", "bool", "uint8")),
    *(f"torch.float{bits}" for bits in (16, 32, 64)),
    *(f"torch.int{bits}" for bits in (8, 16, 32, 64)),
}
"""Names that a pickle may mention."""


def decode(data: bytes, tensor: Callable[[View], Any]) -> Any:
    """The content of a pickle of plain data and tensors.

    Args:
        data: the pickle.
        tensor: makes the result for a tensor from its place; called once for each tensor in the
            pickle. The place has been checked: it lies within the storage, and has no more values
            than the storage.

    Raises:
        UnsafeFileError: it asks for anything that is not plain data or a tensor.
        FormatError: a tensor or a dictionary's key is impossible or occurs twice, or there is too
            much of everything.
        UnreadableFileError: it is damaged or not a pickle.
    """
    machine = _Machine(tensor)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == MOST_PARTS:
                raise FormatError(f"its pickle has more than {MOST_PARTS} parts")
            machine.step(opcode.name, argument)
    except BridgeError:
        raise
    except Exception as error:
        # With a damaged pickle, genops and the machine can raise nearly any exception.
        raise UnreadableFileError(
            f"not a checkpoint that torch.save wrote, or a damaged one ({type(error).__name__})"
        ) from None
    return machine.result


class _Machine:
    """The stack and memo of pickle's machine; a mark puts the stack aside and starts a new one."""

    def __init__(self, tensor: Callable[[View], Any]) -> None:
        self.result: Any = None
        self._tensor = tensor
        self._stack: list[Any] = []
        self._aside: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._keys = Keys()

    def step(self, name: str, argument: Any) -> None:
        """Executes one opcode."""
        push, pop = self._stack.append, self._stack.pop
        match name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                self.result = pop()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                push(argument)
            case "MARK":
                self._aside.append(self._stack)
                self._stack = []
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE":
                items = self._marked()
                self._stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [pop() for _ in range(int(name[-1]))]
                push(tuple(reversed(items)))
            case "APPEND" | "APPENDS":
                items = [pop()] if name == "APPEND" else self._marked()
                self._stack[-1].extend(items) if type(self._stack[-1]) is list else self._fail()
            case "SETITEM" | "SETITEMS":
                items = [pop(-2), pop()] if name == "SETITEM" else self._marked()
                self._set(items)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(self._global(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                attribute, module = pop(), pop()
                if not (type(attribute) is str and type(module) is str):
                    self._fail()
                push(self._global(f"{module}.{attribute}"))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(self._call(function, arguments))
            case "BUILD":
                # torch notes the modules' versions as an attribute of a state dict.
                if not (type(pop()) is dict and type(self._stack[-1]) is dict):
                    self._fail()
            case "BINPERSID":
                push(_storage(pop()))
            case _:
                raise UnsafeFileError(
                    f"its pickle uses the opcode {name}, which no checkpoint needs; "
                    "nothing was executed"
                )

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._aside.pop()
        return items

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            self._fail()
        for key, value in zip(items[::2], items[1::2], strict=True):
            if self._keys.checked(key) in target:
                raise FormatError(f"has the key {key!r:.80} twice in one dictionary")
            target[key] = value

    def _global(self, name: str) -> Any:
        if name in _CALLABLE:
            return _Global(name)
        if name in _INERT:
            return _Global(name) if name.endswith("Storage") else name
        if name.startswith("torch._utils._rebuild_"):
            kind = safe_name(name.split("_rebuild_")[1])
            raise FormatError(f"holds a tensor that is not dense ({kind})")
        raise UnsafeFileError(
            f"holds a pickled {safe_name(name)}, and only tensors, containers, numbers and strings "
            "are read; nothing was executed"
        )

    def _call(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, _Global) else None
        match name, arguments:
            case "collections.OrderedDict", ():
                return {}
            # Nothing long is copied, because a pickle could ask for it again and again.
            case "torch.Size", (tuple() | list() as shape,) if len(shape) <= _MOST_DIMENSIONS:
                return tuple(shape)
            case "torch.device", (str() as kind,) if len(kind) <= _LONGEST_KEY:
                return kind
            case "torch.device", (str() as kind, int() as index) if len(kind) <= _LONGEST_KEY:
                return f"{kind}:{index}"
            case "torch._utils._rebuild_tensor_v2", (
                Storage() as storage,
                offset,
                shape,
                strides,
                *_,
            ):
                return self._tensor(_view(storage, offset, shape, strides))
            case "torch._utils._rebuild_parameter", (tensor, bool(), {}):
                return tensor
        return self._fail()

    def _fail(self) -> Any:
        raise ValueError("an opcode does not fit what is on the stack")


_CALLABLE = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}
"""Names that a pickle may call, and what `_Machine._call` does instead."""


def _storage(identifier: Any) -> Storage:
    kind, storage_type, key, _, size = identifier
    name = storage_type.name.removeprefix("torch.")
    usable = type(key) is str and len(key) <= _LONGEST_KEY and type(size) is int and size >= 0
    if kind != "storage" or not usable:
        raise ValueError("not the identifier of a storage")
    return Storage(key, _STORAGES[name], size)


def _view(storage: Storage, offset: Any, shape: Any, strides: Any) -> View:
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
    # A few bytes on disk can claim any number of values through a stride of 0.
    if size > storage.size or (size and reach >= storage.size):
        raise FormatError(
            f"holds a tensor {list(shape)} that claims more values than the {storage.size} stored"
        )
    return View(storage, offset, shape, strides)


def encode(content: Any) -> tuple[bytes, dict[str, Tensor]]:
    """The pickle of plain data and tensors as torch.save writes it, and the tensors by record.

    A Tensor that occurs more than once is one record.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(content)
    return buffer.getvalue(), pickler.records


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        import torch  # takes a second, so only commands that write a file import it

        super().__init__(file, protocol=2)
        self._torch = torch
        self.records: dict[str, Tensor] = {}
        self._keys: dict[int, str] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        name = next(name for name, dtype in _STORAGES.items() if dtype == value.dtype)
        return ("storage", getattr(self._torch, name), value.key, "cpu", value.size)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        key = self._keys.setdefault(id(value), str(len(self._keys)))
        self.records[key] = value
        place = (Storage(key, value.dtype, value.size), 0, value.shape, _strides(value.shape))
        rebuild = self._torch._utils._rebuild_tensor_v2
        return rebuild, (*place, False, collections.OrderedDict())


def _strides(shape: Iterable[int]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for length in reversed(tuple(shape)):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))
