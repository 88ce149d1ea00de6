"""Hostile .safetensors files: by name, what builds each, the error it must give, its message."""

import json
import pickle
import struct

from bridge import (
    ConfigError,
    FormatError,
    MismatchError,
    UnreadableFileError,
    load_torch,
    save_safetensors,
)
from helpers.hostile_torch import FUSION, Executes, written

# Builders of .safetensors files.


def framed(header, data=b"", length=None):
    """A file of this header; its length may be a lie."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return written(struct.pack("<Q", len(header) if length is None else length) + header + data)


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def of_entry(data=b"1234", **values):
    return framed({"fusion_proj.bias": entry(**values)}, data)


def ours(change, source=FUSION):
    """One of our own files with other bytes."""

    def build(path):
        loaded = load_torch(source)
        save_safetensors(path, loaded.model, **loaded.training_state())
        data = bytearray(path.read_bytes())
        path.write_bytes(change(data) or data)

    return build


def flip(place, bit=0):
    def change(data):
        data[place if isinstance(place, int) else data.index(place)] ^= 1 << bit

    return change


def with_header(change):
    """One of our own files with another header, well-formed and of the right length."""

    def edit(data):
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        change(header)
        new = json.dumps(header).encode()
        return struct.pack("<Q", len(new)) + new + data[8 + length :]

    return ours(edit)


def exchange(header):
    names = ["fusion_proj.weight", "fusion_proj.bias"]
    offsets = [header[name]["data_offsets"] for name in names]
    assert offsets[0][1] == offsets[1][0]
    header[names[1]]["shape"].append(1)


def content_changed(header):
    metadata = header["__metadata__"]
    metadata["checkpoint"] = metadata["checkpoint"].replace('"step": 0', '"step": 9')


SAFETENSORS_FILES = {
    "missing": (lambda path: None, UnreadableFileError, "No such file"),
    "empty": (written(b""), UnreadableFileError, "the file is empty"),
    "seven bytes": (written(b"1234567"), UnreadableFileError, "a text file, not a checkpoint"),
    "zeros": (written(bytes(999)), UnreadableFileError, "not a .safetensors file"),
    "folder": (lambda path: path.mkdir(), UnreadableFileError, "cannot be read|checkpoint"),
    "text": (written(b"hello\n" * 99), UnreadableFileError, "a text file, not a checkpoint"),
    "pickle": (written(pickle.dumps(Executes())), UnreadableFileError, "not a .safetensors file"),
    "header of 100 GB": (framed(b"{}", length=10**11), UnreadableFileError, "or a truncated one"),
    "header longer by one": (
        framed(b"{}", length=3),
        UnreadableFileError,
        "or a truncated one",
    ),
    "header that is a list": (framed(b"[]"), UnreadableFileError, "its header is no dictionary"),
    "header that is no text": (framed(b"\xff\xfe{}"), UnreadableFileError, "or a damaged one"),
    "header that goes on": (framed(b"{}{}"), UnreadableFileError, "or a damaged one"),
    "number of 5000 digits": (
        framed(b'{"a":' + b"9" * 5000 + b"}"),
        UnreadableFileError,
        "or a damaged one",
    ),
    "name twice": (
        framed(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
        FormatError,
        "has the key 'a' twice in one dictionary",
    ),
    "no tensors": (framed({}), FormatError, "holds neither"),
    "metadata that is a list": (framed({"__metadata__": []}), FormatError, "not made of strings"),
    "metadata of numbers": (framed({"__metadata__": {"a": 1}}), FormatError, "not made of strings"),
    "unknown dtype": (of_entry(dtype="F8_E4M3"), FormatError, "described impossibly"),
    "dtype that is a list": (of_entry(dtype=["F32"]), FormatError, "described impossibly"),
    "entry that is a number": (framed({"a": 1}), FormatError, "'a' is described impossibly"),
    "negative shape": (of_entry(shape=(-1, -1)), FormatError, "described impossibly"),
    "shape of other size": (of_entry(shape=(2,)), FormatError, "described impossibly"),
    "shape of fractions": (of_entry(shape=(1.0,)), FormatError, "described impossibly"),
    "shape that is true": (of_entry(shape=(True,)), FormatError, "described impossibly"),
    "shape of no values": (
        of_entry(shape=(0, 2**62, 2**62), offsets=(0, 0)),
        FormatError,
        "described impossibly",
    ),
    "shape of no values, and huge": (
        of_entry(b"1234567", shape=(0, 7, 7, 7, 7, 7, 7), offsets=(0, 0)),
        FormatError,
        "described impossibly",
    ),
    "100 dimensions": (of_entry(shape=(1,) * 100), FormatError, "described impossibly"),
    "offsets outside": (of_entry(offsets=(10**12, 10**12 + 4)), FormatError, "impossibly"),
    "negative offsets": (of_entry(offsets=(-4, 0)), FormatError, "described impossibly"),
    "offsets the other way": (of_entry(offsets=(4, 0)), FormatError, "described impossibly"),
    "three offsets": (of_entry(offsets=(0, 4, 8)), FormatError, "described impossibly"),
    "overlapping": (
        framed({"a": entry(), "b": entry(offsets=(2, 6))}, b"123456"),
        FormatError,
        "do not fill the file exactly",
    ),
    "the same place": (
        framed({"a": entry(), "b": entry()}, b"1234"),
        FormatError,
        "do not fill the file exactly",
    ),
    "hole": (
        framed({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
        FormatError,
        "do not fill the file exactly",
    ),
    "more at the end": (of_entry(b"12345"), FormatError, "do not fill the file exactly"),
    "less at the end": (of_entry(b"123"), FormatError, "described impossibly"),
    "name with escape sequences": (
        framed({"\x1b[2J\n": entry(shape=(9,))}, b"1234"),
        FormatError,
        r"the tensor '\\x1b\[2J\\n' is described impossibly",
    ),
    "name of 10 MB": (
        framed({"w" * 10**7: entry()}, b"1234"),
        FormatError,
        "has a tensor with the name 'www",
    ),
    "foreign names": (framed({"a": entry()}, b"1234"), ConfigError, "no model has tensors of"),
    "wrong shape": (
        framed(
            {
                "fusion_proj.weight": entry(shape=(4, 8), offsets=(0, 128)),
                "fusion_proj.bias": entry(shape=(3,), offsets=(128, 140)),
            },
            bytes(140),
        ),
        MismatchError,
        r"1 misshapen: fusion_proj.bias is \[3\], not \[4\]",
    ),
    "bit in the values": (ours(flip(-1)), UnreadableFileError, "the SHA-256 of .* has changed"),
    "bit in the length": (ours(flip(1)), UnreadableFileError, "not a .safetensors file"),
    "bit in a name": (ours(flip(b"fusion_proj.w")), UnreadableFileError, "SHA-256"),
    "bit in a name of the header": (ours(flip(b"checkpoint")), UnreadableFileError, "SHA-256"),
    "bit in the digests' name": (ours(flip(b'sha256":')), UnreadableFileError, "SHA-256"),
    "bit in the content": (ours(flip(b"FusionLayer")), UnreadableFileError, "SHA-256"),
    "digest": (
        with_header(lambda header: header["__metadata__"].update(sha256="{}")),
        UnreadableFileError,
        "SHA-256 of its header",
    ),
    "digests that are nested": (
        with_header(lambda header: header["__metadata__"].update(sha256="[" * 10**5)),
        UnreadableFileError,
        "no usable SHA-256",
    ),
    "content that is another": (
        with_header(content_changed),
        UnreadableFileError,
        "SHA-256 of its header",
    ),
    "content that is no Unicode": (
        with_header(lambda header: header["__metadata__"].update(checkpoint="\ud800")),
        UnreadableFileError,
        "SHA-256 of its header",
    ),
    "shape that is another": (with_header(exchange), UnreadableFileError, "SHA-256 of its header"),
    "cut in the header": (ours(lambda data: data[:100]), UnreadableFileError, "truncated"),
    "cut in the values": (ours(lambda data: data[:-1]), FormatError, "impossibly|exactly"),
}
