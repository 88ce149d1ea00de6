"""Hostile .pt files: by name, what builds each, the error it must give, and its message."""

import io
import os
import pickle
import struct
import tarfile
import zipfile

import torch

from bridge import (
    ConfigError,
    FormatError,
    MismatchError,
    UnreadableFileError,
    UnsafeFileError,
)
from helpers.paths import GOLDEN

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
        "holds torch.Size as a value",
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
    "dimension that is NaN": (config(expert_dim=float("nan")), ConfigError, "is nan, not a whole"),
    "dimension that is nested": (
        config(fused_dim=[[[]]]),
        ConfigError,
        "is .*, not a whole number",
    ),
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
