"""`bridge to-hf`: what transformers does with the folder, and when none is written."""

import ast
import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import transformers_alone
from helpers.full_disks import disk, fill
from helpers.small_models import SMALL
from tokenizers import Tokenizer as Backend
from tokenizers import models, processors

import bridge
from bridge.__main__ import main
from bridge.huggingface.source import source_files
from mmrec_jax import ExpertModule, FusionLayer, MMRec100M, MMRecModel
from mmrec_jax.decoding import generate
from mmrec_jax.sampling import Sampling
from mmrec_jax.transfer import with_embedding, without_embedding
from train.data.tokenizer import Tokenizer

CONFIG = dataclasses.replace(SMALL, vocab_size=270, num_experts=4, sparse_chunk_size=4, dpg_rank=5)
GREEDY = Sampling(temperature=0.0)


def random_model(model_class, **variant):
    """A model with larger values than initial ones: what it writes depends on what it has read."""
    model = model_class(dataclasses.replace(CONFIG, **variant), rngs=nnx.Rngs(0))
    generator = np.random.default_rng(0)
    larger = []
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        spread = 0.3 if {"embedding", "lm_head"} & {*path} else 1.0
        values = jnp.asarray(generator.normal(0, spread, leaf.shape), jnp.float32)
        larger.append((path, leaf if path[-1] == "scale" else leaf.replace(values)))
    nnx.update(model, nnx.from_flat_state(larger))
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["def f(x): import os\n" * 9, "for name in names\n" * 9], 270)


@pytest.fixture
def to_hf(capsys):
    """Runs the command in this process; returns what it printed, or the error where it fails."""

    def call(*arguments, code=0):
        assert main(["to-hf", *map(str, arguments)]) == code
        printed = capsys.readouterr()
        if code:
            assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        return printed.err.strip() if code else printed.out

    return call


@pytest.fixture
def base(tmp_path, tokenizer):
    """A base in a file, beside it its tokenizer."""
    model = random_model(MMRecModel)
    tokenizer.save(tmp_path / "tokenizer.json")
    bridge.save_safetensors(tmp_path / "base.safetensors", model, step=7, avg_loss=1.5)
    return model


@pytest.mark.slow
def test_transformers_loads_every_model_without_this_project(tmp_path, tokenizer, base, to_hf):
    variant = {"use_hem": True, "use_dpg": True, "use_uboo": True}
    expert = without_embedding(random_model(MMRecModel, num_layers=1))
    language_models = {
        "base": (base, None),
        "variant": (random_model(MMRecModel, **variant), 16),
        "expert": (with_embedding(expert, base.embedding), 16),
        "fusion": (random_model(MMRec100M, fusion_method="weighted"), None),
        "sparse": (random_model(MMRecModel, use_sparse=True), None),
    }
    # The expert's chunk_size is in the config of its run, and its base is found beside that.
    for stage, model in (("base", base), ("text", expert)):
        bridge.save_orbax(bridge.state_folder(tmp_path / f"checkpoints_{stage}", 3), model)
    run = tmp_path / "checkpoints_text"
    (run / "config.yaml").write_text("training: {chunk_size: 16}\n")
    tokenizer.save(run / "tokenizer.json")
    for name, (model, chunk_size) in language_models.items():
        place = run if name == "expert" else tmp_path / f"{name}.safetensors"
        options = []
        if name != "expert":
            bridge.save_safetensors(place, model)
            options = ["--chunk-size", chunk_size] if chunk_size else []
        to_hf(place, tmp_path / f"hf-{name}", *options)
    subprocess.run(
        [
            *(sys.executable, "-I", transformers_alone.__file__, "result.json"),
            *(f"hf-{name}" for name in language_models),
        ],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        check=True,
        stdin=subprocess.DEVNULL,
    )
    results = json.loads((tmp_path / "result.json").read_text())
    for name, (model, chunk_size) in language_models.items():
        found = results[f"hf-{name}"]
        assert found["problems"] == []
        assert found["ids"] == [[0, *tokenizer.encode(text)] for text in transformers_alone.PROMPTS]
        assert found["decoded"] == transformers_alone.PROMPTS
        ids = jnp.asarray(found["ids"][:1])
        logits = nnx.jit(model, static_argnames="chunk_size")(ids, chunk_size=chunk_size).logits
        np.testing.assert_allclose(found["logits"], logits[0], rtol=0, atol=1e-5)
        if name == "sparse":
            assert "no token-by-token decoding" in found["error"]
            continue
        length = transformers_alone.LENGTH
        expected = generate(
            model, ids, length, key=jax.random.key(0), sampling=GREEDY, chunk_size=chunk_size
        )
        assert found["whole"] == expected[0].tolist()
        assert len(set(found["whole"])) > 4
        assert found["seen"] == [ids.shape[1]] + [1] * (length - 1)
        assert found["padded"] == found["alone"]
        assert found["beams"][0] == found["beams"][1]
        assert found["gradients"]


def test_the_weights_are_the_checkpoints(tmp_path, base, to_hf):
    printed = to_hf(tmp_path / "base.safetensors", tmp_path / "out")
    assert "no tokenizer" not in printed
    assert f"from_pretrained('{tmp_path}/out', trust_remote_code=True)" in printed
    (line,) = (line for line in printed.splitlines() if " verify " in line)
    assert main(line.split()[3:]) == 0
    assert main(["inspect", str(tmp_path / "out" / "model.safetensors")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["dtype"]) == (270, 0, "float32")


def test_the_code_imports_torch_transformers_and_itself_alone():
    files = source_files()
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert f"{node.module}.py" in files
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else node.names
                for name in (getattr(each, "name", each).partition(".")[0] for each in names):
                    assert name in {"torch", "transformers"} | sys.stdlib_module_names


def test_only_its_own_folder_is_replaced(tmp_path, base, to_hf):
    source, out = tmp_path / "base.safetensors", tmp_path / "out"
    to_hf(source, out)
    assert "give --overwrite" in to_hf(source, out, code=2)
    to_hf(source, out, "--overwrite")
    (out / "notes.txt").write_text("mine")
    assert "has notes.txt, which to-hf did not write" in to_hf(source, out, "--overwrite", code=2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert "has config.json, which" in to_hf(source, other, "--overwrite", code=2)
    assert "is not a folder" in to_hf(source, source, code=2)
    assert sorted(path.name for path in other.iterdir()) == ["config.json"]


def test_a_full_disk_leaves_nothing(tmp_path, base, to_hf):
    with disk(tmp_path / "disk") as full:
        fill(full, left=30_000)
        error = to_hf(tmp_path / "base.safetensors", full / "out", code=2)
        assert "disk/out: cannot be written: No space left on device" in error
        assert [path.name for path in full.iterdir()] == ["filler"]


def test_an_expert_needs_the_base_that_it_was_trained_with(tmp_path, base, to_hf):
    expert = tmp_path / "expert.safetensors"
    notes = {bridge.EMBEDDING_DIGEST: bridge.embedding_digest(base.embedding)}
    bridge.save_safetensors(expert, without_embedding(base), metadata=notes)
    assert "name its base by --base" in to_hf(expert, tmp_path / "out", code=2)
    other = MMRecModel(CONFIG, rngs=nnx.Rngs(5))
    bridge.save_safetensors(tmp_path / "other.safetensors", other)
    error = to_hf(expert, tmp_path / "out", "--base", tmp_path / "other.safetensors", code=2)
    assert "trained with another base's embedding: name that base by --base" in error
    assert "not a base" in to_hf(expert, tmp_path / "out", "--base", expert, code=2)
    printed = to_hf(expert, tmp_path / "out", "--base", tmp_path / "base.safetensors")
    assert " verify " not in printed  # the expert's file has no embedding
    written = bridge.load(tmp_path / "out" / "model.safetensors").model
    assert isinstance(written, MMRecModel)
    base_file = tmp_path / "base.safetensors"
    assert "needs no base" in to_hf(base_file, tmp_path / "new", "--base", base_file, code=2)


def test_what_no_language_model_is_is_refused(tmp_path, to_hf):
    bridge.save_safetensors(tmp_path / "f.safetensors", FusionLayer(CONFIG, rngs=nnx.Rngs(0)))
    assert "no model of tokens" in to_hf(tmp_path / "f.safetensors", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()
    assert isinstance(without_embedding(MMRecModel(CONFIG, rngs=nnx.Rngs(0))), ExpertModule)


def test_the_tokenizer_is_the_one_that_it_was_trained_with(tmp_path, base, to_hf, tokenizer):
    source, out = tmp_path / "own.safetensors", tmp_path / "out"
    bridge.save_safetensors(source, base, metadata={bridge.TOKENIZER_DIGEST: "0" * 64})
    assert "is not the tokenizer that" in to_hf(source, out, code=2)
    large = Backend(models.WordLevel({str(index): index for index in range(271)}, "0"))
    large.save(str(tmp_path / "large.json"))
    for file, text in (
        (tmp_path / "large.json", "has a token 270, and the model has 270 ids"),
        (source, "is not a tokenizer.json"),
        (tmp_path / "none.json", "cannot be read: No such file"),
    ):
        assert text in to_hf(source, out, "--tokenizer", file, code=2)
    small = Backend(models.WordLevel({"a": 0, "b": 1}, "a"))
    small.save(str(tmp_path / "small.json"))
    error = to_hf(source, out, "--tokenizer", tmp_path / "small.json", code=2)
    assert "has none of the tokens <|endoftext|>" in error
    small.post_processor = processors.TemplateProcessing(
        single=["$A", "b"], special_tokens=[("b", 1)]
    )
    small.save(str(tmp_path / "small.json"))
    to_hf(source, out, "--tokenizer", tmp_path / "small.json")
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 1
    (tmp_path / "tokenizer.json").unlink()
    printed = to_hf(source, tmp_path / "without")
    assert "no tokenizer, as none lies beside" in printed
    assert not (tmp_path / "without" / "tokenizer_config.json").exists()
