"""A trained model in Python (train/trained_model.py): what `mmrec.load` gives."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from flax import nnx
from helpers.command_lines import write_sources
from helpers.small_models import SMALL

import bridge
import mmrec
from mmrec_jax import MMRec100M, MMRecModel
from train.data.tokenizer import Tokenizer

CONFIG = dataclasses.replace(SMALL, vocab_size=260, dropout=0.0)
TEXT = "the cat sat on the mat"
TRAINED = """
data_dir: data
run_dir: runs
prepare: {text: [raw/text], code: [raw/code], validation_fraction: 0.2}
model: {vocab_size: 300, model_dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 24}
optimizer: {warmup_steps: 1}
training: {steps: 2, batch_size: 4, sequence_length: 16, accumulation: 1, validation_batches: 2}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, and a run_dir with a fusion too."""
    root = tmp_path_factory.mktemp("runs")
    base = MMRecModel(CONFIG, rngs=nnx.Rngs(0))
    fusion = MMRec100M(CONFIG, rngs=nnx.Rngs(1))
    for model, stage in ((base, "a/base"), (base, "b/base"), (fusion, "b/fusion")):
        folder = root / stage.replace("/", "/checkpoints_")
        bridge.save_orbax(folder / "state" / "3", model, step=3)
        Tokenizer.train([TEXT * 3], 260).save(folder / "tokenizer.json")
    return root


def test_a_run_folder_gives_its_last_stage(runs):
    assert repr(mmrec.load(runs / "a")).startswith("MMRecModel of ")
    lm = mmrec.load(str(runs / "b"))
    assert "checkpoints_fusion: " in repr(lm) and " parameters, 2 layers of 12 channels" in repr(lm)
    assert len(repr(lm).splitlines()) == 1


@pytest.mark.parametrize("run", ["a", "b"])
def test_a_score_is_the_loss_of_each_token(runs, run):
    lm = mmrec.load(runs / run)
    found = lm.score(TEXT)
    ids = [lm.tokenizer.end_of_text, *lm.tokenizer.encode(TEXT)]
    logits = jax.nn.log_softmax(lm.model(jnp.asarray([ids[:-1]])).logits[0])
    expected = [-float(row[label]) for row, label in zip(logits, ids[1:], strict=True)]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    assert "".join(found.tokens) == TEXT
    assert found.bits_per_byte == pytest.approx(sum(expected) / np.log(2) / len(TEXT), rel=1e-5)
    assert repr(found).endswith(f"bits per byte, {len(expected)} tokens")


def test_a_trace_has_every_token_and_layer(runs):
    lm = mmrec.load(runs / "b")
    found = lm.trace(TEXT)
    assert found.layers == ["text 0", "text 1", "code 0", "code 1"]
    assert found.states.shape == (4, len(found.tokens), 12)
    assert "".join(found.tokens) == TEXT  # the end of text before it is no text
    assert repr(found).startswith(f"trace of {len(found.tokens)} tokens in 4 layers")


@pytest.fixture
def weighted(runs):
    """The fusion of "b" with a gate, which sees each expert's output."""
    lm = mmrec.load(runs / "b")
    config = dataclasses.replace(CONFIG, fusion_method="weighted")
    return dataclasses.replace(lm, model=MMRec100M(config, rngs=nnx.Rngs(2)))


def test_a_trace_has_the_gate_of_a_weighted_fusion(runs, weighted):
    model, tokenizer = weighted.model, weighted.tokenizer
    found = weighted.trace(TEXT)
    ids = jnp.asarray([[tokenizer.end_of_text, *tokenizer.encode(TEXT)]])
    x = model.embedding(ids)
    text, code = (expert.hidden_states(x).y for expert in model.experts(None).values())
    both = jnp.concatenate([text, code], axis=-1)
    np.testing.assert_allclose(
        found.text_share, jax.nn.sigmoid(model.fusion.gate(both))[0], rtol=1e-4
    )
    assert mmrec.load(runs / "b").trace(TEXT).text_share is None  # it concatenates


def test_pictures_show_the_arrays_by_token(runs, weighted):
    found = weighted.trace("a $b$")
    image = found.plot("decay").images[0].get_array()
    np.testing.assert_allclose(image, found.decay.mean(axis=-1))
    axes = found.plot("states", layer="code 1")
    np.testing.assert_allclose(axes.images[0].get_array(), found.states[3].T)
    assert axes.get_xticklabels()[0].get_text() == "start"
    shares = found.plot("text_share", ax=plt.figure().subplots()).images[0]
    np.testing.assert_allclose(shares.get_array(), found.text_share.T)
    score = weighted.score("a $b$")
    bars = [bar.get_height() for bar in score.plot().patches]
    np.testing.assert_allclose(bars, score.losses)
    score.plot().figure.savefig(io.BytesIO())  # a dollar sign begins no formula
    plt.close("all")
    with pytest.raises(mmrec.UserError, match=r"^what: expected one of decay, .*, not gate"):
        found.plot("gate")
    with pytest.raises(mmrec.UserError, match=r"^layer: expected one of text 0, .*, not 9"):
        found.plot("decay", 9)
    with pytest.raises(mmrec.UserError, match=r"^text_share: only a fusion"):
        mmrec.load(runs / "a").trace(TEXT).plot("text_share")


def test_a_text_comes_in_pieces_and_can_be_read_again(runs):
    text = mmrec.load(runs / "a").generate("the", seed=1)
    pieces = list(text)
    assert pieces[0].startswith("the") and len(pieces) > 1
    assert repr(text) == str(text) == "".join(pieces)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.score(""), "text: it is empty: there is nothing to predict"),
        (lambda lm: lm.score(np.zeros(3)), "text: expected a string, not ndarray"),
        (lambda lm: lm.trace(b"a"), "text: expected a string, not bytes"),
        (lambda lm: lm.generate(["a"]), "prompt: expected a string, not list"),
        (lambda lm: lm.generate("\ud800"), "prompt: it has half of a surrogate pair"),
        (lambda lm: lm.generate("a", length=0), "^length must be at least 1, not 0"),
        (lambda lm: lm.generate("a", temperature=-1), "temperature must be at least 0"),
        (lambda lm: mmrec.load(3), "path: expected a string or a Path, not int"),
        (lambda lm: mmrec.load("nowhere"), "nowhere: cannot be read: No such file"),
        (lambda lm: mmrec.load(__file__), r"has no tokenizer.json beside it: .* by tokenizer$"),
        (lambda lm: mmrec.config("nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (lambda lm: lm.generate("a", length="5"), "length: expected a number, not '5'"),
        (lambda lm: mmrec.config("dmeo"), "--config dmeo: no such file: did you mean demo"),
        (lambda lm: mmrec.train("my.yaml"), "config: expected a config, as mmrec.config gives it"),
        (lambda lm: mmrec.prepare("my.yaml"), "config: expected a config, as mmrec.config"),
        (lambda lm: mmrec.train(None, "bse"), "stage: expected one of base, text, .*, not bse"),
    ],
)
def test_what_is_wrong_is_said_at_once(runs, call, message):
    with pytest.raises(mmrec.UserError, match=message):
        call(mmrec.load(runs / "a"))


def test_a_config_of_the_project_with_other_settings():
    config = mmrec.config("base-22m", {"training.log_every": 7, "seed": 3, "run_dir": "here"})
    assert (config.training.log_every, config.seed, config.run_dir) == (7, 3, "here")
    with pytest.raises(mmrec.UserError, match=r"training.stepz.*did you mean"):
        mmrec.config("base-22m", {"training.stepz": 7})


def test_a_stage_of_a_pipeline_with_other_settings():
    config = mmrec.config("demo", {"training.steps": 90, "run_dir": "here"}, stage="text")
    assert (config.training.steps, config.run_dir, config.training.domain) == (90, "here", "text")
    assert config.model.model_dim == 32
    with pytest.raises(mmrec.UserError, match=r"^demo, stage text: optimizer.warmup_steps must be"):
        mmrec.config("demo", {"training.steps": 2}, stage="text")
    with pytest.raises(mmrec.UserError, match=r"stage: expected one of base, text, .*, not all"):
        mmrec.config("demo", stage="all")


def test_training_gives_what_the_command_saves(tmp_path, monkeypatch):
    write_sources(tmp_path)
    (tmp_path / "c.yaml").write_text(TRAINED)
    monkeypatch.chdir(tmp_path)
    mmrec.prepare(mmrec.config("c.yaml"))
    lm = mmrec.train(mmrec.config("c.yaml", {"training.steps": 3}))
    assert lm.path == "runs/checkpoints_base"
    saved = bridge.load_torch(tmp_path / "runs/checkpoints_base/base_model_step_3.pt")
    found = bridge.variables(lm.model)
    for path, array in bridge.variables(saved.model).items():
        np.testing.assert_array_equal(found[path], array)
    with pytest.raises(mmrec.UserError, match=r"--overwrite"):
        mmrec.train(mmrec.config("c.yaml", {"training.steps": 3}))
