"""Pickled objects: numbers of numpy's are read, any others say what to save instead.

With model_only the weights are read whatever else a file holds; nothing is ever executed.
"""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import os
import pathlib
import pickle
import types
import uuid
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.hostile_torch import TORCH_FILES
from helpers.paths import GOLDEN

from bridge import (
    BridgeError,
    FormatError,
    UnsafeFileError,
    load,
    load_partial,
    load_torch,
    save_torch,
)
from bridge.__main__ import main
from bridge.files import torch_file
from bridge.weights import tensors_of

FUSION = GOLDEN / "fusion_concatenate" / "checkpoint.pt"
EXPERT = GOLDEN / "expert" / "checkpoint.pt"
PROTOCOLS = (2, 5)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Notes:
    rate: float = 0.5


class Settings(dict):
    pass


class Names(list):
    pass


class Net(torch.nn.Module):
    pass


Pair = collections.namedtuple("Pair", "a b")


class Subclass(torch.Tensor):
    pass


class Executes:
    def __reduce__(self):
        return (os.system, ("touch executed",))


OBJECTS = {
    "Namespace": (argparse.Namespace(a=1), "vars(args)"),
    "SimpleNamespace": (types.SimpleNamespace(a=1), "vars(x)"),
    "defaultdict": (collections.defaultdict(list, {"a": [1]}), "dict(x)"),
    "Counter": (collections.Counter("aab"), "dict(x)"),
    "deque": (collections.deque([1, 2]), "list(x)"),
    "range": (range(3), "list(x)"),
    "Path": (pathlib.Path("/data/run"), "str(path)"),
    "datetime": (datetime.datetime(2026, 1, 2, 3, 4), "x.isoformat()"),
    "date": (datetime.date(2026, 1, 2), "x.isoformat()"),
    "timedelta": (datetime.timedelta(hours=1), "x.total_seconds()"),
    "set": ({1, 2}, "sorted(x)"),
    "frozenset": (frozenset({1}), "sorted(x)"),
    "bytes": (b"abc", "list(x)"),
    "long bytes": (b"abc" * 99, "list(x)"),
    "bytearray": (bytearray(b"abc"), "list(x)"),
    "complex": (1j, "[x.real, x.imag]"),
    "Decimal": (decimal.Decimal("1.5"), "float(x)"),
    "Fraction": (fractions.Fraction(1, 2), "float(x)"),
    "UUID": (uuid.UUID(int=7), "str(x)"),
    "enum": (Colour.RED, "x.value"),
    "number of an enum": (Level.HIGH, "x.value"),
    "dataclass": (Notes(), "vars(x)"),
    "named tuple": (Pair(1, 2), "tuple(x)"),
    "function": (os.path.join, "x.__name__"),
    "array": (np.arange(3), "x.tolist()"),
    "long text of numpy's": (np.str_("x" * 65), "str(x)"),
    "numpy's date": (np.datetime64("2026-01-02"), "str(x)"),
    "long double": (np.longdouble(2), "float(x)"),
    "complex of numpy's": (np.complex64(1), "[x.real, x.imag]"),
    "numpy's generator": (np.random.default_rng(0), "x.bit_generator.state"),
    "bfloat16 of numpy's": (np.ones(1, jnp.bfloat16)[0], "x.item()"),
    "array of JAX's": (jnp.float32(1), "x.tolist()"),
    "type of numbers": (np.float32, "x.__name__"),
    "structured scalar": (np.zeros(1, "i4,f4")[0], "x.item()"),
    "dtype of numpy's": (np.dtype("f4"), "str(x)"),
    "dictionary of a class": (Settings(a=1), "dict(x)"),
    "list of a class": (Names("ab"), "list(x)"),
    "module of a class": (Net(), "x.state_dict()"),
    "module": (torch.nn.Linear(2, 3), "x.state_dict()"),
    "optimizer": (torch.optim.SGD([torch.zeros(1)], lr=1.0), "x.state_dict()"),
    "generator": (torch.Generator(), "x.get_state()"),
    "tensor of a subclass": (torch.zeros(2).as_subclass(Subclass), "x.as_subclass(torch.Tensor)"),
}

NUMBERS = {
    "float64": (np.float64(2.5), 2.5),
    "float32": (np.float32(0.5), 0.5),
    "float16": (np.float16(-0.5), -0.5),
    "infinity": (np.float64(np.inf), math.inf),
    "int64": (np.int64(-(2**62)), -(2**62)),
    "int8": (np.int8(-3), -3),
    "uint64": (np.uint64(2**63), 2**63),
    "uint8": (np.uint8(255), 255),
    "bool": (np.bool_(True), True),
    "big-endian": (np.array([1.5, 2.5], ">f8")[1], 2.5),
    "text": (np.str_("caf\u00e9 \U0001f642"), "caf\u00e9 \U0001f642"),
    "big-endian text": (np.array(["abc"], ">U3")[0], "abc"),
    "dtype of torch's": (torch.float32, "torch.float32"),
    "another dtype of torch's": (torch.float8_e4m3fn, "torch.float8_e4m3fn"),
    "device": (torch.device("cuda", 1), "cuda:1"),
    "size": (torch.Size([2, 3]), (2, 3)),
    "ordered dictionary": (collections.OrderedDict(a=1), {"a": 1}),
}


def saved(path, change, source=FUSION, protocol=2):
    content = torch.load(source, weights_only=True)
    content = change(content) or content
    torch.save(content, path, pickle_protocol=protocol)
    return path


def bits_of(model):
    return {name: tensor.read().tobytes() for name, tensor in tensors_of(model).items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("value", "wanted"), NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_are_read_as_numbers(value, wanted, protocol, tmp_path):
    def change(content):
        content["metadata"] |= {"x": value, "more": [value, {"y": value}]}

    loaded = load_torch(saved(tmp_path / "a.pt", change, protocol=protocol))
    found = loaded.metadata["x"]
    assert found == wanted
    assert type(found) is type(wanted)
    assert loaded.metadata["more"] == [wanted, {"y": wanted}]


def test_numbers_by_numpy_s_older_names_are_read(tmp_path):
    content = {"model_state_dict": {}, "x": [np.float64(2.5), np.int32(7), np.bool_(False)]}
    data = pickle.dumps(content, protocol=2)
    assert b"numpy._core.multiarray" in data
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", data.replace(b"numpy._core.", b"numpy.core."))
    with torch_file.reading(tmp_path / "a.pt") as found:
        assert found == content


def test_numbers_of_numpy_are_read_wherever_a_number_is_needed(tmp_path):
    def change(content):
        content["step"], content["avg_loss"] = np.int64(7), np.float32(1.5)
        config = content["metadata"]["config"]
        content["metadata"]["config"] = {
            key: np.int32(value) if type(value) is int else value for key, value in config.items()
        }

    loaded = load_torch(saved(tmp_path / "a.pt", change, EXPERT))
    assert (loaded.step, loaded.avg_loss) == (7, 1.5)
    assert loaded.config == load_torch(EXPERT).config


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_refused_with_what_to_save_instead(name, protocol, tmp_path):
    value, remedy = OBJECTS[name]

    def change(content):
        content["metadata"]["notes"] = [{"x": value}]

    path = saved(tmp_path / "a.pt", change, protocol=protocol)
    with pytest.raises(UnsafeFileError) as caught:
        load_torch(path)
    line = str(caught.value)
    assert "nothing was executed: save " in line
    assert f"save {remedy}" in line
    assert "(metadata['notes'][0]['x'])" in line
    assert "--model-only" in line
    assert len(line) < len(str(path)) + 400
    loaded = load_torch(path, model_only=True)
    assert bits_of(loaded.model) == bits_of(load_torch(FUSION).model)
    assert loaded.metadata["notes"] == [{}]
    assert loaded.metadata["config"] == load_torch(FUSION).metadata["config"]


def test_all_kinds_of_objects_are_named_at_once(tmp_path):
    def change(content):
        content["args"] = argparse.Namespace(a=1)
        content["metadata"] |= {
            "path": pathlib.Path("a"),
            "paths": {pathlib.Path("b"): 1},
            "day": datetime.date(2026, 1, 2),
            "seen": {1},
            "loss": decimal.Decimal(1),
        }

    path = saved(tmp_path / "a.pt", change)
    with pytest.raises(UnsafeFileError) as caught:
        load_torch(path)
    line = caught.value.message
    assert "save str(path) instead (metadata['path']), x.isoformat() for datetime.date" in line
    for part in ("sorted(x) for builtins.set (metadata['seen'])", "float(x) for", " and 1 more; "):
        assert part in line
    assert load_torch(path, model_only=True).metadata.keys() == {"model_class", "config", "paths"}


NONSENSE = {
    "step": float("nan"),
    "step that is an object": {"step": decimal.Decimal(3)},
    "avg_loss": "low",
    "loss": [1],
    "metadata": 3,
    "optimizer_state_dict": "adam",
    "scheduler_state_dict": [7],
    "args": argparse.Namespace(num_layers=99),
    "model_config": {1, 2},
    "rng": np.random.default_rng(0),
    "history": [{"loss": np.arange(3), "when": datetime.date(2026, 1, 2)}],
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_besides_the_weights_is_left_out_on_request(name, tmp_path, capsys):
    def change(content):
        value = NONSENSE[name]
        content |= value if name == "step that is an object" else {name: value}

    path = saved(tmp_path / "a.pt", change)
    if name not in ("loss", "rng", "history"):  # these are never needed
        with pytest.raises(BridgeError):
            load_torch(path)
    for loaded in (
        load_torch(path, model_only=True),
        load(path, model_only=True),
        load_partial(path, model_only=True)[0],
    ):
        assert bits_of(loaded.model) == bits_of(load_torch(FUSION).model)
        assert (loaded.step, loaded.optimizer_state, loaded.scheduler_state) == (0, None, None)
        save_torch(tmp_path / "again.pt", loaded.model, **loaded.training_state())
    assert main(["from-torch", str(path), str(tmp_path / "run"), "--model-only"]) == 0


METADATA = {
    "tuple as a key": {(1, 2): 3},
    "huge number as a key": {2**70: 3},
    "long number": 2**5000,
    "class": {"model_class": "SomebodysModel"},
    "class that is an object": {"model_class": Colour.RED},
    "config that is an object": {"config": argparse.Namespace(num_layers=3)},
    "config with an object": {"config": {"run": pathlib.Path("a")}},
    "class of torch's": {"x": torch.nn.Parameter},
    "storage": {"x": torch.zeros(2).untyped_storage()},
    "sparse tensor": {"x": torch.zeros(2, 3).to_sparse()},
    "tensor without values": {"x": torch.zeros(2, device="meta")},
}


@pytest.mark.parametrize("name", [*METADATA, "nested", "in itself"])
def test_metadata_may_hold_anything_if_only_the_weights_are_read(name, tmp_path):
    def change(content):
        if name == "nested":
            value = []
            for _ in range(300):
                value = [value]
        elif name == "in itself":
            value = [{}]
            value[0]["x"] = value
        else:
            value = METADATA[name]
        content["metadata"] |= value if isinstance(value, dict) else {"x": value}

    path = saved(tmp_path / "a.pt", change)
    with pytest.raises(BridgeError):
        load_torch(path)
    model = load_torch(path, model_only=True).model
    assert bits_of(model) == bits_of(load_torch(FUSION).model)


def test_config_is_read_in_spite_of_what_is_beside_it(tmp_path):
    def change(content):
        content["metadata"]["config"] |= {"run": pathlib.Path("a"), "dropout": np.float64(0.25)}
        content["metadata"]["day"] = datetime.date(2026, 1, 2)

    loaded = load_torch(saved(tmp_path / "a.pt", change, EXPERT), model_only=True)
    assert loaded.config == dataclasses.replace(load_torch(EXPERT).config, dropout=0.25)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda c: c["model_state_dict"].update(note=pathlib.Path("a")),
            UnsafeFileError,
            r"PosixPath.*save str\(path\) instead \(note\)$",
        ),
        (
            lambda c: c.update(model_state_dict=collections.defaultdict(int, {})),
            UnsafeFileError,
            r"defaultdict.*save dict\(x\) instead \(model_state_dict\)$",
        ),
        (
            lambda c: Net(),
            UnsafeFileError,
            r"Net, and .*save x\.state_dict\(\) instead \(the whole file\)$",
        ),
        (lambda c: [1, 2], FormatError, "holds a list, not a checkpoint"),
        (
            lambda c: c["model_state_dict"].update(note=torch.zeros(2, 3).to_sparse()),
            FormatError,
            r"holds sparse tensors \(note\).*\.to_dense\(\)$",
        ),
    ],
    ids=["tensor", "state dict", "module", "list", "sparse"],
)
def test_what_the_weights_need_is_refused_all_the_same(change, kind, message, tmp_path):
    path = saved(tmp_path / "a.pt", change)
    with pytest.raises(kind, match=message):
        load_torch(path, model_only=True)


@pytest.mark.parametrize("where", ["metadata", "optimizer_state_dict", "hooks"])
def test_nothing_is_executed(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def change(content):
        content[where] = {"x": [Executes()], "y": Executes()}

    path = saved(tmp_path / "a.pt", change)
    if where == "hooks":
        assert load_torch(path).left_out == {"hooks": "a dictionary of 2 entries"}
    else:
        with pytest.raises(UnsafeFileError, match="nothing was executed"):
            load_torch(path)
    load_torch(path, model_only=True)
    assert not pathlib.Path("executed").exists()
    torch.load(path, weights_only=False)  # which would
    assert pathlib.Path("executed").exists()


@pytest.mark.parametrize("name", TORCH_FILES)
def test_a_hostile_file_is_harmless_without_its_metadata_too(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build, _, _ = TORCH_FILES[name]
    build(tmp_path / "hostile.pt")
    before = sorted(tmp_path.iterdir())
    try:
        load_torch("hostile.pt", model_only=True)
    except BridgeError as error:
        assert str(error).startswith("hostile.pt: ")
        assert str(error).isprintable()
        assert len(str(error)) < 500
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_nothing_came_of_is_refused_too(tmp_path):
    """It is no accident that a file mentions one and hides it."""
    data = pickle.dumps({"model_state_dict": {}}, protocol=2)
    hidden = data[:2] + b"cos\nsystem\n0" + data[2:]
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", hidden)
    with pytest.raises(UnsafeFileError, match=r"pickled os\.system.*nothing was executed$"):
        load_torch(tmp_path / "a.pt")


def test_other_weights_of_a_file_are_read_whatever_else_it_holds(tmp_path):
    def change(content):
        content["ema_state_dict"] = content.pop("model_state_dict")
        content["args"] = argparse.Namespace(a=1)
        content["step"] = "many"
        content["rng"] = {"state": np.arange(3)}

    path = saved(tmp_path / "a.pt", change)
    with pytest.raises(FormatError, match="--weights ema_state_dict takes the tensors in there"):
        load_torch(path)
    loaded = load_torch(path, entry="ema_state_dict")
    assert bits_of(loaded.model) == bits_of(load_torch(FUSION).model)
    assert loaded.step == 0
    with pytest.raises(UnsafeFileError, match=r"pickled argparse.Namespace.*\(args\)"):
        load_torch(path, entry="args")
