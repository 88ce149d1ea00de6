"""What stands in a file's content for what is not read: it does nothing, and says what to do.

A checkpoint's metadata may hold any Python object. None is ever made of what a file says, nor is
anything imported for it; in its place comes a `Refused`, which matters only where it is needed.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

from bridge.errors import BridgeError, FormatError, UnsafeFileError, listed
from bridge.files.tensors import Tensor

_MOST_OTHERS = 160
"""Characters that a message has for other objects than the first."""

_REMEDIES = {
    "argparse.Namespace": "vars(args)",
    "types.SimpleNamespace": "vars(x)",
    "collections.defaultdict": "dict(x)",
    "collections.Counter": "dict(x)",
    "types.MappingProxyType": "dict(x)",
    "collections.deque": "list(x)",
    "builtins.range": "list(x)",
    "builtins.xrange": "list(x)",
    "builtins.set": "sorted(x)",
    "builtins.frozenset": "sorted(x)",
    "builtins.bytes": "list(x)",
    "builtins.bytearray": "list(x)",
    "builtins.complex": "[x.real, x.imag]",
    "builtins.Ellipsis": "str(x)",
    "datetime.date": "x.isoformat()",
    "datetime.time": "x.isoformat()",
    "datetime.datetime": "x.isoformat()",
    "datetime.timedelta": "x.total_seconds()",
    "decimal.Decimal": "float(x)",
    "fractions.Fraction": "float(x)",
    "numpy.floating": "float(x)",
    "numpy.generic": "x.item()",
    "numpy.complexfloating": "[x.real, x.imag]",
    "numpy.ndarray": "x.tolist()",
    "torch._C.Generator": "x.get_state()",
}
_REMEDIES_OF_MODULES = {
    "pathlib.": "str(path)",
    "datetime.": "str(x)",
    "uuid.": "str(x)",
    "numpy.random.": "x.bit_generator.state",
    "jax.": "x.tolist()",
    "omegaconf.": "OmegaConf.to_container(x)",
    "torch.nn.": "x.state_dict()",
    "torch.optim.": "x.state_dict()",
    "torch.": "str(x)",
    "numpy.": "str(x)",
    "builtins.": "str(x)",
    "exceptions.": "str(x)",
}
_REMEDIES_OF_USES = {
    "name": "x.__name__",
    "call": "x.value (of an enum)",
    "sequence": "tuple(x)",
    "object": "vars(x)",
    "mapping": "dict(x)",
    "list": "list(x)",
    "stateful": "x.state_dict()",
    "subclass": "x.as_subclass(torch.Tensor)",
}
"""What to save instead of an object, by its class, its module, and how the pickle comes by it."""

_TENSORS = {
    "sparse_tensor": ("sparse tensors", "convert them with .to_dense()"),
    "sparse_csr_tensor": ("sparse tensors", "convert them with .to_dense()"),
    "qtensor": ("quantized tensors", "convert them with .dequantize()"),
    "nested_tensor": ("nested tensors", "save each of their parts"),
    "meta_tensor_no_storage": ("tensors on the meta device", "give them values before saving"),
    "wrapper_subclass": ("tensors of a special class", "convert them with .full_tensor()"),
    "device_tensor_from_numpy": ("tensors of a special device", "convert them with .cpu()"),
    "device_tensor_from_cpu_tensor": ("tensors of a special device", "convert them with .cpu()"),
    "negated": ("negated views", "convert them with .clone()"),
}
"""Tensors that no model of ours has, by the name of what restores them: what they are, and how to
make usual ones of them."""

Kind = Literal[
    "name",
    "call",
    "sequence",
    "object",
    "mapping",
    "list",
    "stateful",
    "subclass",
    "tensor",
    "value",
]


class Unread:
    """What is no value of a checkpoint's: whoever reads a file's content must not look into it."""

    __slots__ = ()


@dataclasses.dataclass(eq=False, slots=True)
class Refused(Unread):
    """What stands for something that is not read.

    Attributes:
        kind: of what was pickled, a "name" is all that the file says of it, a "call" is with one
            plain value, a "sequence" is made of some, a "mapping" and a "list" get items, what is
            "stateful" is a module or an optimizer, a "subclass" is a tensor's own class, and an
            "object" is anything else; a "tensor" is of a type that no model has, and a "value" is
            plain but impossible.
        name: of its class or function, of the tensor's type, or what is wrong with the value.
    """

    kind: Kind
    name: str

    def __repr__(self) -> str:
        return self.what

    @property
    def what(self) -> str:
        """It, in words."""
        if self.kind == "value":
            return self.name
        if self.kind == "tensor":
            return self._tensors()[0]
        return f"a pickled {self.shown}"

    @property
    def shown(self) -> str:
        """Its name, printable and not too long."""
        name = self.name.replace("__builtin__.", "builtins.", 1)
        return repr(name[:80])[1:-1][:80]

    @property
    def remedy(self) -> str:
        """What to save in its place."""
        if self.kind == "tensor":
            return self._tensors()[1]
        name = self.shown
        if name in _REMEDIES:
            return _REMEDIES[name]
        of_modules = [] if self.kind == "name" else _REMEDIES_OF_MODULES
        module = next((module for module in of_modules if name.startswith(module)), "")
        return _REMEDIES_OF_MODULES.get(module) or _REMEDIES_OF_USES[self.kind]

    @property
    def is_object(self) -> bool:
        """Whether it is a pickled object."""
        return self.kind not in ("tensor", "value")

    @property
    def briefly(self) -> str:
        """What to do about it, or what it is, in a few words."""
        return f"{self.remedy} for {self.shown}" if self.is_object else self.what

    def becomes(self, kind: Kind) -> None:
        """Notes what the file says further of an object."""
        if self.kind in ("object", "sequence"):
            self.kind = kind

    def error(self, place: str, others: str = "", *, hint: bool = False) -> BridgeError:
        """Why a file that needs it is not read.

        Args:
            place: where in the file it is, "" if unknown.
            others: what else there is, each with its place and remedy.
            hint: whether to say that the weights can be read without it.
        """
        where = place and f" ({place})"
        alone = "; --model-only (model_only=True) reads the weights alone" if hint else ""
        if self.kind == "value":
            return FormatError(f"{self.name}{where}{alone}")
        if self.kind == "tensor":
            return FormatError(
                f"holds {self.what}{where}, which MM-Rec's models do not have: {self.remedy}{alone}"
            )
        also = others and f", {others}"
        advice = place and f": save {self.remedy} instead{where}{also}{alone}"
        return UnsafeFileError(
            f"holds a pickled {self.shown}, and only tensors, containers, numbers and strings are "
            f"read; nothing was executed{advice}"
        )

    def _tensors(self) -> tuple[str, str]:
        how = ".real.float()" if self.name.lower().startswith("complex") else ".float()"
        default = (f"{self.shown} tensors", f"convert them with {how}")
        return _TENSORS.get(self.name, default)


Needed = Callable[[Any], Collection[Any] | None]
"""The keys of a file's content, a dictionary, whose items must be readable; None is all of it."""


def all_of_it(content: Any) -> None:
    """Needs everything that a file holds."""


def refuse(content: Any, named: Sequence[Refused], needed: Collection[Any] | None = None) -> None:
    """Makes sure that nothing that is needed of a file's content is refused.

    Args:
        content: plain data, Tensors and what stands for other things, within the usual limits.
        named: the first that the file mentions, whether it is in its content or not, if any.
        needed: the keys of the content, a dictionary, whose items are needed; None is all of it.

    Raises:
        FormatError: it has tensors that no model has.
        UnsafeFileError: it holds pickled objects; the message names the first, and how to save
            them.
    """
    found: dict[str, tuple[str, Refused]] = {}
    part = content
    if needed is not None and isinstance(content, dict):
        part = {key: item for key, item in content.items() if key in needed}
    for place, refused in _within(part):
        found.setdefault(refused.what, (place or "the whole file", refused))
    if part and not found and named and not any(_within(content)):
        raise named[0].error("")
    if found:
        (place, first), *rest = found.values()
        others = listed([f"{item.briefly} ({where})" for where, item in rest], _MOST_OTHERS)
        raise first.error(place, others, hint=_is_beside_weights(content, place))


def _is_beside_weights(content: Any, place: str) -> bool:
    """Whether a file has weights, and a place in it is not among them."""
    weights = [
        _place([key])
        for key, item in (content.items() if isinstance(content, dict) else ())
        if isinstance(item, dict) and any(isinstance(value, Tensor) for value in item.values())
    ]
    return bool(weights) and place.split("[")[0] not in weights


def _within(
    value: Any, keys: tuple[Any, ...] = (), known: set[int] | None = None
) -> Iterator[tuple[str, Refused]]:
    """What is refused in a file's content, each with its place, what is shared only once."""
    known = set() if known is None else known
    if isinstance(value, Refused):
        yield _place(keys), value
    if not isinstance(value, dict | list | tuple) or not value or id(value) in known:
        return
    known.add(id(value))
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, Refused):
            yield f"a key of {_place(keys) or 'the whole'}", key
        if isinstance(item, Refused | dict | list | tuple):
            yield from _within(item, (*keys, key), known)


def _place(keys: Sequence[Any]) -> str:
    """The place of an item: metadata['args'], and at the top just args."""
    shown = [
        repr("..." if isinstance(key, Refused) else key[:80] if isinstance(key, str) else key)
        for key in keys
    ]
    inner = "".join(f"[{key}]" for key in shown[1:])
    return f"{''.join(shown[:1])[:60].strip(chr(39))}{inner}"[:100]
