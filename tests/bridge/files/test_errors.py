"""Every way in which a file can be wrong gives one typed, one-line error; nothing is executed."""

import argparse
import dataclasses
import datetime
import os
import pathlib
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.paths import GOLDEN

import bridge
from bridge import (
    BridgeError,
    FormatError,
    MismatchError,
    UnreadableFileError,
    UnsafeFileError,
    UnwritableFileError,
    load_torch,
    save_torch,
)

EXPERT = GOLDEN / "expert" / "checkpoint.pt"


class Executes:
    """Creates a file named `executed` when it is unpickled."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def content_of(folder):
    return torch.load(GOLDEN / folder / "checkpoint.pt", weights_only=True)


def truncated(path, share):
    data = EXPERT.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def torch_script(path):
    """As torch.jit.save writes it: its code is compressed."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"a/{name}", pickle.dumps({}, protocol=2))
        archive.writestr("a/code/__torch__.py", "pass\n" * 99, zipfile.ZIP_DEFLATED)


FILES = {
    "missing": (
        lambda path: None,
        UnreadableFileError,
        "No such file or directory; correct the path$",
    ),
    "misspelt": (
        lambda path: path.with_name(f"{path.name}h").touch(),
        UnreadableFileError,
        r"No such file .*; did you mean .*\.pth\?$",
    ),
    "Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        UnreadableFileError,
        "a Git LFS pointer, not the file itself: run git lfs pull",
    ),
    "web page": (
        lambda path: path.write_text("\n<!DOCTYPE html>\n<html>Not found</html>"),
        UnreadableFileError,
        "a web page, not the file itself: download it again",
    ),
    "JSON": (
        lambda path: path.write_text('{"a": 1}'),
        UnreadableFileError,
        "a text file, not a checkpoint: name a .pt or .safetensors file",
    ),
    "TorchScript": (
        torch_script,
        UnreadableFileError,
        r"a TorchScript archive.*save its state_dict\(\) with torch.save",
    ),
    "folder": (lambda path: path.mkdir(), UnreadableFileError, "Is a directory"),
    "empty": (lambda path: path.touch(), UnreadableFileError, "the file is empty"),
    "text": (lambda path: path.write_text("hello\n" * 99), UnreadableFileError, "not a checkpoint"),
    "code": (lambda path: path.write_text("import os\n"), UnreadableFileError, "not a checkpoint"),
    "zeros": (lambda path: path.write_bytes(bytes(999)), UnreadableFileError, "not a checkpoint"),
    "half": (lambda path: truncated(path, 0.5), UnreadableFileError, "damaged"),
    "start": (lambda path: truncated(path, 0.001), UnreadableFileError, "damaged"),
    "no end": (lambda path: truncated(path, 0.999), UnreadableFileError, "damaged"),
    "executes": (
        lambda path: torch.save({"model_state_dict": Executes()}, path),
        UnsafeFileError,
        "pickled _?io.open",
    ),
    "executes, legacy format": (
        lambda path: torch.save(Executes(), path, _use_new_zipfile_serialization=False),
        UnreadableFileError,
        "save an older one again with a newer torch",
    ),
    "executes, bare pickle": (
        lambda path: path.write_bytes(pickle.dumps(Executes(), protocol=2)),
        UnreadableFileError,
        "not a checkpoint",
    ),
    "module": (
        lambda path: torch.save(torch.nn.Linear(2, 3), path),
        UnsafeFileError,
        "pickled torch.nn.modules.linear.Linear",
    ),
    "namespace": (
        lambda path: torch.save({"args": argparse.Namespace(a=1)}, path),
        UnsafeFileError,
        "pickled argparse.Namespace",
    ),
    "list": (lambda path: torch.save([1, 2], path), FormatError, "holds a list"),
    "nothing": (lambda path: torch.save({}, path), FormatError, "holds neither"),
    "numbers": (lambda path: torch.save({"a": 1}, path), FormatError, "holds neither"),
    "no dictionary": (
        lambda path: torch.save({"model_state_dict": 3}, path),
        FormatError,
        "model_state_dict is not a dictionary",
    ),
    "no tensor": (
        lambda path: torch.save({"model_state_dict": {"norm.weight": 3}}, path),
        FormatError,
        "'norm.weight' in the state dict is a int",
    ),
    "metadata": (
        lambda path: torch.save({**content_of("expert"), "metadata": 3}, path),
        FormatError,
        "metadata is not a dictionary",
    ),
    "step": (
        lambda path: torch.save({**content_of("expert"), "step": float("inf")}, path),
        FormatError,
        "step is inf",
    ),
    "avg_loss": (
        lambda path: torch.save({**content_of("expert"), "avg_loss": "low"}, path),
        FormatError,
        "avg_loss is 'low'",
    ),
    "several steps": (
        lambda path: torch.save({**content_of("expert"), "step": torch.tensor([5, 6])}, path),
        FormatError,
        r"step is a tensor \[2\], not a whole number",
    ),
}


@pytest.mark.parametrize(("make", "kind", "message"), FILES.values(), ids=FILES.keys())
def test_a_wrong_file_gives_one_line(make, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "wrong.pt")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind, match=message) as caught:
        load_torch("wrong.pt")
    assert str(caught.value).startswith("wrong.pt: ")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def mismatch(tmp_path):
    """Loads a golden file with changed tensors and returns the problems."""

    def problems(folder, change):
        content = content_of(folder)
        change(content["model_state_dict"])
        torch.save(content, tmp_path / "changed.pt")
        with pytest.raises(MismatchError) as caught:
            load_torch(tmp_path / "changed.pt")
        message = str(caught.value)
        assert "\n" not in message
        assert all(item in message for items in caught.value.problems.values() for item in items)
        return caught.value.problems

    return problems


def test_all_problems_are_listed_at_once(mismatch):
    def change(tensors):
        del tensors["blocks.0.W_q.bias"]
        del tensors["norm.weight"]
        tensors["blocks.0.W_x.weight"] = torch.zeros(2)
        tensors["module.blocks.1.W_z.bias"] = torch.zeros(32)
        tensors["blocks.1.ffn.0.weight"] = torch.zeros(32, 80)
        tensors["blocks.1.W_k.bias"] = torch.zeros(32, dtype=torch.float64)

    assert mismatch("base", change) == {
        "missing": ["blocks.0.W_q.bias", "norm.weight"],
        "unexpected": ["blocks.0.W_x.weight"],
        "duplicate": ["blocks.1.W_z.bias"],
        "misshapen": ["blocks.1.ffn.0.weight is [32, 80], not [80, 32]"],
        "of the wrong type": ["blocks.1.W_k.bias (float64)"],
    }


def test_untied_tensors_are_an_error(mismatch):
    def change(tensors):
        tensors["lm_head.weight"][159, 31] += 1

    assert mismatch("base", change) == {
        "of wrong values": ["lm_head.weight is not embedding.weight"]
    }


def test_other_powers_are_an_error(mismatch):
    def reverse(tensors):
        tensors["blocks.1.ffn.router.powers"] = torch.tensor([4, 2, 1])

    def round_off(tensors):
        tensors["blocks.0.ffn.router.powers"] = torch.tensor([1.0, 2.0, 4.0])

    assert mismatch("base_sparse", reverse) == {
        "of wrong values": ["blocks.1.ffn.router.powers is not 1, 2, 4, ..."]
    }
    assert mismatch("base_sparse", round_off) == {
        "of the wrong type": ["blocks.0.ffn.router.powers (float32)"]
    }


def test_another_class_than_stated_is_a_mismatch(tmp_path):
    content = content_of("expert")
    content["metadata"]["model_class"] = "MMRecModel"
    content["metadata"]["config"]["vocab_size"] = 160
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(MismatchError, match="not those of the class MMRecModel") as caught:
        load_torch(tmp_path / "changed.pt")
    assert caught.value.problems["missing"] == ["embedding.weight", "lm_head.weight"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model = load_torch(EXPERT).model
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UnwritableFileError, match=r"model\.pt: .*No space left"):
            save_torch(path, model)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pt"]
    save_torch(path, model)
    assert os.listdir(tmp_path) == ["model.pt"]
    assert load_torch(path).config.num_layers == 2


def test_places_that_cannot_be_written_are_named(tmp_path):
    model = load_torch(EXPERT).model
    with pytest.raises(UnwritableFileError, match="No such file or directory"):
        save_torch(tmp_path / "no" / "such" / "folder.pt", model)
    with pytest.raises(UnwritableFileError, match="it is a folder"):
        save_torch(tmp_path, model)


def test_metadata_is_made_plain(tmp_path):
    @dataclasses.dataclass
    class Notes:
        rate: float

    metadata = {
        "rate": np.float32(0.5),
        "loss": jnp.float32(2.5),
        "path": pathlib.Path("a/b"),
        "day": datetime.date(2026, 1, 2),
        "notes": Notes(rate=np.float64(3.0)),
        "counts": np.arange(3),
        "shape": (1, [np.int64(2)]),
        "model_class": "another",
        "config": {"max_seq_len": 7, "num_layers": 99},
    }
    save_torch(tmp_path / "a.pt", load_torch(EXPERT).model, metadata=metadata, step=np.int32(3))
    loaded = load_torch(tmp_path / "a.pt")
    config = loaded.metadata.pop("config")
    assert (config["max_seq_len"], config["num_layers"]) == (7, 2)
    assert loaded.step == 3
    assert loaded.metadata == {
        "rate": 0.5,
        "loss": 2.5,
        "path": "a/b",
        "day": "2026-01-02",
        "notes": {"rate": 3.0},
        "counts": [0, 1, 2],
        "shape": (1, [2]),
        "model_class": "ExpertModule",
    }
    with pytest.raises(FormatError, match=r"metadata\['a'\]\[1\] cannot be kept: a object"):
        save_torch(tmp_path / "b.pt", loaded.model, metadata={"a": [1, object()]})


def test_only_our_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match="expected one of MMRecModel"):
        save_torch(tmp_path / "a.pt", nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


def test_every_error_is_a_bridge_error():
    errors = [getattr(bridge, name) for name in bridge.__all__ if name.endswith("Error")]
    assert len(errors) == 7
    assert all(issubclass(error, BridgeError) for error in errors)
