"""With which settings a run may resume; test_base_run.py resumes real runs."""

import dataclasses
import json

import jax.numpy as jnp
import pytest
import yaml
from flax import nnx
from helpers.small_models import SMALL

import bridge
from mmrec_jax import MMRec100M, MMRecModel, ModelConfig
from train.run.memory import check_memory
from train.run.recorded import Extension
from train.run.resume import Added, Plan, check_may_resume, restore_newest
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


def a_run(folder, *parts, steps=9000):
    """The folder of a run of so many steps, with the record of its parts."""
    run = folder / "checkpoints_base"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"training": {"steps": steps}}))
    (run / "environment.json").write_text(json.dumps(list(parts)))
    return run


def config_of(folder, steps, **optimizer):
    return Config(
        data_dir="a",
        run_dir=str(folder),
        training=TrainingConfig(steps=steps),
        optimizer=OptimizerConfig(**optimizer),
    )


@pytest.mark.parametrize(("steps", "more"), [(9001, 1), (12_000, 3000), (8999, None)])
def test_who_wants_more_steps_is_told_how_to_go_on(tmp_path, steps, more):
    run = a_run(tmp_path)
    advice = f"; --resume --extend {more} trains it for {more} steps more" if more else ""
    with pytest.raises(UserError, match=r"training.steps \(9000 there, ") as raised:
        check_may_resume(config_of(tmp_path, steps), run, ())
    assert str(raised.value).endswith("choose another run_dir" + advice)


def extended(before, after):
    return {"changed": {"training.steps": [before, after]}, "schedule": "stretch"}


def test_the_steps_of_a_run_that_was_extended_hold(tmp_path):
    """Killed once between the record of an extension and the new config, it was extended twice."""
    parts = ({"step": 0}, extended(6000, 9500), extended(6000, 8000), extended(8000, 9000))
    run = a_run(tmp_path, *parts)
    for given in (6000, 8000, 9000):
        plan = check_may_resume(config_of(tmp_path, given), run, ())
        assert (plan.config.training.steps, plan.added) == (9000, None)
        plan = check_may_resume(config_of(tmp_path, given), run, (), Added(50, "restart"))
        assert plan.config.training.steps == 9050
        assert plan.added == (9000, 9050, "restart")
    check_may_resume(config_of(tmp_path, 9050), run, (), Added(50, "restart"))
    for given in (5001, 7000, 9050, 9500):
        with pytest.raises(UserError, match=rf"training.steps \(9000 there, {given} now\)"):
            check_may_resume(config_of(tmp_path, given), run, ())


def test_a_state_is_older_than_an_extension_if_its_schedule_ends_before(tmp_path):
    config = config_of(tmp_path, 9000)
    assert not Plan(config).is_older(9000) and not Plan(config).is_older(None)
    found = [Extension(6000, 8000, "restart"), Extension(8000, 9000, "stretch")]
    ends = (None, 5999, 6000, 8000, 9000)  # 5999 is that of another run
    older = [Plan(config, found).is_older(each) for each in ends]
    assert older == [True, False, True, True, False]


def test_only_a_new_warm_up_may_be_another(tmp_path):
    run, config = a_run(tmp_path), config_of(tmp_path, 9000, warmup_steps=10, warmup_start=0.5)
    plan = check_may_resume(config, run, (), Added(50, "restart"))
    assert plan.config.optimizer == config.optimizer
    for added in (None, Added(50, "stretch")):
        with pytest.raises(UserError, match=r"optimizer.warmup_steps \(5000 there, 10 now\)"):
            check_may_resume(config, run, (), added)
    with pytest.raises(UserError, match=r"^--extend: training.steps must be at most 10000000, not"):
        check_may_resume(config, run, (), Added(10**8, "restart"))


def test_the_warm_up_of_a_restart_holds_as_its_steps_do(tmp_path):
    run = a_run(tmp_path, {"step": 0}, extended(6000, 9000) | {"schedule": "restart"})
    settings = {"training": {"steps": 9000}, "optimizer": {"warmup_steps": 7}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    plan = check_may_resume(config_of(tmp_path, 6000, warmup_steps=50), run, ())
    assert (plan.config.training.steps, plan.config.optimizer.warmup_steps) == (9000, 7)
    with pytest.raises(UserError, match=r"optimizer.beta1 \(0.9 there, 0.5 now\)"):
        check_may_resume(config_of(tmp_path, 6000, beta1=0.5), run, ())


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
        restore_newest(Plan(config), BaseStage(config), None, run)
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
        restore_newest(Plan(config), BaseStage(config), None, run)


@pytest.mark.parametrize(
    "absurd", [{"num_layers": 10**9}, {"model_dim": 2**31}, {"ffn_dim": 2**40}]
)
def test_a_model_that_no_machine_can_hold_is_refused_before_it_is_built(absurd):
    check_memory(ModelConfig(), 10**9)
    with pytest.raises(UserError, match=r"^model: num_layers .* at least .* has 64.0 GB: lower"):
        check_memory(ModelConfig(**absurd), 64 * 10**9)
