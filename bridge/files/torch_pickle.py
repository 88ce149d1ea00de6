"""Reads and writes the pickle in a .pt file, without ever calling what a pickle can name.

`decode` is an interpreter of the opcodes that torch.save writes. It knows a fixed list of names;
whatever else a pickle asks for, even to import it, is a `Refused` in its place. It takes time and
memory in proportion to the pickle. `encode` writes what torch.save writes, so that torch.load reads
it with weights_only=True.
"""

import collections
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

from bridge.errors import BridgeError, FormatError, UnreadableFileError, UnsafeFileError
from bridge.files.pickled_names import (
    STORAGES,
    NumpyType,
    called,
    made,
    named,
    of_bytes,
    storage_of,
)
from bridge.files.plain_data import MOST_PARTS, Keys
from bridge.files.refused import Refused
from bridge.files.tensors import Tensor
from bridge.files.torch_views import Storage, View, contiguous_strides

_OF_STATEFUL = {"_modules", "param_groups", "base_lrs"}
"""Attributes of modules, optimizers and schedules."""

_MOST_BITS = 2**11
"""Of a number; a longer one takes time in proportion to its square to show."""


def decode(data: bytes, tensor: Callable[[View], Any], most: int) -> tuple[Any, list[Refused]]:
    """What a pickle of plain data and tensors holds.

    Args:
        data: the pickle.
        tensor: makes what stands for a tensor from its place; called once for each that the pickle
            describes. The place is checked: it lies within the storage.
        most: bytes of a tensor that has more values than its storage.

    Returns:
        The content, in which a Refused stands for everything else, and the first name that was
        refused, wherever it led to, if one was.

    Raises:
        UnsafeFileError: it has opcodes that torch.save never writes.
        FormatError: a dictionary's key is impossible or comes twice, or there is too much of
            everything.
        UnreadableFileError: it is damaged or no pickle.
    """
    machine = _Machine(tensor, most)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == MOST_PARTS:
                raise FormatError(f"its pickle has more than {MOST_PARTS} parts")
            machine.step(opcode.name, argument)
    except BridgeError:
        raise
    except Exception as error:
        # A damaged pickle makes genops and the machine raise nearly anything.
        if machine.refused:
            raise machine.refused[0].error("") from None
        raise UnreadableFileError(
            f"not a checkpoint that torch.save wrote, or a damaged one ({type(error).__name__})"
        ) from None
    return machine.result, machine.refused


class _Machine:
    """The stack and memo of pickle's machine; a mark puts the stack aside and starts a new one."""

    def __init__(self, tensor: Callable[[View], Any], most: int) -> None:
        self.result: Any = None
        self.refused: list[Refused] = []
        self._tensor = tensor
        self._most = most
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
            case "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
                push(argument)
            case "LONG1" | "LONG4":
                short = argument.bit_length() <= _MOST_BITS
                push(argument if short else Refused("value", "holds a number of too many digits"))
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                push(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                push(of_bytes(argument))
            case "BYTEARRAY8":
                push(Refused("object", "builtins.bytearray"))
            case "EMPTY_SET":
                push(Refused("object", "builtins.set"))
            case "FROZENSET":
                self._marked()
                self._stack.append(Refused("object", "builtins.frozenset"))
            case "POP":
                pop()
            case "POP_MARK":
                self._marked()
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
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = [pop()] if name == "APPEND" else self._marked()
                if type(self._stack[-1]) is list:
                    self._stack[-1].extend(items)
                elif isinstance(self._stack[-1], Refused):
                    self._stack[-1].becomes("list")
                else:
                    self._fail()
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
                push(self._named(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                attribute, module = pop(), pop()
                if not (type(attribute) is str and type(module) is str):
                    self._fail()
                push(self._named(f"{module}.{attribute}"))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(called(function, arguments, self._tensor, self._most))
            case "NEWOBJ" | "NEWOBJ_EX":
                if name == "NEWOBJ_EX":
                    pop()
                arguments, cls = pop(), pop()
                push(made(cls, arguments))
            case "BUILD":
                self._build(pop(), self._stack[-1])
            case "BINPERSID":
                push(storage_of(pop()))
            case _ if self.refused:
                raise self.refused[0].error("")
            case _:
                raise UnsafeFileError(
                    f"its pickle uses the opcode {name}, which no checkpoint needs; "
                    "nothing was executed"
                )

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._aside.pop()
        return items

    def _named(self, name: str) -> Any:
        found = named(name)
        if isinstance(found, Refused) and not self.refused:
            self.refused.append(found)
        return found

    def _build(self, state: Any, target: Any) -> None:
        """Sets what is no part of a value: of a state dict, the versions of its modules."""
        if isinstance(target, NumpyType):
            order = state[1] if type(state) is tuple and len(state) > 1 else None
            target.order = ">" if order == ">" else "<"
        elif isinstance(target, Refused):
            if type(state) is dict and _OF_STATEFUL & state.keys():
                target.becomes("stateful")
        elif not type(state) is type(target) is dict:
            self._fail()

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Refused):
            target.becomes("mapping")
            return
        if type(target) is not dict or len(items) % 2:
            self._fail()
        for key, value in zip(items[::2], items[1::2], strict=True):
            try:
                name = self._keys.checked(key)
            except FormatError as error:
                name = Refused("value", error.message)
            if name in target:
                raise FormatError(f"has the key {key!r:.80} twice in one dictionary")
            target[name] = value

    def _fail(self) -> Any:
        raise ValueError("an opcode does not fit what is on the stack")


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
        name = next(name for name, dtype in STORAGES.items() if dtype == value.dtype)
        return ("storage", getattr(self._torch, name), value.key, "cpu", value.size)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        key = self._keys.setdefault(id(value), str(len(self._keys)))
        self.records[key] = value
        place = (
            Storage(key, value.dtype, value.size),
            0,
            value.shape,
            contiguous_strides(value.shape),
        )
        rebuild = self._torch._utils._rebuild_tensor_v2
        return rebuild, (*place, False, collections.OrderedDict())
