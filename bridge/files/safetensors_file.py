"""The .safetensors file: a JSON header and the values of its tensors.

The format is Hugging Face's, read and written tensor by tensor. What a checkpoint has besides
tensors is JSON in the header. The SHA-256 of every tensor and of the header are there too, because
the format itself would not notice a flipped bit. Files of other programs have neither, and are bare
state dicts.
"""

import contextlib
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from bridge.errors import FormatError, UnreadableFileError, unwritable
from bridge.files import disk
from bridge.files.disk import PathLike
from bridge.files.plain_data import (
    check_extent,
    from_json,
    is_short,
    parsed,
    safe_name,
    to_json,
    unique,
)
from bridge.files.refused import Needed, Refused, all_of_it, refuse
from bridge.files.tensors import BFLOAT16, DTYPES, Array, Tensor, computed_ahead

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "BF16": BFLOAT16,
    "F16": np.dtype(np.float16),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "U16": DTYPES["uint16"],
    "U32": DTYPES["uint32"],
    "U64": DTYPES["uint64"],
    "C64": DTYPES["complex64"],
    "F8_E4M3": DTYPES["float8_e4m3fn"],
    "F8_E4M3FNUZ": DTYPES["float8_e4m3fnuz"],
    "F8_E5M2": DTYPES["float8_e5m2"],
    "F8_E5M2FNUZ": DTYPES["float8_e5m2fnuz"],
    "F8_E8M0": DTYPES["float8_e8m0fnu"],
}

_BITS = {
    "F4": ("float4_e2m1fn_x2", 4),
    "F6_E2M3": ("float6_e2m3", 6),
    "F6_E3M2": ("float6_e3m2", 6),
}
"""Types of less than a byte: torch's names, and the bits of a value."""

_LARGEST_HEADER = 2**25
"""In bytes; a model of 100 million parameters needs a hundredth of this."""

_MOST_DIMENSIONS = 8

_CONTENT = "checkpoint"
_DIGESTS = "sha256"


@contextlib.contextmanager
def reading(path: PathLike, needed: Needed = all_of_it) -> Iterator[Any]:
    """The content of a file, its tensors as Tensor, which can be read until the block ends.

    When the block ends, every tensor of a file that we wrote has been checked with its SHA-256.

    Args:
        path: the file.
        needed: what must be readable; the rest has a Refused in the place of what is not read.

    Returns:
        What was passed to `write`. For a file of another program, its tensors by name.

    Raises:
        UnreadableFileError: the file is missing, a folder, empty, truncated, damaged or of another
            kind.
        FormatError: its header describes tensors that are impossible.
    """
    with disk.opened(path) as file:
        header, start = _read_header(file)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise FormatError("its header's __metadata__ is not made of strings")
        # Other programs have such keys too, but no JSON there.
        ours = any(metadata.get(key, "").startswith("{") for key in (_CONTENT, _DIGESTS))
        digests = _digests(metadata) if ours else {}
        tensors, refused = _tensors(file, header, start, digests)
        if ours:
            text = metadata.get(_CONTENT, "")
            if digests.keys() != {_CONTENT, *tensors} or digests[_CONTENT] != _seal(text, tensors):
                raise UnreadableFileError("damaged: the SHA-256 of its header has changed")
            content = from_json(text, tensors)
        else:
            # As the format's library notes tied tensors: a name, and the name that is stored.
            content = (
                tensors
                | refused
                | {
                    name: tensors[stored]
                    for name, stored in metadata.items()
                    if name not in tensors and stored in tensors
                }
            )
        check_extent(content, disk.size(file))
        refuse(content, [], needed(content))
        yield content
        for name in list(digests.keys() & tensors.keys()):  # the tensors that nobody has read yet
            tensors[name].read()


def write(path: PathLike, content: Mapping[str, Any]) -> None:
    """Saves a checkpoint; if that fails, the path still has the old file.

    The model's tensors have their own names. All others are named by their path in the checkpoint.

    Args:
        path: the file to write.
        content: plain data and Tensors, the model's in "model_state_dict".

    Raises:
        UnwritableFileError: the folder does not exist, is not writable or full.
        FormatError: there is too much besides the tensors.
    """
    names: dict[int, str] = {}
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in _named(content):
        if id(tensor) in names:
            tied[name] = names[id(tensor)]
        else:
            names[id(tensor)] = name
            stored[name] = tensor
    # The widest types first, so that all values are aligned.
    order = sorted(stored, key=lambda name: -stored[name].dtype.itemsize)
    text = to_json(content, lambda tensor: names[id(tensor)])
    # Placeholders of the same length: the digests replace them when the tensors are written.
    digests = {_CONTENT: _seal(text, stored)} | dict.fromkeys(order, "0" * 64)
    metadata = {"format": "pt", _CONTENT: text, **tied}
    header = _header(stored, order, metadata, digests)
    if len(header) > _LARGEST_HEADER or not is_short(header.decode("latin-1")):
        raise FormatError("too much metadata for a .safetensors file")
    with unwritable(), disk.replacing_file(path) as file:
        file.write(header)
        all_values = computed_ahead(stored[name].read for name in order)
        for name, values in zip(order, all_values, strict=True):
            data = values.reshape(-1).view(np.uint8).data
            digests[name] = hashlib.sha256(data).hexdigest()
            file.write(data)
        file.seek(0)
        file.write(_header(stored, order, metadata, digests))


def _named(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield ".".join(path[1:] if path[0] == "model_state_dict" else path), content
    elif isinstance(content, Mapping):
        for key, item in content.items():
            yield from _named(item, (*path, str(key)))
    elif isinstance(content, list | tuple):
        for index, item in enumerate(content):
            yield from _named(item, (*path, str(index)))


def _header(
    tensors: Mapping[str, Tensor],
    order: list[str],
    metadata: dict[str, str],
    digests: dict[str, str],
) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata | {_DIGESTS: json.dumps(digests)}}
    dtypes = {dtype: name for name, dtype in _DTYPES.items()}
    position = 0
    for name in order:
        tensor = tensors[name]
        end = position + tensor.nbytes
        header[name] = {
            "dtype": dtypes[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and the position where the values start."""
    size = disk.size(file)
    length = int.from_bytes(disk.read(file, 0, 8), "little") if size >= 8 else size
    if length > size - 8:
        raise UnreadableFileError("not a .safetensors file, or a truncated one")
    if length > _LARGEST_HEADER:
        raise FormatError(f"its header is larger than {_LARGEST_HEADER} bytes")
    try:
        header = parsed(bytes(disk.read(file, 8, length)).decode(), unique)
    except ValueError:
        raise UnreadableFileError("not a .safetensors file, or a damaged one") from None
    if not isinstance(header, dict):
        raise UnreadableFileError("not a .safetensors file: its header is no dictionary")
    return header, 8 + length


def _digests(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        digests = parsed(metadata.get(_DIGESTS, ""), unique)
    except ValueError:
        digests = None
    if not isinstance(digests, dict):
        raise UnreadableFileError("damaged: its header has no usable SHA-256 of the tensors")
    return digests


def _tensors(
    file: BinaryIO, header: dict[str, Any], start: int, digests: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Refused]]:
    """The tensors, after a check that they follow each other up to the end of the file.

    Those of types that numpy lacks are apart.
    """
    size = disk.size(file) - start
    tensors = {}
    refused = {}
    places = []
    for name, entry in header.items():
        try:
            kind, shape = entry["dtype"], tuple(entry["shape"])
            if isinstance(kind, str) and kind not in _DTYPES | _BITS:
                raise Refused("tensor", kind).error(safe_name(name))
            dtype = None if kind in _BITS else _DTYPES[kind]
            bits = _BITS[kind][1] if dtype is None else 8 * dtype.itemsize
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise FormatError(f"the tensor '{safe_name(name)}' is described impossibly") from None
        if not (
            len(shape) <= _MOST_DIMENSIONS
            and all(type(n) is int and 0 <= n <= size for n in (begin, end, *shape))
            # Nothing may be longer than the file, not even a tensor without values.
            and math.prod(length or 1 for length in shape) * min(bits, 8) <= 8 * size
            and 8 * (end - begin) == math.prod(shape) * bits
        ):
            raise FormatError(
                f"the tensor '{safe_name(name)}' is described impossibly, or the file is truncated"
            )
        places.append((begin, end))
        if dtype is None:
            refused[name] = Refused("tensor", _BITS[kind][0])
            continue
        read = _reader(file, start + begin, shape, dtype, name, digests)
        tensors[name] = Tensor(shape, dtype, read)
    places.sort()
    ends = [0, *(end for _, end in places)]
    if [begin for begin, _ in places] != ends[:-1] or ends[-1] != size:
        raise FormatError("its tensors do not fill the file exactly, it may be truncated")
    return tensors, refused


def _reader(
    file: BinaryIO,
    position: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    name: str,
    digests: dict[str, Any],
) -> Callable[[], Array]:
    def read() -> Array:
        data = disk.read(file, position, math.prod(shape) * dtype.itemsize)
        digest = digests.get(name)
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise UnreadableFileError(f"damaged: the SHA-256 of {safe_name(name)} has changed")
        digests.pop(name, None)  # checked
        return np.frombuffer(data, dtype).reshape(shape)

    return read


def _seal(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the header's content: the checkpoint's JSON, and the list of tensors."""
    described = [[name, str(tensors[name].dtype), tensors[name].shape] for name in sorted(tensors)]
    return hashlib.sha256(json.dumps([text, described]).encode()).hexdigest()
