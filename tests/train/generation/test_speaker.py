"""Checkpoints of every format that write text (train/generation/speaker.py)."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx
from helpers.small_models import SMALL
from safetensors.numpy import load_file, save_file

import bridge
from bridge.weights import variables
from mmrec_jax import ExpertModule, FusionLayer, MMRec100M, MMRecModel, ModelConfig
from mmrec_jax.sampling import Sampling
from train.data.tokenizer import Tokenizer
from train.generation.speaker import load_speaker
from train.generation.texts import continuation
from train.system.errors import UserError

CONFIG = dataclasses.replace(SMALL, vocab_size=260)
RUN_CONFIG = """
data_dir: data
run_dir: elsewhere
model: {vocab_size: 260, model_dim: 12, num_layers: 2, num_heads: 3, ffn_dim: 20}
training: {steps: 5, chunk_size: 7}
optimizer: {warmup_steps: 2}
"""


@pytest.fixture(scope="module")
def model():
    return MMRecModel(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """A tokenizer, and the model in every format, in folders of its own: an import's."""
    root = tmp_path_factory.mktemp("files")
    for name in ("own", "files"):
        (root / name).mkdir()
    Tokenizer.train(["the cat sat on the mat " * 3], 260).save(root / "own" / "tokenizer.json")
    for name in ("a.pt", "a.safetensors"):
        bridge.save_file(root / "files" / name, bridge.LoadedCheckpoint(model=model, step=5))
    bridge.save_orbax(root / "run" / "state" / "5", model, step=5)
    return root


PLACES = ("files/a.pt", "files/a.safetensors", "run", "run/state/5")


def same(network, model) -> bool:
    found, wanted = variables(network), variables(model)
    return all(np.array_equal(found[path], array) for path, array in wanted.items())


@pytest.mark.parametrize("place", PLACES)
def test_every_format_speaks_with_a_tokenizer_that_is_named(files, model, place):
    speaker = load_speaker(files / place, tokenizer=str(files / "own" / "tokenizer.json"))
    assert same(speaker.network, model)
    assert (speaker.tokenizer.vocab_size, speaker.chunk_size) == (260, None)
    with pytest.raises(UserError, match=r"has no tokenizer.json beside it: .* --tokenizer FILE"):
        load_speaker(files / place)


@pytest.mark.parametrize("place", PLACES)
def test_every_format_speaks_with_what_is_beside_it(files, model, place, tmp_path):
    shutil.copytree(files / "files", tmp_path / "files")
    shutil.copytree(files / "run", tmp_path / "run")
    folder = tmp_path / place.split("/")[0]
    shutil.copy(files / "own" / "tokenizer.json", folder)
    assert load_speaker(tmp_path / place).chunk_size is None
    (folder / "config.yaml").write_text("learning_rate: some other program's\n")
    if folder.name == "run":  # whose own it must be
        with pytest.raises(UserError, match=r"config.yaml line 1: unknown key"):
            load_speaker(tmp_path / place)
    else:
        assert load_speaker(tmp_path / place).config is None
    (folder / "config.yaml").write_text(RUN_CONFIG)
    speaker = load_speaker(tmp_path / place)
    assert same(speaker.network, model) and speaker.chunk_size == 7
    assert speaker.config.run_dir == str(tmp_path)


def test_a_tokenizer_beside_a_state_that_was_taken_out_of_its_run_is_found(files, model, tmp_path):
    shutil.copytree(files / "run" / "state" / "5", tmp_path / "best")
    shutil.copy(files / "own" / "tokenizer.json", tmp_path)
    assert same(load_speaker(tmp_path / "best").network, model)


def test_the_text_is_the_same_from_every_format(files):
    options = {"chunk_size": None, "length": 8, "sampling": Sampling(), "seed": 3}
    texts = set()
    for place in PLACES:
        speaker = load_speaker(files / place, tokenizer=str(files / "own" / "tokenizer.json"))
        texts.add(continuation(speaker.network, speaker.tokenizer, "the", **options))
    (text,) = texts
    assert text


def test_an_experts_base_is_in_its_run_or_named(files, model, tmp_path):
    expert = ExpertModule(dataclasses.replace(CONFIG, vocab_size=32000), rngs=nnx.Rngs(1))
    shutil.copytree(files / "run", tmp_path / "checkpoints_base")
    folder = tmp_path / "checkpoints_text"
    folder.mkdir()
    notes = {bridge.EMBEDDING_DIGEST: bridge.embedding_digest(model.embedding)}
    bridge.save_torch(folder / "e.pt", expert, metadata=notes)
    shutil.copy(files / "own" / "tokenizer.json", folder)
    with pytest.raises(UserError, match=r"an expert alone has no embedding: .* --base_model"):
        load_speaker(folder / "e.pt")
    named = load_speaker(folder / "e.pt", base_model=str(files / "files" / "a.pt"))
    (folder / "config.yaml").write_text(RUN_CONFIG)
    for speaker in (named, load_speaker(folder / "e.pt")):
        assert isinstance(speaker.network, MMRecModel)
        assert same(speaker.network.embedding, model.embedding)
    other = MMRecModel(CONFIG, rngs=nnx.Rngs(7))
    bridge.save_torch(tmp_path / "other.pt", other)
    with pytest.raises(UserError, match=r"--base_model: .* another base's embedding"):
        load_speaker(folder / "e.pt", base_model=str(tmp_path / "other.pt"))
    with pytest.raises(UserError, match=r"--base_model: .* not a base"):
        load_speaker(folder / "e.pt", base_model=str(folder / "e.pt"))


@pytest.mark.parametrize("kind", [MMRec100M, FusionLayer])
def test_a_fusion_speaks_and_its_layer_alone_does_not(files, tmp_path, kind):
    bridge.save_torch(tmp_path / "f.pt", kind(CONFIG, rngs=nnx.Rngs(0)))
    shutil.copy(files / "own" / "tokenizer.json", tmp_path)
    if kind is MMRec100M:
        assert isinstance(load_speaker(tmp_path / "f.pt").network, MMRec100M)
    else:
        with pytest.raises(UserError, match="a FusionLayer alone is no model of tokens"):
            load_speaker(tmp_path / "f.pt")


def test_the_heads_of_a_bare_file_are_given(files, model, tmp_path):
    shutil.copy(files / "own" / "tokenizer.json", tmp_path)
    tensors = load_file(files / "files" / "a.safetensors")
    head = {"lm_head.weight": tensors["embedding.weight"]}
    save_file(tensors | head, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"does not state num_heads .*\(--num_heads\)"):
        load_speaker(tmp_path / "bare.safetensors")
    assert same(load_speaker(tmp_path / "bare.safetensors", num_heads=3).network, model)


def test_what_does_not_fit_is_one_line(files, model, tmp_path):
    Tokenizer.train(["def f(x):\n    return x\n" * 3], 262).save(tmp_path / "large.json")
    place = files / "files" / "a.pt"
    with pytest.raises(UserError, match=r"^--tokenizer: .*large.json: has 262 tokens, and .* 260"):
        load_speaker(place, tokenizer=str(tmp_path / "large.json"))
    with pytest.raises(UserError, match=r"^--tokenizer: nowhere: cannot be read: .*: name a tok"):
        load_speaker(place, tokenizer="nowhere")
    with pytest.raises(UserError, match=r"Is a directory: did you mean .*/own/tokenizer.json\?$"):
        load_speaker(place, tokenizer=str(files / "own"))
    with pytest.raises(UserError, match=r"gone.pt: cannot be read: No such file.*correct the path"):
        load_speaker(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        load_speaker(files, tokenizer=str(files / "own" / "tokenizer.json"))
    # Of the same size, but not the one that the model was trained with.
    notes = {bridge.TOKENIZER_DIGEST: bridge.file_digest(files / "own" / "tokenizer.json")}
    bridge.save_torch(tmp_path / "noted.pt", model, metadata=notes)
    other = Tokenizer.train(["def f(x):\n    return x\n" * 3], 260)
    other.save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer.json is not the tokenizer that .*noted.pt was"):
        load_speaker(tmp_path / "noted.pt")
    shutil.copy(files / "own" / "tokenizer.json", tmp_path)
    assert load_speaker(tmp_path / "noted.pt").tokenizer.encode("the") != other.encode("the")


@pytest.mark.parametrize("place", PLACES)
def test_an_option_that_the_checkpoint_does_not_need_is_refused(files, place):
    options = {"tokenizer": str(files / "own" / "tokenizer.json")}
    with pytest.raises(UserError, match=r"--base_model: .* class MMRecModel, which needs no base"):
        load_speaker(files / place, base_model=str(files / "files" / "a.pt"), **options)
    with pytest.raises(UserError, match=r"num_heads.* 3"):
        load_speaker(files / place, num_heads=4, **options)


def test_weights_that_are_no_numbers_are_said(files, model, tmp_path, capsys):
    broken = nnx.clone(model)
    broken.norm.scale[...] = jnp.nan * broken.norm.scale[...]
    bridge.save_torch(tmp_path / "nan.pt", broken)
    load_speaker(tmp_path / "nan.pt", tokenizer=str(files / "own" / "tokenizer.json"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/nan.pt: ")


def test_a_tokenizer_of_another_program_lets_an_import_speak(files, tmp_path):
    content = json.loads((files / "own" / "tokenizer.json").read_text())
    content["added_tokens"][0]["content"] = "<end>"
    content["model"]["vocab"]["<end>"] = content["model"]["vocab"].pop("<|endoftext|>")
    (tmp_path / "own.json").write_text(json.dumps(content))
    named = {"tokenizer": str(tmp_path / "own.json")}
    with pytest.raises(UserError, match="name the one that ends documents with end_of_text"):
        load_speaker(files / "run", **named)
    for name in ("<end>", "0"):
        assert load_speaker(files / "run", **named, end_of_text=name).tokenizer.end_of_text == 0


SIZES = {"vocab_size": 257, "model_dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 12}
FILE = "base_model_step_{}.pt"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of two steps, other weights after each, and an import beside it."""
    run_dir = tmp_path_factory.mktemp("runs")
    run = run_dir / "checkpoints_base"
    for step in (1, 2):
        model = MMRecModel(ModelConfig(**SIZES), rngs=nnx.Rngs(step))
        bridge.save_orbax(bridge.state_folder(run, step), model, step=step)
        bridge.save_torch(run / FILE.format(step), model, step=step)
    shutil.copytree(run, run_dir / "import")
    settings = {"data_dir": "gone", "run_dir": "gone", "model": SIZES}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    Tokenizer.train(["a text"], 257).save(run / "tokenizer.json")
    return run_dir


@pytest.mark.parametrize(
    ("name", "step"),
    [("", 2), (FILE.format(1), 1), (FILE.format(2), 2), ("state/1", 1), ("state/2", 2)],
)
def test_a_run_its_files_and_its_states_can_be_named(run_dir, name, step, monkeypatch):
    run = run_dir / "checkpoints_base"
    model, tokenizer, config = load_speaker(run / name)
    expected = MMRecModel(ModelConfig(**SIZES), rngs=nnx.Rngs(step))
    for path, array in variables(expected).items():
        np.testing.assert_array_equal(variables(model)[path], array)
    assert (tokenizer.vocab_size, config.run_dir) == (257, str(run_dir))
    monkeypatch.chdir((run / name) if (run / name).is_dir() else run)
    assert load_speaker(name.rpartition("/")[2] if name.endswith(".pt") else ".")


def test_a_run_dir_stands_for_its_only_stage(run_dir):
    network, _, config = load_speaker(run_dir)
    expected = load_speaker(run_dir / "checkpoints_base")
    assert (str(variables(network)), config) == (str(variables(expected.network)), expected.config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: cannot be read: No such file"),
        ("checkpoints_base/none.pt", "none.pt: cannot be read: No such file"),
        ("..", "holds no complete checkpoint"),
        ("checkpoints_base/state", r"did you mean .*/checkpoints_base\?"),
        ("checkpoints_base/config.yaml", "config.yaml: "),
        ("import", "import has no tokenizer.json beside it: .* --tokenizer FILE"),
    ],
)
def test_what_is_no_checkpoint_is_told_what_to_name(run_dir, name, message):
    with pytest.raises(UserError, match=message):
        load_speaker(run_dir / name)
