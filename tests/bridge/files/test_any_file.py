"""The content decides what a file is, whatever its name; and a checkpoint may be several files."""

import json
import os
import shutil

import pytest
import safetensors.torch
import torch
from helpers.paths import GOLDEN

from bridge import (
    BridgeError,
    FileWarning,
    FormatError,
    MismatchError,
    UnreadableFileError,
    load,
    load_partial,
    load_safetensors,
    load_torch,
    save_file,
)
from bridge.__main__ import main
from bridge.weights import tensors_of

BASE = GOLDEN / "base" / "checkpoint.pt"
HEADS = load_torch(BASE).config.num_heads


def bits_of(model):
    return {name: tensor.read().tobytes() for name, tensor in tensors_of(model).items()}


def write(path, kind):
    """The golden base model as a file of a kind, whatever the path says."""
    if kind == ".pt":
        shutil.copy(BASE, path)
    else:
        save_file(path.with_name("model.safetensors"), load_torch(BASE))
        path.with_name("model.safetensors").rename(path)
    return path


@pytest.mark.parametrize("name", ["a.PT", "a.pth", "a.bin", "a.ckpt", "a.Pt", "a", "a.model"])
@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
def test_any_name_will_do(name, kind, tmp_path):
    path = write(tmp_path / name, kind)
    odd = kind == ".safetensors" and name not in ("a", "a.model")
    for read in (load, load_torch, load_safetensors):
        if odd:
            with pytest.warns(FileWarning, match=r"read as a \.safetensors file, .*its name"):
                model = read(path).model
        else:
            model = read(path).model
        assert bits_of(model) == bits_of(load_torch(BASE).model)


@pytest.mark.parametrize("metadata", [{"sha256": "ab" * 32}, {"checkpoint": "epoch 3"}])
def test_metadata_of_another_program_are_not_taken_for_ours(metadata, tmp_path):
    tensors = torch.load(BASE, weights_only=True)["model_state_dict"]
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata)
    found = load_safetensors(tmp_path / "a.safetensors", num_heads=HEADS)
    assert bits_of(found.model) == bits_of(load_torch(BASE).model)


@pytest.mark.parametrize("name", ["a.safetensors", "a.SafeTensors", "a.SAFETENSORS"])
def test_an_archive_by_the_name_of_safetensors_is_read(name, tmp_path, capsys):
    path = write(tmp_path / name, ".pt")
    with pytest.warns(FileWarning, match=r"read as a \.pt file, .*its name"):
        assert bits_of(load(path).model) == bits_of(load_torch(BASE).model)
    assert main(["from-torch", str(path), str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.startswith(f"warning: {path}: read as a .pt file")
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{path} (.pt, " in out
    assert "read as a .pt file" in out
    write(path, ".safetensors")
    assert bits_of(load(path).model) == bits_of(load_torch(BASE).model)


@pytest.mark.parametrize("name", ["out.PT", "out.SafeTensors"])
def test_capital_suffixes_name_a_format_to_write(name, tmp_path, capsys):
    assert main(["to-torch", str(BASE), str(tmp_path / name)]) == 0
    is_archive = (tmp_path / name).read_bytes()[:2] == b"PK"
    assert is_archive == (name == "out.PT")
    assert main(["verify", str(BASE), str(tmp_path / name)]) == 0
    assert capsys.readouterr().err == ""
    for other in ("out.pth", "out.bin", "out"):
        assert main(["to-torch", str(BASE), str(tmp_path / other)]) == 2
        assert "give it the suffix .pt or .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.bin"])
@pytest.mark.parametrize("data", [b"", b"hello" * 99, b"PK", b"{}" * 99, bytes(999)])
def test_what_is_neither_is_refused(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnreadableFileError, match=r"the file is empty|not a (checkpoint|\.safet)"):
        load(tmp_path / name)


# Checkpoints in several files.


def sharded(folder, parts=3, index="model.safetensors.index.json", torch_files=False):
    """The golden base model's weights in several files and an index, as other libraries do."""
    folder.mkdir(exist_ok=True)
    tensors = torch.load(BASE, weights_only=True)["model_state_dict"]
    tensors["lm_head.weight"] = tensors["lm_head.weight"].clone()
    suffix = "bin" if torch_files else "safetensors"
    stem = "pytorch_model" if torch_files else "model"
    places = {}
    for number in range(parts):
        file = f"{stem}-{number + 1:05}-of-{parts:05}.{suffix}"
        part = dict(list(tensors.items())[number::parts])
        save = torch.save if torch_files else safetensors.torch.save_file
        save(part, folder / file)
        places |= dict.fromkeys(part, file)
    content = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / index).write_text(json.dumps(content))
    return folder / index


@pytest.fixture
def index(tmp_path):
    return sharded(tmp_path / "model")


def rewrite(index, change):
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))


def part_of(index, number=1, parts=3):
    return index.with_name(f"model-{number:05}-of-{parts:05}.safetensors")


@pytest.mark.parametrize("torch_files", [False, True])
def test_several_files_are_read_as_one_checkpoint(torch_files, tmp_path, capsys):
    name = "pytorch_model.bin.index.json" if torch_files else "model.safetensors.index.json"
    index = sharded(tmp_path / "model", index=name, torch_files=torch_files)
    for path in (index, index.parent):
        model = load(path, num_heads=HEADS).model
        assert bits_of(model) == bits_of(load_torch(BASE).model)
        _, report = load_partial(path, num_heads=HEADS)
        assert report.complete
        capsys.readouterr()
        assert main(["inspect", str(path), "--num-heads", str(HEADS)]) == 0
        size = sum(file.stat().st_size for file in index.parent.iterdir())
        out = capsys.readouterr().out
        assert f"{index} ({'.pt' if torch_files else '.safetensors'}, several files, " in out
        assert f", {size / 1000:.3g} kB)" in out
    command = ["from-torch", str(index.parent), str(tmp_path / "run"), "--num-heads", str(HEADS)]
    assert main(command) == 0
    assert bits_of(load(tmp_path / "run").model) == bits_of(load_torch(BASE).model)


def test_an_index_of_safetensors_comes_first(tmp_path):
    sharded(tmp_path / "m", index="pytorch_model.bin.index.json", torch_files=True)
    index = sharded(tmp_path / "m")
    for file in index.parent.glob("*.bin"):
        file.unlink()
    assert load(index.parent, num_heads=HEADS).config.num_heads == HEADS
    shutil.copy(index, index.with_name("model.fp16.safetensors.index.json"))
    with pytest.raises(FormatError, match=r"several .*model\.fp16\.safetensors\.index\.json"):
        load(index.parent)


def test_a_folder_of_files_without_an_index_names_them(tmp_path):
    write(tmp_path / "model.safetensors", ".safetensors")
    write(tmp_path / "old.PTH", ".pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnreadableFileError, match=r"name that: model\.safetensors, old\.PTH$"):
        load(tmp_path)


def test_one_part_is_not_taken_for_the_whole(index):
    part = part_of(index, 2)
    for read in (load, load_torch, load_safetensors, load_partial):
        with pytest.raises(FormatError, match=rf"one of the 3 files .*: give {index}, which"):
            read(part)
    index.unlink()
    with (
        pytest.warns(FileWarning, match=r"part 2 of 3, and no index .*model\.safetensors\.index"),
        pytest.raises(MismatchError, match=r"\d+ missing"),
    ):
        load(part, num_heads=HEADS)
    with pytest.raises(UnreadableFileError, match="holds no complete checkpoint"):
        load(index.parent)


def test_a_checkpoint_of_one_part_is_read_by_its_own_name_too(tmp_path):
    index = sharded(tmp_path / "model", parts=1)
    for path in (index, index.parent, part_of(index, 1, 1)):
        assert load(path, num_heads=HEADS).config.num_heads == HEADS


def test_a_file_beside_another_checkpoint_is_no_part_of_it(index):
    other = index.with_name("other.pt")
    shutil.copy(BASE, other)
    index.with_name("damaged.index.json").write_text("{")
    assert bits_of(load(other).model) == bits_of(load_torch(BASE).model)


WRONG = {
    "missing part": (
        lambda index: part_of(index, 3).unlink(),
        UnreadableFileError,
        r"-00003-of-00003\.safetensors: cannot be read: No such file",
    ),
    "truncated part": (
        lambda index: part_of(index).write_bytes(part_of(index).read_bytes()[:-9]),
        FormatError,
        r"-00001-of-00003\.safetensors: .* the file is truncated",
    ),
    "tensor elsewhere": (
        lambda index: rewrite(
            index, lambda places: places.update({"norm.weight": part_of(index).name})
        ),
        MismatchError,
        r"what their index says: 1 missing: norm.weight in model-00001-of-00003",
    ),
    "tensor nowhere": (
        lambda index: rewrite(index, lambda places: places.update(w=part_of(index).name)),
        MismatchError,
        "1 missing: w in ",
    ),
    "other folder": (
        lambda index: rewrite(index, lambda places: places.update(w="../secret.safetensors")),
        FormatError,
        r"not beside it: '\.\./secret\.safetensors'",
    ),
    "absolute": (
        lambda index: rewrite(index, lambda places: places.update(w="/etc/passwd")),
        FormatError,
        "not beside it: '/etc/passwd'",
    ),
    "unprintable": (
        lambda index: rewrite(index, lambda places: places.update(w="\x1b[2J.bin")),
        FormatError,
        r"not beside it: '\\x1b\[2J\.bin'",
    ),
    "itself": (
        lambda index: rewrite(index, lambda places: places.update(w=index.name)),
        FormatError,
        "not beside it",
    ),
    "number as a file": (
        lambda index: rewrite(index, lambda places: places.update(w=3)),
        FormatError,
        "not beside it: 3",
    ),
    "many files": (
        lambda index: rewrite(
            index, lambda places: places.update({f"w{k}": f"{k}.bin" for k in range(600)})
        ),
        FormatError,
        "names 603 files",
    ),
    "no JSON": (
        lambda index: index.write_text("{'a':"),
        UnreadableFileError,
        "not an index .* damaged",
    ),
    "no text": (
        lambda index: index.write_bytes(b"\xff\xfe{}"),
        UnreadableFileError,
        "not an index .* damaged",
    ),
    "no map": (lambda index: index.write_text("{}"), UnreadableFileError, "has no weight_map"),
    "a list": (lambda index: index.write_text("[]"), UnreadableFileError, "has no weight_map"),
    "empty": (lambda index: index.write_text(""), UnreadableFileError, "the file is empty"),
    "huge": (
        lambda index: os.truncate(index, 2**26),
        FormatError,
        "larger than",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_index_or_part_gives_one_line(name, index, tmp_path, capsys):
    change, kind, message = WRONG[name]
    change(index)
    for path in (index, index.parent):
        with pytest.raises(kind, match=message) as caught:
            load(path, num_heads=HEADS)
        assert str(caught.value).startswith(str(index.parent))
        assert str(caught.value).isprintable()
        for command in (["inspect", str(path)], ["from-torch", str(path), str(tmp_path / "out")]):
            assert main([*command, "--num-heads", str(HEADS)]) == 2
            assert capsys.readouterr().err.startswith(f"error: {index.parent}")


def test_many_small_parts_cannot_claim_a_large_memory(tmp_path):
    places = {}
    for number in range(9):
        torch.save({f"w{number}": torch.zeros(1).expand(2**23)}, tmp_path / f"{number}.bin")
        places[f"w{number}"] = f"{number}.bin"
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(FormatError, match="its tensors claim 301989888 bytes"):
        load(index)


def test_a_missing_index_is_an_error_of_the_usual_kind(tmp_path):
    with pytest.raises(BridgeError, match="No such file"):
        load(tmp_path / "model.safetensors.index.json")
