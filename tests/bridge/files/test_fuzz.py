"""Thousands of damaged and forged files: each is refused with a typed error, or harmless.

The files follow from fixed seeds. `run(kind, seed, count)` makes a longer campaign of any kind.
"""

import collections
import copy
import dataclasses
import io
import json
import pathlib
import pickle
import pickletools
import random
import struct
import tempfile
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from bridge import (
    BridgeError,
    FileWarning,
    MismatchError,
    load_safetensors,
    load_torch,
    save_safetensors,
    save_torch,
)
from bridge.files import safetensors_file, torch_file
from bridge.files.tensors import Tensor, tensor_of
from bridge.twin import twin
from bridge.weights import variables
from mmrec_jax import ModelConfig

LOAD = {".pt": load_torch, ".safetensors": load_safetensors}
SAVE = {".pt": save_torch, ".safetensors": save_safetensors}
CONFIGS = {
    "FusionLayer": ModelConfig(model_dim=4, num_heads=1, fusion_method="weighted"),
    "MMRecModel": ModelConfig(
        vocab_size=5,
        model_dim=4,
        num_layers=1,
        num_heads=2,
        ffn_dim=3,
        use_sparse=True,
        num_experts=4,
    ),
}

Outcome = collections.Counter


@dataclasses.dataclass(frozen=True)
class Base:
    """A sound file: its bytes, what it loads as, and its content with all tensors read."""

    suffix: str
    data: bytes
    bits: object
    content: object


def bits(loaded):
    """All of a checkpoint, so that two are the same bit for bit if these are equal."""

    def arrays(tree):
        return {
            path: (str(array.dtype), array.shape, np.asarray(array).tobytes())
            for path, array in tree.items()
        }

    optimizer = loaded.optimizer_state
    state = optimizer and (
        optimizer.step,
        repr(optimizer.hyperparameters),
        arrays(optimizer.exp_avg),
        arrays(optimizer.exp_avg_sq),
    )
    rest = (loaded.config, loaded.scheduler_state, loaded.step, loaded.avg_loss, loaded.metadata)
    return type(loaded.model).__name__, arrays(variables(loaded.model)), state, repr(rest)


def trained(model_class, with_state):
    """A checkpoint as torch's user writes it."""
    generator = torch.Generator().manual_seed(1)
    module = twin(model_class, CONFIGS[model_class])
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    first = LinearLR(optimizer, start_factor=0.1, total_iters=2)
    second = CosineAnnealingLR(optimizer, T_max=6)
    schedule = SequentialLR(optimizer, [first, second], milestones=[2])
    for _ in range(3):
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        schedule.step()
    config = dataclasses.asdict(CONFIGS[model_class])
    return {
        "model_state_dict": module.state_dict(),
        "optimizer_state_dict": optimizer.state_dict() if with_state else None,
        "scheduler_state_dict": schedule.state_dict() if with_state else None,
        "step": 3,
        "avg_loss": np.float32(2.5),
        "metadata": {
            "model_class": model_class,
            "config": {key: value for key, value in config.items() if value is not None},
            "note": ["a", 1, None, (2.5, True), {"b": {"c": "d"}}],
        },
    }


def materialized(value):
    """Content whose tensors can be read when its file is closed."""
    if isinstance(value, Tensor):
        return tensor_of(value.read().copy())
    if isinstance(value, dict):
        return {key: materialized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(materialized(item) for item in value)
    return value


def make_bases():
    bases = {}

    def add(name, path):
        with torch_file.reading(first) as content:
            whole = materialized(content)
        loaded = LOAD[path.suffix](path)
        bases[name] = Base(path.suffix, path.read_bytes(), bits(loaded), whole)
        return loaded

    with tempfile.TemporaryDirectory() as folder:
        for model_class, with_state in (("FusionLayer", True), ("MMRecModel", False)):
            first = pathlib.Path(folder, "torch.pt")
            torch.save(trained(model_class, with_state), first)
            loaded = add(f"{model_class}, torch's", first)
            for suffix, save in SAVE.items():
                path = pathlib.Path(folder, f"ours{suffix}")
                save(path, loaded.model, **loaded.training_state())
                add(f"{model_class}, ours{suffix}", path)
    return bases


BASES = {}


def base_of(rng, suffix):
    BASES.update(BASES or make_bases())
    return rng.choice([base for base in BASES.values() if base.suffix == suffix])


# Each kind of file: rng -> suffix, bytes, and what it must load as if it loads at all (None: any).


def raw(suffix):
    def make(rng):
        base = base_of(rng, suffix)
        return suffix, scrambled(rng, base.data, base_of(rng, suffix).data), base.bits

    return make


def scrambled(rng, data, other):
    """Some bytes are others, missing, more, or elsewhere."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        if rng.random() < 0.7:
            end = min(end, start + rng.randrange(1, 32))
        place = rng.randrange(len(data) + 1)
        match rng.randrange(9):
            case 0 | 1:
                for _ in range(rng.choice([1, 1, 2, 8])):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 2:
                del data[rng.randrange(1, len(data)) :]
            case 3:
                del data[start:end]
            case 4:
                data[place:place] = rng.randbytes(end - start)
            case 5:
                data[place:place] = data[start:end]
            case 6:
                data[start:end] = other[start:end]
            case 7:
                data[start:end] = bytes(end - start)
            case 8:
                number = rng.choice([0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, len(data)])
                data[place : place + 4] = struct.pack("<I", number)
        if len(data) < 2:
            break
    return bytes(data)


def with_pickle(rng, pickled):
    """A sound archive with another pickle."""
    base = base_of(rng, ".pt")
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(base.data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            is_pickle = name.endswith("/data.pkl")
            new.writestr(name, pickled(old.read(name)) if is_pickle else old.read(name))
    return ".pt", buffer.getvalue(), None


def damaged_pickle(rng):
    return with_pickle(rng, lambda data: scrambled(rng, data, data))


def other_opcodes(rng):
    """The pickle's opcodes in another order, with other arguments, or with others among them."""

    def change(data):
        places = [place for _, _, place in pickletools.genops(data)]
        opcodes = [
            data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)
        ]
        for _ in range(rng.choice([1, 1, 2, 4])):
            place, other = rng.randrange(len(opcodes)), rng.randrange(len(opcodes))
            match rng.randrange(5):
                case 0:
                    opcodes[place] = random_opcode(rng)
                case 1:
                    opcodes.insert(place, random_opcode(rng))
                case 2:
                    opcodes[place], opcodes[other] = opcodes[other], opcodes[place]
                case 3:
                    opcodes.insert(place, opcodes[other])
                case 4:
                    del opcodes[place : place + rng.choice([1, 1, 3, 20])]
            opcodes = opcodes or [b"."]
        return b"".join(opcodes)

    return with_pickle(rng, change)


def random_opcodes(rng):
    """A pickle of nothing but random opcodes; most go on from something that makes sense."""
    start = rng.choice(
        [
            b"\x80\x02",
            b"\x80\x02}X\x10\0\0\0model_state_dict}X\1\0\0\0w",
            b"\x80\x02}(X\x10\0\0\0model_state_dict}X\x08\0\0\0metadata}X\6\0\0\0config}",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((",
        ]
    )
    opcodes = [random_opcode(rng) for _ in range(rng.randrange(1, 40))]
    return with_pickle(rng, lambda _: start + b"".join(opcodes) + b".")


NAMES = (
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_sparse_tensor",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch FloatStorage",
    "torch BoolStorage",
    "torch float32",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter_with_state",
    "torch._tensor _rebuild_from_type_v2",
    "torch.storage UntypedStorage",
    "torch Tensor",
    "torch QInt8Storage",
    "numpy._core.multiarray scalar",
    "numpy dtype",
    "_codecs encode",
    "argparse Namespace",
    "os system",
    "builtins getattr",
    "\x1b[31m x",
)


def random_opcode(rng):
    opcode = rng.choice(pickletools.opcodes)
    code = opcode.code.encode("latin-1")
    small = rng.randrange(40)
    text = rng.choice(["", "storage", "0", "1", "cpu", "w", "step", "\x1b[2J", "x" * 300]).encode()
    if opcode.name in ("GLOBAL", "INST"):
        return code + rng.choice(NAMES).replace(" ", "\n").encode() + b"\n"
    if opcode.name == "LONG1":
        return code + b"\x09" + rng.randbytes(9)
    match opcode.arg and opcode.arg.name:
        case None:
            return code
        case "uint1":
            return code + bytes([small])
        case "uint2":
            return code + struct.pack("<H", small)
        case "int4" | "uint4":
            return code + struct.pack("<i", rng.choice([small, -1, 2**31 - 1]))
        case "uint8":
            return code + struct.pack("<Q", rng.choice([small, 2**62]))
        case "float8":
            return code + struct.pack(">d", rng.choice([0.5, float("nan"), 1e300]))
        case "unicodestring1" | "bytes1" | "string1":
            return code + bytes([len(text[:255])]) + text[:255]
        case "unicodestring4" | "bytes4" | "string4" | "long4":
            return code + struct.pack("<I", len(text)) + text
        case "unicodestring8" | "bytes8" | "bytearray8":
            return code + struct.pack("<Q", len(text)) + text
        case "stringnl" | "unicodestringnl" | "stringnl_noescape":
            return code + b"'" + text + b"'\n"
        case _:  # numbers as text
            return code + rng.choice([b"1", b"-1", b"9" * 5000, b"x"]) + b"\n"


def other_content(suffix):
    """A sound file of a checkpoint in which some things are not what they should be."""
    write = {".pt": torch_file.write, ".safetensors": safetensors_file.write}[suffix]

    def make(rng):
        content = rearranged(rng, base_of(rng, suffix).content)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "x")
            try:
                write(path, content)
            except BridgeError:  # no such file can be written
                return make(rng)
            return suffix, path.read_bytes(), None

    return make


def rearranged(rng, content):
    content = copied(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(places_in(content))
        # Half of the time one of the few that are not in the optimizer's long lists.
        few = [place for place in places if len(place[2]) < 3]
        container, key, _ = rng.choice(few if rng.random() < 0.5 else places)
        value = container[key]
        match rng.randrange(9):
            case 0 | 1 | 2:
                container[key] = odd(rng)
            case 3:
                del container[key]
            case 4:
                other, other_key, _ = rng.choice(places)
                if other_key in other if isinstance(other, dict) else other_key < len(other):
                    container[key], other[other_key] = copied(other[other_key]), copied(value)
            case 5:
                container[key] = rng.choice([[value], (value,), {"a": value}, {0: value}])
            case 6 if isinstance(container, dict):
                names = ["", f"module.{key}", f"{key}x", "\x1b[31m\n", "k" * 999, 7, None, 2.5]
                container[rng.choice(names)] = container.pop(key)
            case 7 if type(value) in (int, float, bool):
                changes = [-value, value + 1, value * 2, float(value), str(value), value * 10**9]
                container[key] = rng.choice(changes)
            case 8 if isinstance(value, Tensor):
                container[key] = other_tensor(rng, value)
    return content


def copied(value):
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def places_in(container, path=()):
    keys = list(container) if isinstance(container, dict) else range(len(container))
    for key in keys:
        yield container, key, path
        if isinstance(container[key], dict | list):
            yield from places_in(container[key], (*path, key))


def other_tensor(rng, tensor):
    values = tensor.read()
    match rng.randrange(6):
        case 0:
            values = values.astype(rng.choice([np.float16, np.float64, np.int64, np.bool_]))
        case 1:
            values = values.reshape(-1)
        case 2:
            values = values[None]
        case 3:
            values = values.reshape(-1)[:0]
        case 4:
            values = values.T
        case 5:
            values = np.full_like(values, rng.choice([0, -1, 2, 1e9]))
            if values.dtype.kind == "f" and rng.random() < 0.5:
                values = np.full_like(values, rng.choice([np.nan, np.inf]))
    return tensor_of(np.ascontiguousarray(values).reshape(values.shape))


def odd(rng):
    return rng.choice(
        [
            *(None, True, False, 0, 1, -1, 2, 3, 4, 2**31, 2**53, 2**63, -(2**64), 10**200),
            *(0.0, -0.0, 0.5, float("nan"), float("inf"), -float("inf"), 1e300, 5e-324),
            *("", "x", "MMRecModel", "\x1b[31m", "a\nb\r\0", "\ud800", "y" * 9999, "nan", "0"),
            *([], {}, (), [[]], [0, 0], [1.0], {"a": 1}, {0: {}}, {None: None}, [{}, {}], (1, "b")),
            tensor_of(np.float32(3.0)),
            tensor_of(np.zeros(0, np.float32)),
            tensor_of(np.zeros((2, 0, 3), np.int8)),
            tensor_of(np.arange(4)),
        ]
    )


def other_header(rng):
    """A .safetensors file whose header is well-formed JSON of the right length, and wrong."""
    base = base_of(rng, ".safetensors")
    length = struct.unpack("<Q", base.data[:8])[0]
    header = json.loads(base.data[8 : 8 + length])
    foreign = rng.random() < 0.5
    if foreign:  # as another program would have written it, without checksums
        header["__metadata__"] = {"format": "pt", "lm_head.weight": "embedding.weight"}
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = list(places_in(header))
        container, key, _ = rng.choice(places)
        match rng.randrange(5):
            case 0:
                container[key] = rng.choice(
                    [None, -1, 0, 1, 3, 2**63, 10**4000, 0.5, "", "F32", "x" * 999, [], [0], {}]
                )
            case 1:
                del container[key]
            case 2 if isinstance(container, dict):
                container[rng.choice(["", "dtype", "\x1b", "__metadata__", "w" * 999])] = (
                    container.pop(key)
                )
            case 3 if type(container[key]) is int:
                container[key] += rng.choice([-4, -1, 1, 4, 64])
            case 4:
                other, other_key, _ = rng.choice(places)
                if other_key in other if isinstance(other, dict) else other_key < len(other):
                    container[key] = copy.deepcopy(other[other_key])
    text = json.dumps(header).encode()
    return ".safetensors", struct.pack("<Q", len(text)) + text + base.data[8 + length :], None


KINDS = {
    "bytes of a .pt": (raw(".pt"), 1400),
    "bytes of a .safetensors": (raw(".safetensors"), 1200),
    "bytes of a pickle": (damaged_pickle, 800),
    "opcodes of a pickle": (other_opcodes, 800),
    "random opcodes": (random_opcodes, 500),
    "content of a .pt": (other_content(".pt"), 700),
    "content of a .safetensors": (other_content(".safetensors"), 500),
    "header of a .safetensors": (other_header, 600),
}


def load(path, *, model_only=False):
    """What a file loads as, or the typed error that it gives; any other exception is a bug."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)
        try:
            return LOAD[path.suffix](path, model_only=model_only)
        except BridgeError as error:
            line = str(error)
            assert line.startswith(f"{path}: ")
            assert line.isprintable(), line
            if isinstance(error, MismatchError):
                items = [item for items in error.problems.values() for item in items]
                assert all(len(item) < 400 for item in items), line
            else:
                assert len(line) < len(str(path)) + 400, line
            return error


def run(kind, seed, count, folder, slowest=10.0):
    """Makes and loads files of one kind; counts what came out by name."""
    make, _ = KINDS[kind]
    outcomes = Outcome()
    rng = random.Random(f"{kind} {seed}")
    for number in range(count):
        suffix, data, expected = make(rng)
        path = folder / f"{kind.replace(' ', '_')}{suffix}"
        path.write_bytes(data)
        start = time.process_time()
        try:
            loaded = load(path)
            if isinstance(loaded, BridgeError):
                outcomes[type(loaded).__name__] += 1
            elif expected is not None:
                assert bits(loaded) == expected, "something else than the original was loaded"
                outcomes["the same"] += 1
            else:
                outcomes[kept(loaded, path)] += 1
            if number % 4 == 0:
                alone = load(path, model_only=True)
                # Whatever is wrong with the rest, the weights are the same.
                if not isinstance(loaded, BridgeError):
                    assert bits(alone)[:2] == bits(loaded)[:2]
            assert time.process_time() - start < slowest
        except Exception as error:
            error.add_note(f"file {number} of {kind!r}, seed {seed}: {path}")
            raise
    assert [path.name for path in folder.iterdir()] == [path.name]
    path.unlink()
    return outcomes


def kept(loaded, path):
    """Whatever was loaded can be saved, and is the same again; or saving says what is wrong."""
    again = path.with_name(f"again{path.suffix}")
    try:
        SAVE[path.suffix](again, loaded.model, **loaded.training_state())
    except BridgeError as error:
        assert str(error).isprintable()
        return "loaded, not saved"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)
        reloaded = LOAD[path.suffix](again)
    again.unlink()
    names, values, state, _ = bits(loaded)
    assert bits(reloaded)[:3] == (names, values, state)
    assert repr((reloaded.step, reloaded.avg_loss, reloaded.scheduler_state, reloaded.config)) == (
        repr((loaded.step, loaded.avg_loss, loaded.scheduler_state, loaded.config))
    )
    return "loaded"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_file_gives_a_typed_error_or_does_no_harm(kind, tmp_path):
    _, count = KINDS[kind]
    outcomes = run(kind, 0, count, tmp_path)
    print(kind, dict(outcomes))
    assert sum(outcomes.values()) == count
    errors = sum(outcomes[error.__name__] for error in BridgeError.__subclasses__())
    # Neither is every file caught at the door, nor does nothing get through.
    assert errors > count / 3
    assert len(outcomes) >= 2


def test_there_are_enough_files():
    assert sum(count for _, count in KINDS.values()) >= 5000


def test_a_pickle_of_protocol_4_is_read(tmp_path):
    """What random opcodes hardly make: each opcode that a pickle may use, used well."""
    value = {
        "model_state_dict": {},
        "metadata": {"a": [1, 2**40, 2.5, "é" * 300, None, (1, 2, 3, 4)]},
    }
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(value, protocol=4))
    with torch_file.reading(path) as content:
        assert content == value
