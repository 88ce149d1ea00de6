"""With which settings a run may resume; test_base_run.py resumes real runs."""

import dataclasses

import jax.numpy as jnp
import pytest
import yaml
from flax import nnx
from helpers.small_models import SMALL

import bridge
from mmrec_jax import MMRec100M, MMRecModel, ModelConfig
from train.run.resume import check_may_resume, restore_newest
from train.run.session import check_memory
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.stages.base import BaseStage
from train.system.errors import UserError


def test_runs_that_are_older_than_a_setting_resume(tmp_path):
    run = tmp_path / "checkpoints_base"
    run.mkdir()
    old = {"data_dir": "elsewhere", "training": {"sequence_length": 8, "steps": 9000}}
    (run / "config.yaml").write_text(yaml.safe_dump(old))
    config = Config(
        data_dir="here",
        run_dir=str(tmp_path),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(sequence_length=8, steps=9000),
    )
    check_may_resume(config, run, ())
    training = dataclasses.replace(config.training, packing="documents")
    config = dataclasses.replace(config, training=training)
    with pytest.raises(UserError, match=r"training.packing \(contiguous there, documents now\)"):
        check_may_resume(config, run, ())


@pytest.mark.parametrize(
    ("steps", "stage", "further"),
    [(9001, "base", True), (8999, "base", False), (9001, "text", False)],
)
def test_who_wants_more_steps_is_told_how_to_go_on(tmp_path, steps, stage, further):
    run = tmp_path / f"checkpoints_{stage}"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"training": {"steps": 9000}}))
    config = Config(data_dir="a", run_dir=str(tmp_path), training=TrainingConfig(steps=steps))
    advice = f", where training.start_from: {run} begins with its weights at step 0"
    with pytest.raises(UserError, match=r"training.steps \(9000 there, ") as raised:
        check_may_resume(config, run, ())
    assert str(raised.value).endswith("choose another run_dir" + (advice if further else ""))


@pytest.mark.parametrize("file", [False, True])
def test_weights_that_are_not_finite_are_named_before_anything_is_built(tmp_path, file, recwarn):
    model = MMRecModel(SMALL, rngs=nnx.Rngs(0))
    model.norm.scale[...] = model.norm.scale[...].at[3].set(jnp.nan)
    run = tmp_path / "checkpoints_base"
    state = bridge.state_folder(run, 0)
    bridge.save_orbax(state, model)
    path = run
    if file:
        path = tmp_path / "x.pt"
        bridge.save_torch(path, model)
    config = Config(data_dir="a", run_dir=str(tmp_path), model=SMALL)
    with pytest.raises(UserError, match=f"^{state}: NaN.* norm.scale .1 of 12 values"):
        restore_newest(config, BaseStage(config), None, run)
    training = dataclasses.replace(config.training, start_from=str(path))
    config = dataclasses.replace(config, training=training)
    with pytest.raises(UserError, match=f"^training.start_from: {path}: NaN.* norm.scale .1 of"):
        BaseStage(config).start()
    assert not [warning for warning in recwarn if warning.category is bridge.NonFiniteWarning]


def test_a_model_of_another_class_is_told_what_trains_it(tmp_path):
    run = tmp_path / "checkpoints_base"
    fusion = MMRec100M(dataclasses.replace(SMALL, num_layers=1), rngs=nnx.Rngs(0))
    bridge.save_orbax(bridge.state_folder(run, 5), fusion, step=5)
    config = Config(data_dir="a", run_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"not MMRecModel: python -m train.fusion trains that$"):
        restore_newest(config, BaseStage(config), None, run)


@pytest.mark.parametrize(
    "absurd", [{"num_layers": 10**9}, {"model_dim": 2**31}, {"ffn_dim": 2**40}]
)
def test_a_model_that_no_machine_can_hold_is_refused_before_it_is_built(absurd):
    check_memory(ModelConfig(), 10**9)
    with pytest.raises(UserError, match=r"^model: num_layers .* at least .* has 64.0 GB: lower"):
        check_memory(ModelConfig(**absurd), 64 * 10**9)
