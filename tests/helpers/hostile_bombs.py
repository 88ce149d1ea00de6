"""Small files that would take much memory or time: by name, what builds each and its message."""

import struct
import zipfile

import numpy as np

from helpers.hostile_safetensors import entry, framed
from helpers.hostile_torch import GIGABYTE, archived, number, pickled, saved, tensor, text
from helpers.paths import GOLDEN

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


NEW_OBJECT = b"cargparse\nNamespace\n)\x81"
EXPANDED = tensor(shape=number(2**23) + b"\x85", strides=b"K\0\x85")
BAD_TENSOR = tensor(strides=number(-1) + b"\x85")
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
    "bytes of one long text.pt": (
        again_and_again(LONG_TEXT, b"c_codecs\nencode\n", b"h\1h\0" + text("latin1") + b"\x86R"),
        "holds _codecs.encode as a value",
    ),
    "objects.pt": (
        archived(pickled(metadata=b"}" + text("a") + b"](" + NEW_OBJECT * 200_000 + b"es")),
        r"pickled argparse.Namespace.*save vars\(args\) instead \(metadata\['a'\]\[0\]\)",
    ),
    "keys that are objects.pt": (
        archived(pickled(metadata=b"}(" + (NEW_OBJECT + b"N") * 150_000 + b"u")),
        r"pickled argparse.Namespace.*\(a key of metadata\)",
    ),
    "tensors without a shape.pt": (
        archived(
            pickled(metadata=b"}" + text("a") + b"](" + BAD_TENSOR * 20_000 + b"es"),
            {"a/data/0": b"1234"},
        ),
        "without a possible shape",
    ),
    "expanded.pt": (
        archived(
            pickled(b"}(" + b"".join(text(f"w{k}") + EXPANDED for k in range(9)) + b"u"),
            {"a/data/0": b"1234"},
        ),
        "its tensors claim",
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
