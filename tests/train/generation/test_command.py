"""What `--checkpoint` may name, and what is said of anything else."""

import shutil

import numpy as np
import pytest
import yaml
from flax import nnx

import bridge
from bridge.weights import variables
from mmrec_jax import MMRecModel, ModelConfig
from train.data.tokenizer import Tokenizer
from train.generation.command import load_run
from train.system.errors import UserError

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
    model, tokenizer, config = load_run(run / name)
    expected = MMRecModel(ModelConfig(**SIZES), rngs=nnx.Rngs(step))
    for path, array in variables(expected).items():
        np.testing.assert_array_equal(variables(model)[path], array)
    assert (tokenizer.vocab_size, config.run_dir) == (257, str(run_dir))
    monkeypatch.chdir((run / name) if (run / name).is_dir() else run)
    assert load_run(type(run)(name.rpartition("/")[2] if name.endswith(".pt") else "."))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none does not exist: name a run's folder, or a .pt file in one"),
        ("checkpoints_base/none.pt", "none.pt does not exist"),
        ("", r"holds no complete checkpoint: did you mean .*/checkpoints_base\?"),
        ("checkpoints_base/state", r"did you mean .*/checkpoints_base\?"),
        ("checkpoints_base/config.yaml", "config.yaml: "),
        ("import", "is an import, without config.yaml and tokenizer.json: resume it once"),
        (f"import/{FILE.format(1)}", "is an import, without config.yaml and"),
        ("alone.pt", "is in no run's folder, there is no config.yaml and no tokenizer.json"),
        ("checkpoints_base/other.pt", "model.ffn_dim is 16 in the checkpoint and 12 in the config"),
    ],
)
def test_what_is_no_run_is_told_what_to_name(run_dir, name, message):
    other = MMRecModel(ModelConfig(**SIZES | {"ffn_dim": 16}), rngs=nnx.Rngs(0))
    bridge.save_torch(run_dir / "checkpoints_base" / "other.pt", other)
    shutil.copy(run_dir / "import" / FILE.format(1), run_dir / "alone.pt")
    with pytest.raises(UserError, match=message):
        load_run(run_dir / name)
