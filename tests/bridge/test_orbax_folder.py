"""Checkpoints as Orbax folders: whole, checked, and never mistaken for another's."""

import contextlib
import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.command_lines import run
from helpers.paths import GOLDEN

from bridge import (
    MANIFEST,
    BridgeError,
    FormatError,
    MismatchError,
    UnreadableFileError,
    UnwritableFileError,
    describe_files,
    load,
    load_orbax,
    load_torch,
    save_orbax,
)
from bridge.files import disk
from bridge.files.tensors import tensor_of
from bridge.keys import entries
from bridge.stage_folders import find_state, stage_in, state_folder, steps
from bridge.weights import model_from_tensors, variables
from mmrec_jax import ModelConfig

TRAJECTORY = GOLDEN / "trajectory"


@pytest.fixture(scope="module")
def checkpoint():
    return load_torch(TRAJECTORY / "checkpoint_step_12.pt")


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory):
    """A folder that no test may change."""
    folder = tmp_path_factory.mktemp("orbax") / "12"
    save_orbax(folder, checkpoint.model, **checkpoint.training_state())
    return folder


@pytest.fixture
def copy(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def vouch_for(folder):
    """Renews the manifest, as whoever forges a file would."""
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(describe_files(folder)))


def test_jaxs_own_tools_read_the_arrays_stacked(written, checkpoint):
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(written.resolve() / "arrays")
    expected = variables(checkpoint.model)
    for layer in (0, 1):
        kernel = tree["model"]["blocks"]["W_q"]["kernel"][layer]
        np.testing.assert_array_equal(kernel, expected["blocks", layer, "W_q", "kernel"])
    moment = checkpoint.optimizer_state.exp_avg_sq["embedding", "embedding"]
    np.testing.assert_array_equal(tree["exp_avg_sq"]["embedding"]["embedding"], moment)


def test_a_run_stands_for_its_newest_state(checkpoint, tmp_path):
    for step in (2, 11):
        save_orbax(state_folder(tmp_path, step), checkpoint.model, step=step)
    (tmp_path / "state" / "12").mkdir()
    (tmp_path / "state" / "12" / "checkpoint.json").touch()  # begun, and killed
    assert steps(tmp_path) == [2, 11]
    assert load(tmp_path).step == 11
    assert load(tmp_path / "state" / "2").step == 2


def test_every_flipped_bit_is_found(copy):
    listed = json.loads((copy / MANIFEST).read_text())
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert set(listed) == found - {MANIFEST}
    for name in listed:
        content = (copy / name).read_bytes()
        for flipped in {0, len(content) // 2, len(content) - 1} if content else set():
            damaged = bytearray(content)
            damaged[flipped] ^= 0x10
            (copy / name).write_bytes(damaged)
            with pytest.raises(UnreadableFileError, match="damaged: the SHA-256 of"):
                load_orbax(copy)
        (copy / name).write_bytes(content)
    assert load_orbax(copy).step == 12


@pytest.mark.parametrize("name", ["checkpoint.json", MANIFEST, "arrays"])
def test_what_is_missing_is_named(copy, name):
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UnreadableFileError) as caught:
        load_orbax(copy)
    assert str(caught.value).startswith(f"{copy}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"checkpoint.json": 3}', "\0", "[" * 5000])
def test_a_broken_manifest_is_one_line(copy, text):
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BridgeError, match=r"manifest\.json|SHA-256"):
        load_orbax(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"cannot read none: No such file"),
        ("../12/checkpoint.json", "manifest.json is damaged"),
        ("/dev/zero", "manifest.json is damaged"),
        ("../../dev/zero", "manifest.json is damaged"),
    ],
)
def test_a_manifest_of_other_files_is_refused(copy, name, message):
    (copy / MANIFEST).write_text(json.dumps({name: {"bytes": 0, "sha256": ""}}))
    with pytest.raises(UnreadableFileError, match=message):
        load_orbax(copy)


def forged(folder, **changes):
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if key in content:
            content[key] = value
        else:
            content["metadata"]["config"][key] = value
    path.write_text(json.dumps(content))
    vouch_for(folder)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"format": "another"}, FormatError, "not what the bridge writes"),
        ({"version": 2}, FormatError, "version 2, this program reads 1"),
        ({"metadata": {}}, FormatError, "not what the bridge writes"),
        ({"metadata": 3}, FormatError, "not what the bridge writes"),
        ({"optimizer": {"lr": 3}}, FormatError, "not what the bridge writes"),
        ({"schedule": {"step": 1}}, FormatError, "not what the bridge writes"),
        ({"step": "many"}, FormatError, "not what the bridge writes"),
        ({"num_layers": 10**12}, BridgeError, "num_layers in the file's config is 1000000000000"),
        ({"num_layers": 3}, MismatchError, r": model.blocks.\w+.bias is \[2, 32\]"),
        ({"ffn_dim": 81}, MismatchError, "model.blocks.ffn.linear_in.kernel"),
        ({"use_uboo": True}, MismatchError, "missing: blocks.0.mdi.W_planning_error"),
        ({"num_heads": 3}, BridgeError, "num_heads must divide model_dim"),
    ],
)
def test_forged_content_is_refused(copy, changes, kind, message):
    forged(copy, **changes)
    with pytest.raises(kind, match=message) as caught:
        load_orbax(copy)
    assert "\n" not in str(caught.value)


def test_what_is_there_is_never_replaced(written, checkpoint, tmp_path):
    with pytest.raises(UnwritableFileError, match="exists already"):
        save_orbax(written, checkpoint.model)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnwritableFileError, match="cannot be written"):
        save_orbax(tmp_path / "file" / "folder", checkpoint.model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_failed_write_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("bridge.files.manifest.describe_files", full)
        with pytest.raises(UnwritableFileError, match="No space left"):
            save_orbax(tmp_path / "1", checkpoint.model)
    assert list(tmp_path.iterdir()) == []


def test_zeros_without_end_are_refused(tmp_path, monkeypatch):
    handler = ocp.PyTreeCheckpointHandler
    compressing = {"use_compression": True}
    monkeypatch.setattr(ocp, "PyTreeCheckpointHandler", lambda **k: handler(**k | compressing))
    config = ModelConfig(vocab_size=500_000, model_dim=64, num_layers=1, num_heads=1, ffn_dim=1)
    tensors = {
        entry.key: tensor_of(np.zeros(entry.shape, np.float32))
        for entry in entries("MMRecModel", config)
    }
    save_orbax(tmp_path / "zeros", model_from_tensors("MMRecModel", config, tensors))
    with pytest.raises(FormatError, match=r"its arrays claim 128\d+ bytes, and it holds \d{5}$"):
        load_orbax(tmp_path / "zeros")


def test_files_beside_and_unlisted(copy, checkpoint, tmp_path):
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "precious.txt").touch()
    save_orbax(tmp_path / "new", checkpoint.model)
    assert (tmp_path / "mine.partial" / "precious.txt").exists()
    (copy / MANIFEST).write_text("{}")
    with pytest.raises(UnreadableFileError, match=r"manifest\.json does not list arrays"):
        load_orbax(copy)


def test_other_folders_are_said_not_to_be_checkpoints(tmp_path):
    with pytest.raises(UnreadableFileError, match="holds no complete checkpoint, neither"):
        load(tmp_path)
    (tmp_path / "exported.safetensors").touch()
    with pytest.raises(UnreadableFileError, match=r"did you mean .*/exported\.safetensors\?"):
        load(tmp_path)
    with pytest.raises(UnreadableFileError, match="no such folder"):
        load_orbax(tmp_path / "none")


@pytest.mark.parametrize("name", ["base[lr=1e-3]", "a\\b", "a*{b,c}?", "50%20#1"])
def test_no_character_of_a_path_loses_the_state(checkpoint, tmp_path, name):
    folder = tmp_path / name / "state" / "12"
    save_orbax(folder, checkpoint.model, **checkpoint.training_state())
    loaded = load_orbax(tmp_path / name)
    moments = loaded.optimizer_state.exp_avg
    for path, array in variables(checkpoint.model).items():
        np.testing.assert_array_equal(variables(loaded.model)[path], array)
    for path, array in checkpoint.optimizer_state.exp_avg.items():
        np.testing.assert_array_equal(moments[path], array)


def test_a_state_without_its_arrays_is_not_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "path_without_pattern", contextlib.nullcontext)  # as it was
    with pytest.raises(UnwritableFileError, match="Orbax lost the arrays"):
        save_orbax(tmp_path / "base[lr]" / "12", checkpoint.model)
    assert not list((tmp_path / "base[lr]").iterdir())


def test_nothing_of_a_folder_that_the_path_matches_as_a_pattern_is_taken(checkpoint, tmp_path):
    parts = tmp_path / "ab" / "12.partial" / "arrays.orbax-checkpoint-tmp" / "ocdbt.process_0"
    parts.mkdir(parents=True)
    (parts / "manifest.ocdbt").write_text("of somebody else", encoding="utf-8")
    save_orbax(tmp_path / "a*" / "12", checkpoint.model)
    assert load_orbax(tmp_path / "a*" / "12").step == 0
    assert (parts / "manifest.ocdbt").read_text(encoding="utf-8") == "of somebody else"


SAVING = """
import gc, resource, signal, sys, threading
from bridge import UnwritableFileError, load_torch, save_orbax
checkpoint = load_torch(sys.argv[1])
save_orbax("whole", checkpoint.model, **checkpoint.training_state())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def save():
    for size in (100, 1000, 5000, 9000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            save_orbax("state/12", checkpoint.model, **checkpoint.training_state())
        except UnwritableFileError as error:
            print(error)

if sys.argv[2] == "main":
    save()
else:
    thread = threading.Thread(target=save, daemon=True)
    thread.start()
    print("at work", file=sys.stderr)
    while thread.is_alive():
        gc.collect()
        thread.join(0.1)
"""


@pytest.mark.parametrize(("thread", "printed"), [("main", ""), ("another", "at work\n")])
def test_a_disk_that_is_full_at_any_size_is_one_error(checkpoint, tmp_path, thread, printed):
    """Orbax and TensorStore print nothing of their own: no traceback of any of their threads."""
    (tmp_path / "saving.py").write_text(SAVING)
    done = run(tmp_path, "saving", TRAJECTORY / "checkpoint_step_12.pt", thread)
    assert done.stderr == printed
    assert done.stdout == "state/12: cannot be written: File too large\n" * 4
    assert not (tmp_path / "state" / "12").exists()


ABANDONED = """
from bridge.one_error import one_error
async def write(): pass
try:
    with one_error("the arrays"):
        never_awaited = write()
        raise OSError("full")
except OSError as error:
    print(error)
del never_awaited
"""


def test_coroutines_that_a_failed_save_abandons_print_nothing(tmp_path):
    (tmp_path / "abandoning.py").write_text(ABANDONED)
    done = run(tmp_path, "abandoning")
    assert (done.stdout, done.stderr) == ("full\n", "")


def test_a_run_dir_stands_for_its_fusion_or_its_only_stage(tmp_path):
    def saved(stage):
        state = tmp_path / f"checkpoints_{stage}" / "state" / "7"
        state.mkdir(parents=True)
        for name in ("checkpoint.json", MANIFEST):
            (state / name).touch()
        return state

    base = saved("base")
    (tmp_path / "checkpoints_fusion").mkdir()  # it has begun, and saved nothing
    assert find_state(tmp_path) == base
    assert stage_in(base) == base and stage_in(base.parents[1]) == base.parents[1]
    text = saved("text")
    with pytest.raises(UnreadableFileError) as raised:
        find_state(tmp_path)
    stages = f"{tmp_path}/checkpoints_base, {tmp_path}/checkpoints_text"
    assert str(raised.value) == f"{tmp_path}: has several stages: name one of them, {stages}"
    assert stage_in(tmp_path, "text") == text.parents[1]
    assert stage_in(tmp_path, "code") == tmp_path
    assert find_state(tmp_path / "checkpoints_text") == text
    fusion = saved("fusion")
    assert find_state(tmp_path) == fusion
