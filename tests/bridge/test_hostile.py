"""A corpus of hostile files: each gives one clear line, executes nothing and writes nothing.

Those that would take memory or time are loaded in a process that has little of both.
"""

import io
import json
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN, ROOT

from bridge import (
    BridgeError,
    ConfigError,
    FormatError,
    MismatchError,
    NonFiniteWarning,
    UnreadableFileError,
    UnsafeFileError,
    load_safetensors,
    load_torch,
    save_safetensors,
)

FUSION = GOLDEN / "fusion_concatenate" / "checkpoint.pt"
TRAINED = GOLDEN / "trajectory" / "checkpoint_step_12.pt"
GIGABYTE = 2**30


class Executes:
    """Creates a file named `executed` when it is unpickled."""

    def __init__(self, function=os.system, *arguments):
        self.call = function, arguments or ("touch executed",)

    def __reduce__(self):
        return self.call


# Builders of .pt files: each takes the path to write to.


def saved(change, source=FUSION):
    """A golden checkpoint with something changed in its content."""

    def build(path):
        content = torch.load(source, weights_only=True)
        content = change(content) or content
        torch.save(content, path)

    return build


def setting(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def config(**values):
    return saved(lambda content: content["metadata"]["config"].update(values))


def schedule(part=None, **values):
    def change(content):
        state = content["scheduler_state_dict"]
        (state if part is None else state["_schedulers"][part]).update(values)

    return saved(change, TRAINED)


def archived(pickled, records=(), *, compression=zipfile.ZIP_STORED):
    """An archive of the kind that torch.save writes, of any pickle and any records."""

    def build(path):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("a/data.pkl", pickled)
            for name, data in dict(records).items():
                archive.writestr(name, data)

    return build


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    """The pickle's opcode for a number of any size."""
    return pickle.dumps(value, protocol=2)[2:-1]


def pickled(state=b"}", metadata=b"}"):
    """The pickle of a checkpoint, from opcodes that push its two dictionaries."""
    named = text("model_state_dict") + state + text("metadata") + metadata
    return b"\x80\x02}(" + named + b"u."


def tensor(shape=b"K\1\x85", strides=b"K\1\x85", offset=b"K\0", size=b"K\1", key=b"X\1\0\0\x000"):
    """The opcodes that push a tensor."""
    storage = text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + size
    place = b"(" + storage + b"tQ" + offset + shape + strides
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"\x89ccollections\nOrderedDict\n)RtR"


def of_tensor(data=b"1234", **place):
    return archived(pickled(b"}" + text("w") + tensor(**place) + b"s"), {"a/data/0": data})


def edited(change, source=FUSION):
    """A golden file with other bytes."""

    def build(path):
        data = bytearray(source.read_bytes())
        path.write_bytes(change(data) or data)

    return build


def flipped(name, share=0.5, source=FUSION):
    """A golden file with one bit flipped in a record."""

    def change(data):
        with zipfile.ZipFile(source) as archive:
            (info,) = (info for info in archive.infolist() if info.filename.endswith(name))
        lengths = struct.unpack_from("<2H", data, info.header_offset + 26)
        data[info.header_offset + 30 + sum(lengths) + int(info.file_size * share)] ^= 4

    return edited(change, source)


def in_directory(offset, layout, value, name="data.pkl"):
    """A golden file with another number in an entry of its archive's directory."""

    def change(data):
        place = data.index(b"PK\1\2", data.rindex(f"checkpoint/{name}".encode()) - 46)
        struct.pack_into(layout, data, place + offset, value)

    return change


def at_end(offset, layout, value):
    """A golden file with another number in the 98 bytes after its archive's directory."""
    return edited(lambda data: struct.pack_into(layout, data, len(data) - 98 + offset, value))


def truncated(share, source=FUSION):
    return edited(lambda data: data[: int(len(data) * share)], source)


def written(content):
    return lambda path: path.write_bytes(content)


def legacy_tar(path):
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Executes())
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def swapped_entries(content):
    state = content["optimizer_state_dict"]["state"]
    state[0], state[1] = state[1], state[0]


def entry_by_fraction(content):
    state = content["optimizer_state_dict"]["state"]
    state[1.0] = state.pop(1)


def wrong_shape(content):
    weights = content["model_state_dict"]
    weights["fusion_proj.weight"] = weights["fusion_proj.weight"].reshape(-1, 2)


def twice(content):
    weights = content["model_state_dict"]
    weights["module.fusion_proj.bias"] = weights["fusion_proj.bias"]


def named(name):
    def change(content):
        content["model_state_dict"][name] = torch.zeros(2)

    return saved(change)


NOTHING_EXECUTED = "nothing was executed"
TORCH_FILES = {
    # What would execute.
    "system": (
        saved(setting("metadata", "x", value=Executes())),
        UnsafeFileError,
        f"holds a pickled {Executes().call[0].__module__}.system, and .*{NOTHING_EXECUTED}",
    ),
    "eval": (
        saved(setting("model_state_dict", "x", value=Executes(eval, "open('executed', 'w')"))),
        UnsafeFileError,
        f"pickled .*eval.*{NOTHING_EXECUTED}",
    ),
    "instance by its class": (
        archived(b"\x80\x02(ios\nsystem\n."),
        UnsafeFileError,
        f"opcode INST.*{NOTHING_EXECUTED}",
    ),
    "instance by OBJ": (
        archived(b"\x80\x02(cos\nsystem\nX\x10\0\0\0touch 'executed'o."),
        UnsafeFileError,
        "pickled os.system",
    ),
    "name on the stack": (
        archived(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch executed\x85R."),
        UnsafeFileError,
        "pickled os.system",
    ),
    "name that is made of containers": (
        archived(b"\x80\x04]]\x93."),
        UnreadableFileError,
        "damaged",
    ),
    "extension registry": (archived(b"\x80\x02\x82\1."), UnsafeFileError, "opcode EXT1"),
    "call of what may only be named": (
        archived(b"\x80\x02ctorch\nFloatStorage\n)R."),
        UnreadableFileError,
        "damaged",
    ),
    "module": (
        lambda path: torch.save(torch.nn.Linear(2, 3), path),
        UnsafeFileError,
        "pickled torch.nn.modules.linear.Linear",
    ),
    "hidden behind an attribute": (
        archived(b"\x80\x02cbuiltins\ngetattr\n(cos\nsep\nX\4\0\0\0jointR."),
        UnsafeFileError,
        "pickled builtins.getattr",
    ),
    "legacy format": (
        lambda path: torch.save(Executes(), path, _use_new_zipfile_serialization=False),
        UnreadableFileError,
        "save an older one again with a newer torch",
    ),
    "bare pickle": (
        written(pickle.dumps(Executes())),
        UnreadableFileError,
        "not a checkpoint",
    ),
    "legacy tar": (legacy_tar, UnreadableFileError, "not a checkpoint"),
    "TorchScript": (
        archived(pickled(), {"a/constants.pkl": b"\x80\2).", "a/code/__torch__.py": b"1/0"}),
        UnreadableFileError,
        "a TorchScript archive, which holds code",
    ),
    # What is no checkpoint at all.
    "missing": (lambda path: None, UnreadableFileError, "No such file"),
    "empty": (written(b""), UnreadableFileError, "the file is empty"),
    "one byte": (written(b"P"), UnreadableFileError, "not a checkpoint"),
    "four bytes": (written(b"PK\3\4"), UnreadableFileError, "truncated"),
    "folder": (lambda path: path.mkdir(), UnreadableFileError, "cannot be read|checkpoint"),
    "pipe": (os.mkfifo, UnreadableFileError, "it is a pipe"),
    "text": (written(b"epoch,loss\n1,2.5\n" * 99), UnreadableFileError, "not a checkpoint"),
    "source code": (written(b"import os\n"), UnreadableFileError, "not a checkpoint"),
    "safetensors renamed": (
        lambda path: save_safetensors(path, load_torch(FUSION).model),
        UnreadableFileError,
        "not a checkpoint",
    ),
    "another archive": (
        lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "hello"),
        UnreadableFileError,
        "a zip archive, but not a checkpoint",
    ),
    "archive of text": (
        archived(b"hello", {"b/readme.txt": b"hello"}),
        UnreadableFileError,
        "a zip archive, but not a checkpoint",
    ),
    "two pickles": (
        archived(pickled(), {"a/b/data.pkl": pickled()}),
        UnreadableFileError,
        "a zip archive, but not a checkpoint",
    ),
    "pickle that is none": (archived(b"hello"), UnreadableFileError, "damaged"),
    "pickle that is empty": (archived(b""), UnreadableFileError, "damaged"),
    "pickle without an end": (archived(b"\x80\x02}"), UnreadableFileError, "damaged"),
    # What is damaged.
    "bit in a pickle": (flipped("data.pkl"), UnreadableFileError, "CRC-32 of .*data.pkl"),
    "bit in a tensor": (flipped("data/0"), UnreadableFileError, "CRC-32 of .*data/0"),
    "bit in a record of no use": (
        flipped("/version", 0),
        UnreadableFileError,
        "CRC-32 of .*version",
    ),
    **{
        f"cut to {share}": (truncated(share), UnreadableFileError, "truncated or damaged archive")
        for share in (0.001, 0.01, 0.3, 0.9, 0.99, 0.9999)
    },
    "byte before": (edited(lambda data: b"P" + data), UnreadableFileError, "not a checkpoint"),
    "byte after": (edited(lambda data: data + b"P"), UnreadableFileError, "damaged archive"),
    "hole": (
        edited(lambda data: data[:9000] + data[9100:]),
        UnreadableFileError,
        "damaged archive",
    ),
    # Archives that lie.
    "size": (
        edited(in_directory(24, "<I", 10**6)),
        FormatError,
        "its record 'checkpoint/data.pkl' claims two sizes",
    ),
    "CRC": (edited(in_directory(16, "<I", 7)), UnreadableFileError, "CRC-32 of"),
    "place": (
        edited(in_directory(42, "<I", 7)),
        UnreadableFileError,
        "not where it should be|refers to",
    ),
    "place outside": (edited(in_directory(42, "<I", 2**32 - 2)), UnreadableFileError, "refers to"),
    "encrypted": (edited(in_directory(8, "<H", 1)), FormatError, "compressed or encrypted"),
    "compressed": (
        archived(pickled(), compression=zipfile.ZIP_DEFLATED),
        FormatError,
        "'a/data.pkl' is compressed or encrypted",
    ),
    "number of records": (at_end(32, "<Q", 3), UnreadableFileError, "instead of 3 records"),
    "length of the directory": (at_end(40, "<Q", 2**60), UnreadableFileError, "damaged archive"),
    "start of the directory": (at_end(48, "<Q", 2**63), UnreadableFileError, "damaged archive"),
    "comment": (at_end(96, "<H", 9), UnreadableFileError, "damaged archive"),
    "record twice": (
        edited(lambda data: data.replace(b"checkpoint/data/1", b"checkpoint/data/0")),
        FormatError,
        "has the record 'checkpoint/data/0' twice",
    ),
    "big-endian": (
        archived(pickled(), {"a/byteorder": b"big"}),
        FormatError,
        "its values are big-endian",
    ),
    # Pickles that lie.
    "storage is missing": (
        of_tensor(key=text("../data.pk")),
        FormatError,
        "a/data/../data.pk is missing",
    ),
    "storage larger than its record": (
        of_tensor(size=number(2**40)),
        FormatError,
        "holds 4 bytes, where its tensors need 4398046511104",
    ),
    "storage of negative size": (of_tensor(size=number(-1)), UnreadableFileError, "damaged"),
    "stride 0": (
        of_tensor(shape=number(10**9) + b"\x85", strides=b"K\0\x85"),
        FormatError,
        r"a tensor \[1000000000\] that claims more values than the 1 stored",
    ),
    "negative stride": (
        of_tensor(strides=number(-1) + b"\x85"),
        FormatError,
        "without a possible shape",
    ),
    "negative length": (
        of_tensor(shape=number(-1) + b"\x85"),
        FormatError,
        "without a possible shape",
    ),
    "offset": (of_tensor(offset=b"K\1"), FormatError, "claims more values than"),
    "negative offset": (of_tensor(offset=number(-1)), FormatError, "without a possible shape"),
    "no values, but a huge shape": (
        of_tensor(shape=b"(K\0" + number(2**47) * 2 + b"t", strides=b"(K\1K\1K\1t"),
        FormatError,
        "without a possible shape",
    ),
    "one value, but a huge stride": (
        of_tensor(strides=number(2**62) + b"\x85"),
        FormatError,
        "without a possible shape",
    ),
    "100 dimensions": (
        of_tensor(shape=b"(" + b"K\1" * 100 + b"t", strides=b"(" + b"K\1" * 100 + b"t"),
        FormatError,
        "without a possible shape",
    ),
    "shape that is text": (
        of_tensor(shape=text("12"), strides=text("12")),
        FormatError,
        "without a possible shape",
    ),
    "key twice": (
        archived(pickled(b"}(" + text("w") + b"K\1" + text("w") + b"K\2u")),
        FormatError,
        "has the key 'w' twice in one dictionary",
    ),
    "key that is a tuple": (
        archived(pickled(metadata=b"})K\1s")),
        FormatError,
        "a dictionary has a tuple as a key",
    ),
    "class as a value": (
        archived(pickled(metadata=b"}" + text("a") + b"ctorch\nSize\ns")),
        FormatError,
        "holds a Global as a value",
    ),
    # Contents that are wrong.
    "no tensors": (archived(pickled()), (FormatError, ConfigError), "no model has tensors|holds"),
    "wrong shape": (
        saved(wrong_shape),
        MismatchError,
        r"1 misshapen: fusion_proj.weight is \[\d+, \d+\], not",
    ),
    "swapped optimizer entries": (
        saved(swapped_entries, TRAINED),
        MismatchError,
        r"4 misshapen: exp_avg of 0 \(embedding.weight\) is \[32, 32\], not \[160, 32\], .*of 1 ",
    ),
    "tensor twice": (saved(twice), MismatchError, "1 duplicate: fusion_proj.bias"),
    "name with escape sequences": (
        named("\x1b[2J\x1b]0;owned\x07\r\n"),
        FormatError,
        r"has a tensor with the name '\\x1b\[2J\\x1b\]0;owned\\x07\\r\\n', and",
    ),
    "name of 10 MB": (named("w" * 10**7), FormatError, "has a tensor with the name 'www"),
    "name that is no Unicode": (
        archived(pickled(b"}" + text("\ud800") + b"K\1s")),
        FormatError,
        r"'\\ud800' in the state dict is a int",
    ),
    "name that is a number": (named(7), FormatError, "7 in the state dict is a Tensor"),
    "class of 10 MB": (
        saved(setting("metadata", "model_class", value="\x1b" * 10**7)),
        ConfigError,
        r"model_class is '\\x1b\\x1b",
    ),
    "huge dimension": (config(fused_dim=10**100), ConfigError, "fused_dim in .*no model has that"),
    "dimension that is NaN": (config(expert_dim=float("nan")), ConfigError, "is nan, not of type"),
    "dimension that is nested": (config(fused_dim=[[[]]]), ConfigError, "is .*, not of type int"),
    "method of 10 MB": (config(fusion_method="x\n" * 5 * 10**6), ConfigError, "fusion_method must"),
    "number of 2000 bits": (
        saved(setting("metadata", "x", value=2**2000)),
        FormatError,
        r"metadata\['x'\] is a number of 2001 bits",
    ),
    "step": (saved(setting("step", value=2**2000)), FormatError, "step is 114813"),
    "schedule after 10**12 steps": (
        schedule(last_epoch=10**12, _last_lr=[0.0]),
        FormatError,
        "the schedule's step is larger than 10000000",
    ),
    "schedule after 10**400 steps": (
        schedule(last_epoch=10**400),
        FormatError,
        "'last_epoch'] is a number of 1329 bits",
    ),
    "schedule of 10**200 steps": (
        schedule(1, T_max=10**200),
        FormatError,
        "the schedule's total_steps is larger",
    ),
    "schedule after a text of steps": (
        schedule(last_epoch="\x1b" * 10**6),
        FormatError,
        r"has last_epoch '\\x1b.*, not a whole number",
    ),
    "schedule that is text": (schedule(_schedulers="ab"), FormatError, "not of a SequentialLR"),
    "rate that is NaN": (schedule(_last_lr=[float("nan")]), FormatError, "has the rate nan"),
    "optimizer's rate": (
        saved(
            setting("optimizer_state_dict", "param_groups", 0, "lr", value=10**200),
            TRAINED,
        ),
        FormatError,
        "not AdamW's: it has no usable lr",
    ),
    "optimizer of infinite betas": (
        saved(
            setting("optimizer_state_dict", "param_groups", 0, "betas", value=(0.9, float("inf"))),
            TRAINED,
        ),
        FormatError,
        "not AdamW's: it has no usable betas",
    ),
    "optimizer's entry by a fraction": (
        saved(entry_by_fraction, TRAINED),
        MismatchError,
        "1 unexpected: index 1.0",
    ),
    "optimizer's entry by text": (
        saved(setting("optimizer_state_dict", "state", "\x1b" * 10**6, value={}), TRAINED),
        MismatchError,
        r"1 unexpected: index '\\x1b",
    ),
}


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
    "seven bytes": (written(b"1234567"), UnreadableFileError, "not a .safetensors file"),
    "zeros": (written(bytes(999)), UnreadableFileError, "not a .safetensors file"),
    "folder": (lambda path: path.mkdir(), UnreadableFileError, "cannot be read|checkpoint"),
    "text": (written(b"hello\n" * 99), UnreadableFileError, "not a .safetensors file"),
    "pickle": (written(pickle.dumps(Executes())), UnreadableFileError, "not a .safetensors file"),
    "archive": (
        lambda path: path.write_bytes(FUSION.read_bytes()),
        UnreadableFileError,
        "not a .safetensors file",
    ),
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


# What would take memory or time: each of some MB at most, or with holes.


def sparse(size, start, end=b""):
    def build(path):
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)
            file.seek(-len(end), 2)
            file.write(end)

    return build


def doubling(levels):
    """A pair whose halves are one pair whose halves are one pair ..."""
    return b"]" + b"q\0h\0\x86" * levels


def end_of_archive(count, length, start):
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count % 2**16, count % 2**16, length, start, 0)


def many_records(path):
    names = [f"a/{index:x}".encode() for index in range(250_000)]
    entries = (struct.pack("<4s24xH16x", b"PK\1\2", len(name)) + name for name in names)
    directory = b"".join(entries)
    path.write_bytes(b"PK\3\4" + directory + end_of_archive(len(names), len(directory), 4))


def many_names(count, shape):
    """A state dict in which one large tensor has many names."""
    size = int(np.prod(shape))
    place = {
        "shape": b"(" + b"".join(map(number, shape)) + b"t",
        "strides": b"(" + number(shape[1]) + b"K\1t",
        "size": number(size),
    }
    first = text("w") + tensor(**place) + b"q\0"
    others = b"".join(text(f"w{index}") + b"h\0" for index in range(count))
    return archived(pickled(b"}(" + first + others + b"u"), {"a/data/0": bytes(4 * size)})


def many_views(count):
    views = (
        text(f"w{index}") + tensor(size=number(2**20), shape=number(2**20) + b"\x85")
        for index in range(count)
    )
    return archived(pickled(b"}(" + b"".join(views) + b"u"), {"a/data/0": bytes(2**22)})


def many_layers(path):
    """A config and names of very many layers, of one and the same small tensor."""
    names = (text(f"blocks.{index}.norm1.weight") + b"h\0" for index in range(20_000))
    first = text("blocks.0.norm2.weight") + tensor(size=number(2**18)) + b"q\0"
    archived(pickled(b"}(" + first + b"".join(names) + b"u"), {"a/data/0": bytes(2**20)})(path)


def tied_names(path):
    metadata = {f"w{index}": "w" for index in range(50_000)}
    header = {"__metadata__": metadata, "w": entry(shape=(2**20,), offsets=(0, 2**22))}
    framed(header, bytes(2**22))(path)


def again_and_again(first, second, repeated):
    """Metadata that puts something together again and again, from two things in the memo."""
    items = repeated * 80_000
    return archived(
        pickled(
            metadata=b"}" + text("a") + b"](" + first + b"q\0" + second + b"q\1" + items + b"es"
        )
    )


MOST = 2**20
LONG_TEXT = text("x" * 10**7)
BOMBS = {
    "lists.pt": (archived(b"\x80\x02" + b"]" * (2**25 - 3)), "more than 1048576 parts"),
    "dictionaries.pt": (
        archived(pickled(metadata=b"}" + text("a") + b"](" + b"}" * (MOST - 50) + b"es")),
        "metadata is nested too deeply or too large|no model has",
    ),
    "large pickle.pt": (archived(bytes(2**25 + 1)), "its pickle is larger than"),
    "marks.pt": (archived(b"\x80\x02" + b"N" * (MOST // 3) + b"(t" * (MOST // 3)), "damaged"),
    "nested.pt": (
        archived(pickled(metadata=b"}" + text("a") + b"N" + b"\x85" * 900_000 + b"s")),
        "nested too deeply",
    ),
    "doubling.pt": (
        archived(pickled(metadata=b"}" + text("a") + doubling(50) + b"s")),
        "more than 1048576 values",
    ),
    "doubling without end.pt": (
        archived(pickled(metadata=b"}" + text("a") + doubling(200) + b"s")),
        "nested too deeply",
    ),
    "in itself.pt": (archived(b"\x80\x02]q\0h\0h\0\x86a."), "or in themselves"),
    "doubled name.pt": (
        archived(b"\x80\x04" + doubling(60) + b"\x8c\1a\x93."),
        "damaged",
    ),
    "doubled key.pt": (
        archived(pickled(metadata=b"}" + doubling(80) + b"K\1s")),
        "has a tuple as a key",
    ),
    "nested key.pt": (
        archived(pickled(metadata=b"}N" + b"\x85" * 900_000 + b"K\1s")),
        "has a tuple as a key",
    ),
    "keys of one hash.pt": (
        archived(
            pickled(
                metadata=b"}("
                + b"".join(number(k * (2**61 - 1)) + b"N" for k in range(1, 100_000))
                + b"u"
            )
        ),
        "has a huge number as a key",
    ),
    "sizes of one long list.pt": (
        again_and_again(b"](" + b"N" * 100_000 + b"e", b"ctorch\nSize\n", b"h\1h\0\x85R"),
        "damaged",
    ),
    "devices of one long name.pt": (
        again_and_again(LONG_TEXT, b"ctorch\ndevice\n", b"h\1h\0K\1\x86R"),
        "damaged",
    ),
    "storages of one long key.pt": (
        again_and_again(LONG_TEXT, tensor(key=b"h\0"), b"h\1"),
        "damaged",
    ),
    "dictionaries of one long key.pt": (
        again_and_again(LONG_TEXT, b"N", b"}h\0h\1s"),
        "metadata is nested too deeply or too large",
    ),
    "one long text.pt": (
        again_and_again(LONG_TEXT, b"N", b"h\0"),
        "metadata is nested too deeply or too large",
    ),
    "very many keys.pt": (
        archived(pickled(metadata=b"}(" + b"".join(number(k) + b"N" for k in range(2**18)) + b"u")),
        "more than 131072 numbers as keys",
    ),
    "one tensor of many names.pt": (many_names(50_000, (1024, 1024)), "its tensors claim"),
    "many views of one tensor.pt": (many_views(10_000), "its tensors claim"),
    "names without number.pt": (many_names(70_000, (1, 1)), "no model has so many|claim"),
    "layers.pt": (many_layers, "num_layers is 20000|claim|neither"),
    "layers that are only claimed.pt": (
        saved(
            lambda content: content["metadata"]["config"].update(num_layers=10**9),
            GOLDEN / "expert" / "checkpoint.pt",
        ),
        "num_layers is 1000000000",
    ),
    "zip bomb.pt": (
        archived(pickled(), {"a/data/0": bytes(2**28)}, compression=zipfile.ZIP_DEFLATED),
        "compressed or encrypted",
    ),
    "records.pt": (many_records, "instead of 53392 records"),
    "100 GB of nothing.pt": (sparse(100 * GIGABYTE, b"PK\3\4"), "damaged archive"),
    "directory of 4 GB.pt": (
        sparse(
            5 * GIGABYTE,
            b"PK\3\4",
            end_of_archive(9, 2**32 - 2, 5 * GIGABYTE - 22 - (2**32 - 2)),
        ),
        "directory is larger than",
    ),
    "header of 4 GB.safetensors": (
        sparse(5 * GIGABYTE, struct.pack("<Q", 2**32)),
        "header is larger than",
    ),
    "header of lists.safetensors": (
        framed(b'{"a":[' + b"[]," * 10**7 + b"1]}"),
        "more than .* val",
    ),
    "header of depth.safetensors": (framed(b'{"a":' + b"[" * 10**6), "a damaged one"),
    "header of names.safetensors": (
        framed(b"{" + b",".join(b'"%d":0' % k for k in range(MOST)) + b"}"),
        "described impossibly",
    ),
    "header of digits.safetensors": (
        framed(
            b'{"a":{"dtype":"F32","data_offsets":[0,0],"shape":[%b]}}'
            % b",".join([b"9" * 4000] * 8000)
        ),
        "described impossibly",
    ),
    "ties.safetensors": (tied_names, "its tensors claim"),
}


def built(build, path):
    build(path)
    return path


def files_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".pt", name) for name in TORCH_FILES]
    + [(".safetensors", name) for name in SAFETENSORS_FILES],
)
def test_a_hostile_file_gives_one_line(suffix, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load, corpus = {
        ".pt": (load_torch, TORCH_FILES),
        ".safetensors": (load_safetensors, SAFETENSORS_FILES),
    }[suffix]
    build, kind, message = corpus[name]
    path = pathlib.Path(f"hostile{suffix}")
    build(path)
    before = files_in(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < 500
    assert files_in(tmp_path) == before
    assert not pathlib.Path("executed").exists()


def test_the_corpus_would_execute(tmp_path, monkeypatch):
    """That nothing is executed means something only if it would be."""
    monkeypatch.chdir(tmp_path)
    build, _, _ = TORCH_FILES["system"]
    torch.load(built(build, tmp_path / "a.pt"), weights_only=False)
    assert (tmp_path / "executed").exists()


def run_python(code, *arguments, timeout=280):
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
def test_bombs_take_little_memory_and_time(tmp_path):
    for name, (build, _) in BOMBS.items():
        build(tmp_path / name)
    before = files_in(tmp_path)
    code = """
        import json, pathlib, resource, sys, time
        import bridge

        def megabytes(entry):
            (line,) = (line for line in open("/proc/self/status") if line.startswith(entry))
            return int(line.split()[1]) // 1024

        bridge.load_torch(sys.argv[2])
        # What goes wrong here must not take the machine along.
        in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**31, in_use + 2**31))
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            load = bridge.load_torch if path.suffix == ".pt" else bridge.load_safetensors
            open("/proc/self/clear_refs", "w").write("5")  # the peak is that from here on
            start, before = time.process_time(), megabytes("VmRSS")
            try:
                load(path)
                outcome = "loaded"
            except bridge.BridgeError as error:
                outcome = str(error)
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            seconds = time.process_time() - start
            print(json.dumps([path.name, outcome, seconds, megabytes("VmHWM") - before]))
    """
    found = [json.loads(line) for line in run_python(code, tmp_path, FUSION).splitlines()]
    assert sorted(name for name, *_ in found) == sorted(BOMBS)
    for _, outcome, seconds, megabytes in found:
        print(f"{seconds:.2f} s, {megabytes} MB: {outcome.removeprefix(str(tmp_path))}")
    for name, outcome, seconds, megabytes in found:
        assert outcome.startswith(f"{tmp_path / name}: "), outcome
        assert re.search(BOMBS[name][1], outcome), outcome
        assert len(outcome) < 500
        assert megabytes < 400, name
        assert seconds < 20, name
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_that_are_nan_are_loaded_with_a_warning(suffix, tmp_path):
    path = not_finite(tmp_path / f"nan{suffix}")
    load = load_torch if suffix == ".pt" else load_safetensors
    with pytest.warns(NonFiniteWarning, match=r"fusion_proj.bias \(2 of \d+ values\)$"):
        loaded = load(path)
    bias = np.asarray(loaded.model.fusion_proj.bias[...])
    assert np.isnan(bias[0])
    assert np.isinf(bias[1])


def not_finite(path):
    content = torch.load(FUSION, weights_only=True)
    content["model_state_dict"]["fusion_proj.bias"][:2] = torch.tensor([torch.nan, torch.inf])
    torch.save(content, path.with_suffix(".pt"))
    if path.suffix == ".safetensors":
        with pytest.warns(NonFiniteWarning):
            model = load_torch(path.with_suffix(".pt")).model
        save_safetensors(path, model)
    return path


def test_the_command_line_refuses_every_file(tmp_path):
    (tmp_path / "in").mkdir()
    for suffix, corpus in ((".pt", TORCH_FILES), (".safetensors", SAFETENSORS_FILES)):
        for name, (build, *_) in corpus.items():
            build(tmp_path / "in" / f"{name.replace('/', ' ')}{suffix}")
    before = files_in(tmp_path / "in")
    missing = [pathlib.Path("missing.pt"), pathlib.Path("missing.safetensors")]
    code = """
        import contextlib, io, json, os, pathlib, sys
        from bridge.__main__ import main

        os.chdir(sys.argv[1])
        for name in sys.argv[2:]:
            out, error = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                code = main(["from-torch", f"in/{name}", "out"])
            print(json.dumps([name, code, error.getvalue()]))
    """
    lines = run_python(code, tmp_path, *before, *missing).splitlines()
    assert len(lines) == len(TORCH_FILES) + len(SAFETENSORS_FILES)
    for name, exit_code, error in map(json.loads, lines):
        assert exit_code == 2, name
        assert error.startswith(f"error: in/{name}: "), error
        assert error.endswith("\n"), name
        assert error[:-1].isprintable(), name
    assert files_in(tmp_path) == [
        pathlib.Path("in"),
        *(pathlib.Path("in") / path for path in before),
    ]


def bridge(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bridge", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("suffix", "name", "command"),
    [
        (".pt", "system", ["from-torch", "IN", "out"]),
        (".pt", "name with escape sequences", ["inspect", "IN"]),
        (".safetensors", "bit in the values", ["from-torch", "IN", "out"]),
    ],
)
def test_a_process_ends_with_one_line_and_code_2(suffix, name, command, tmp_path):
    corpus = TORCH_FILES if suffix == ".pt" else SAFETENSORS_FILES
    build, _, message = corpus[name]
    path = built(build, tmp_path / f"hostile{suffix}")
    code, error = bridge(tmp_path, *(path.name if part == "IN" else part for part in command))
    assert code == 2
    assert re.fullmatch(rf"error: {path.name}: [^\n]*({message})[^\n]*\n", error), error
    assert files_in(tmp_path) == [pathlib.Path(path.name)]


def test_a_process_warns_of_nan_and_goes_on(tmp_path):
    not_finite(tmp_path / "nan.pt")
    code, error = bridge(tmp_path, "from-torch", "nan.pt", "out")
    assert code == 0
    assert re.fullmatch(r"warning: nan.pt: .*fusion_proj.bias \(2 of \d+ values\)\n", error), error
    assert (tmp_path / "out").is_dir()


def test_every_kind_of_error_is_met():
    kinds = {
        kind for _, kind, _ in (TORCH_FILES | SAFETENSORS_FILES).values() if type(kind) is type
    }
    assert kinds == {
        error for error in BridgeError.__subclasses__() if error.__name__ != "UnwritableFileError"
    }
