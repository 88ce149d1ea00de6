"""Training states: to a checkpoint and back, on disk, and from other programs' files."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.small_models import SMALL
from helpers.transfers import counted

import bridge
from train.checkpoints import run_states
from train.checkpoints.fit import check_finite, check_model, check_training
from train.checkpoints.state import checkpoint_of, state_of
from train.data.batches import batch_of
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.stages.base import initial_model
from train.step.schedule import origin_of
from train.step.trainer import Trainer
from train.system.errors import UserError

MODEL = dataclasses.replace(SMALL, dropout=0.0, dpg_rank=3)


def config_of(model=MODEL, steps=24):
    return Config(
        data_dir="unused",
        run_dir="unused",
        model=model,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=6),
        training=TrainingConfig(steps=steps, accumulation=1),
    )


@functools.lru_cache
def trained(model=MODEL, steps=3):
    """A trainer and its state after some steps, which no test may update."""
    config = config_of(model)
    start = initial_model(config)
    trainer = Trainer(config, start)
    state = trainer.initial_state(start)
    keys = jax.random.split(jax.random.key(1), steps)
    for key in keys:
        tokens = jax.random.randint(key, (2, 9), 0, model.vocab_size)
        grads, _ = trainer.gradient(state, batch_of(tokens), 0)
        state, _ = trainer.update(state, grads)
    return trainer, state


@pytest.fixture(scope="module")
def plain():
    return trained()


@pytest.fixture(scope="module")
def saved(plain):
    return checkpoint_of(*plain, avg_loss=2.5, metadata={"note": "a"})


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert jax.tree.structure(found) == jax.tree.structure(expected)


@pytest.mark.parametrize(
    "variant", [{}, {"use_dpg": True}, {"use_hem": True, "use_uboo": True}, {"use_sparse": True}]
)
@pytest.mark.parametrize("form", ["memory", "orbax", "x.pt", "x.safetensors"])
def test_a_state_comes_back_to_the_bit(variant, form, tmp_path):
    trainer, state = trained(dataclasses.replace(MODEL, num_experts=4, **variant), steps=1)
    content = checkpoint_of(trainer, state, avg_loss=2.5, metadata={})
    if form == "orbax":
        run_states.save(tmp_path, content, keep=1)
        content = bridge.load(tmp_path)
    elif form != "memory":
        bridge.save_file(tmp_path / form, content)
        content = bridge.load(tmp_path / form)
    assert_same(state_of(trainer, content), state)


def test_what_a_checkpoint_says_of_its_training(saved):
    assert (saved.step, saved.optimizer_state.step, saved.scheduler_state.step) == (3, 3, 3)
    assert saved.scheduler_state == bridge.SchedulerState(
        base_lr=3e-3, warmup_steps=6, total_steps=24, step=3
    )
    assert saved.optimizer_state.hyperparameters["lr"] == pytest.approx(3e-3 * 0.55)
    assert saved.avg_loss == 2.5
    assert saved.metadata == {"note": "a"}


def at(content, step):
    optimizer = dataclasses.replace(content.optimizer_state, step=step)
    return dataclasses.replace(content, step=step, optimizer_state=optimizer, scheduler_state=None)


def test_states_are_kept_and_old_ones_removed(tmp_path, saved):
    for step in (5, 7, 11):
        run_states.save(tmp_path, at(saved, step), keep=2)
    assert bridge.steps(tmp_path) == [7, 11]
    assert bridge.load(tmp_path).step == 11


def test_other_peoples_files_in_a_state_are_kept(tmp_path, saved, capsys):
    run_states.save(tmp_path, at(saved, 5), keep=1)
    notes = bridge.state_folder(tmp_path, 5) / "notes.txt"
    notes.write_text("dear")
    run_states.save(tmp_path, at(saved, 7), keep=1)
    assert notes.read_text() == "dear" and bridge.steps(tmp_path) == [5, 7]
    said = capsys.readouterr().out.replace("\n", " ")
    assert "state/5 is not removed, as training has not written its notes.txt" in said
    (notes.parent / "checkpoint.json").write_text("{}")  # damaged: it would be written again
    with pytest.raises(UserError, match=r"notes\.txt: move that away"):
        run_states.save(tmp_path, at(saved, 5), keep=1)
    mine = tmp_path / "state" / "9.partial" / "mine"
    mine.mkdir(parents=True)
    with pytest.raises(UserError, match="has not written its mine"):
        run_states.remove_leftovers(tmp_path)
    assert mine.is_dir() and notes.read_text() == "dear"


def test_nothing_is_removed_through_a_link(tmp_path, saved):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").mkdir()
    bridge.state_folder(tmp_path, 3).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"state/3 is a link"):
        run_states.save(tmp_path, saved, keep=1)


def test_what_was_just_saved_is_never_the_oldest(tmp_path, saved):
    """A run that a damaged state was passed over in comes to its step again."""
    for step in (5, 9, 7, 8):
        run_states.save(tmp_path, at(saved, step), keep=1)
    assert bridge.steps(tmp_path) == [8, 9]


@pytest.mark.parametrize(
    ("keep", "kept"), [(None, [2, 4, 10, 30]), (1, [10, 30]), (2, [4, 10, 30]), (9, [2, 4, 10, 30])]
)
def test_the_newest_pt_files_are_kept_and_others_are_not_looked_at(tmp_path, keep, kept):
    others = {"text_expert_step_1.pt", "base_model_step_1.pt.bak", "my_base_model_step_1.pt"}
    files = {f"base_model_step_{step}.pt" for step in (2, 4, 10, 30)}
    for name in files | others:
        (tmp_path / name).touch()
    run_states.remove_exports(tmp_path, "base_model", step=10, keep=keep)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == others | {f"base_model_step_{step}.pt" for step in kept}


def test_a_state_that_is_there_is_never_taken_away(tmp_path, saved, monkeypatch):
    run_states.save(tmp_path, saved, keep=1)
    monkeypatch.setattr(shutil, "rmtree", None)
    run_states.save(tmp_path, saved, keep=1)
    assert bridge.steps(tmp_path) == [3]


def test_a_full_disk_is_one_line(tmp_path, saved):
    (tmp_path / "state").write_text("in the way")
    message = r"^the state after step 3: .*: Not a directory: continue with --resume$"
    with pytest.raises(UserError, match=message):
        run_states.save(tmp_path, saved, keep=1)


def test_too_little_room_is_said_before_anything_is_written(tmp_path, saved, monkeypatch):
    run_states.check_space(tmp_path, saved)
    arrays = bridge.variables(saved.model)
    size = 2 * 3 * sum(array.nbytes for array in arrays.values())
    for free, enough in ((size, True), (size // 2, False)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        if enough:
            run_states.check_space(tmp_path, saved)
            continue
        with pytest.raises(UserError, match=r"^step 3 cannot be saved to .*: it needs .* are free"):
            run_states.check_space(tmp_path, saved)


def test_unfinished_states_do_not_count(tmp_path, saved):
    run_states.save(tmp_path, at(saved, 1), keep=3)
    run_states.save(tmp_path, at(saved, 2), keep=3)
    (tmp_path / "state" / "2" / "manifest.json").unlink()
    (tmp_path / "state" / "3.partial" / "arrays").mkdir(parents=True)
    assert bridge.steps(tmp_path) == [1]
    run_states.save(tmp_path, at(saved, 2), keep=3)
    assert bridge.steps(tmp_path) == [1, 2]
    (tmp_path / "state" / "mine.partial").mkdir()
    (tmp_path / ".loss.png.0123abcd.tmp").touch()
    run_states.remove_leftovers(tmp_path)
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"1", "2", "mine.partial"}
    assert not list(tmp_path.glob(".*"))


def test_a_path_may_go_up(tmp_path, saved):
    (tmp_path / "below").mkdir()
    run_states.save(tmp_path, saved, keep=1)
    assert bridge.load(tmp_path / "below" / "..").step == 3


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def two_states(saved, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    for step in (1, 3):
        run_states.save(run, at(saved, step), keep=2)
    return run


def resumed(run):
    """What a run resumes from, by its path in the folder, and its step."""
    path, loaded = run_states.restore_newest(run, "base_model")
    return path.relative_to(run).as_posix(), loaded.step


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_of_a_state_is_found_and_the_one_before_is_taken(
    two_states, saved, tmp_path, damage, capsys
):
    run = tmp_path / "run"
    shutil.copytree(two_states, run)
    assert resumed(run) == ("state/3", 3)
    assert capsys.readouterr().out == ""
    files = [path for path in (run / "state" / "3").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        before = path.read_bytes()
        if not before and damage != "removed":
            continue
        DAMAGES[damage](path)
        assert resumed(run) == ("state/1", 1), path
        said = capsys.readouterr().out
        assert said.startswith(f"passed over, and looking for an older one: {run}/state/3: "), path
        path.write_bytes(before)
    DAMAGES[damage](path)
    run_states.save(run, saved, keep=2)  # as a run does that comes to this step again
    assert resumed(run) == ("state/3", 3)


def test_the_newest_whole_thing_is_taken_a_pt_file_included(two_states, saved, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(two_states, run)
    run_states.export_torch(run / "base_model_step_3.pt", saved)
    run_states.export_torch(run / "text_expert_step_9.pt", at(saved, 9))  # of another stage
    assert resumed(run) == ("state/3", 3)
    flipped(run / "state" / "3" / "checkpoint.json")
    assert resumed(run) == ("base_model_step_3.pt", 3)
    shutil.copytree(run / "state" / "1", run / "state" / "7")
    (run / "base_model_step_8.pt").write_bytes(b"PK")
    capsys.readouterr()
    assert resumed(run) == ("base_model_step_3.pt", 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert f"{run}/base_model_step_8.pt: " in lines[0]
    assert lines[1].endswith(f"{run}/state/7: damaged: it is the state after step 1")
    shutil.rmtree(run / "state")
    (run / "base_model_step_3.pt").unlink()
    with pytest.raises(UserError, match=r"base_model_step_8.pt: .* has nothing whole to resume"):
        resumed(run)
    (run / "base_model_step_8.pt").unlink()
    assert run_states.restore_newest(run, "base_model") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ffn_dim": 21}, "model.ffn_dim is 20 in the checkpoint and 21 in the config"),
        ({"num_heads": 4}, "model.num_heads is 3 in the checkpoint and 4 in the config"),
        ({"use_dpg": True}, "model.use_dpg is None in the checkpoint and True in the config"),
    ],
)
def test_another_models_state_is_refused(saved, change, message):
    config = config_of(dataclasses.replace(MODEL, **change))
    with pytest.raises(UserError, match=message):
        check_model(config.model, saved.model, "")


def test_dropout_may_differ(plain, saved):
    config = config_of(dataclasses.replace(MODEL, dropout=0.5))
    state = state_of(Trainer(config, initial_model(config)), saved)
    assert_same(state.params, plain[1].params)


def without(moments, *names):
    return {path: array for path, array in moments.items() if not set(names) & set(path)}


def changed_optimizer(content, **changes):
    return dataclasses.replace(
        content, optimizer_state=dataclasses.replace(content.optimizer_state, **changes)
    )


def test_moments_that_do_not_fit_are_refused(plain, saved):
    trainer, _ = plain
    moments = saved.optimizer_state.exp_avg
    missing = changed_optimizer(saved, exp_avg=without(moments, "W_z"))
    with pytest.raises(UserError, match=r"lack those of blocks\.0\.W_z\.bias, blocks\.1\.W_z"):
        state_of(trainer, missing)
    other = changed_optimizer(saved, exp_avg={**moments, ("norm", "bias"): jnp.zeros(12)})
    with pytest.raises(UserError, match=r"include those of what is not trained, norm\.bias"):
        state_of(trainer, other)


def test_weights_alone_start_anew_and_do_not_go_on(plain, saved):
    trainer, state = plain
    alone = dataclasses.replace(saved, optimizer_state=None, scheduler_state=None)
    with pytest.raises(UserError, match="is after 3 steps and has no optimizer state"):
        state_of(trainer, alone)
    begun = state_of(trainer, dataclasses.replace(alone, step=0))
    assert_same(begun.params, state.params)
    assert int(begun.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(begun.optimizer))


def test_steps_that_disagree_are_refused(plain, saved):
    with pytest.raises(UserError, match="after 4 steps, but its optimizer after 3"):
        state_of(plain[0], dataclasses.replace(saved, step=4))


@pytest.mark.parametrize("made", [2, 9])
def test_a_schedule_at_another_step_keeps_its_own_count(made, plain, saved):
    schedule = dataclasses.replace(saved.scheduler_state, step=made)
    imported = dataclasses.replace(saved, scheduler_state=schedule)
    config = config_of(steps=24 + 3 - made)  # the last step is the schedule's
    trainer = Trainer(config, initial_model(config), origin=origin_of(imported))
    check_training(config, imported)
    state = state_of(trainer, imported)
    again = checkpoint_of(trainer, state, avg_loss=0.0, metadata={})
    assert (again.step, again.optimizer_state.step) == (3, 3)
    assert again.scheduler_state == schedule
    rate = schedule.learning_rate()
    assert again.optimizer_state.hyperparameters["lr"] == rate
    _, metrics = trainer.update(state, jax.tree.map(jnp.zeros_like, state.params))
    assert float(metrics["learning_rate"]) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(
    ("grad", "loss"), [(np.nan, 1.0), (np.inf, 1.0), (-np.inf, 1.0), (3e38, 1.0), (1.0, np.nan)]
)
def test_a_step_that_is_not_finite_changes_nothing(plain, grad, loss):
    trainer, state = plain
    grads = jax.tree.map(jnp.ones_like, state.params)
    path = next(iter(grads))
    grads[path] = grads[path].at[(0,) * grads[path].ndim].set(grad)
    if grad == 3e38:  # its square overflows
        grads = jax.tree.map(lambda array: array * grad, grads)
    same, metrics = trainer.update(jax.tree.map(jnp.copy, state), grads, loss)
    assert bool(metrics["skipped"])
    assert_same(same, state)
    _, metrics = trainer.update(same, jax.tree.map(jnp.ones_like, state.params), 1.0)
    assert not bool(metrics["skipped"])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (
            "model",
            np.nan,
            r"where that cannot be: blocks\.1\.norm1\.scale \(1 of 12 values\); take",
        ),
        ("exp_avg", -np.inf, r"exp_avg of blocks\.1\.norm1\.scale \(1 of 12"),
        ("exp_avg_sq", np.inf, r"exp_avg_sq of blocks\.1\.norm1\.scale \(1 of 12"),
        ("exp_avg_sq", -1.0, r"exp_avg_sq of blocks\.1\.norm1\.scale \(1 of 12"),
    ],
)
def test_values_that_nothing_can_start_from_are_named(saved, kind, value, message):
    check_finite(saved)
    path = ("blocks", 1, "norm1", "scale")
    if kind == "model":
        model = initial_model(config_of())
        scale = model.blocks[1].norm1.scale
        scale[...] = scale[...].at[3].set(value)
        wrong = dataclasses.replace(saved, model=model)
    else:
        moments = dict(getattr(saved.optimizer_state, kind))
        moments[path] = jnp.asarray(moments[path]).at[3].set(value)
        wrong = changed_optimizer(saved, **{kind: moments})
    with pytest.raises(UserError, match=message):
        check_finite(wrong)


def test_half_precision_is_refused(saved):
    graphdef, state = nnx.split(saved.model)
    half = nnx.merge(graphdef, jax.tree.map(lambda array: array.astype(jnp.bfloat16), state))
    with pytest.raises(UserError, match="weights are bfloat16"):
        check_model(MODEL, half, "")


def test_every_other_setting_of_an_import_is_listed(saved):
    check_training(config_of(), saved)
    config = dataclasses.replace(
        config_of(),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            min_learning_rate=1e-4,
            warmup_steps=5,
            warmup_start=0.2,
            weight_decay=0.2,
            beta2=0.9,
        ),
        training=TrainingConfig(steps=30),
    )
    with pytest.raises(UserError) as caught:
        check_training(config, saved)
    for key in (
        "learning_rate",
        "min_learning_rate",
        "warmup_steps",
        "warmup_start",
        "weight_decay",
        "beta2",
    ):
        assert f"optimizer.{key} is " in str(caught.value)
    assert "training.steps is 24 in the checkpoint and 30 in the config" in str(caught.value)
    with pytest.raises(UserError) as caught:  # another run's state
        check_training(
            config, saved, free=["optimizer.learning_rate", "optimizer.min_learning_rate"]
        )
    assert "learning_rate" not in str(caught.value)
    assert "optimizer.beta2 is 0.999 in the checkpoint and 0.9 in the config" in str(caught.value)
    assert "beta1" not in str(caught.value)


def test_a_state_is_fetched_once_and_saved_from_the_host(plain, tmp_path):
    trainer, state = plain
    with counted() as transfers:
        content = checkpoint_of(trainer, state, avg_loss=2.5, metadata={})
        run_states.export_torch(tmp_path / "x.pt", content)
        run_states.save(tmp_path, content, keep=1)
    leaves = jax.tree.leaves(state)
    assert sorted(transfers.fetched) == sorted(leaf.shape for leaf in leaves)
    assert transfers.sent == []


def test_what_was_fetched_stays_as_it_was_while_steps_go_on(plain):
    trainer, _ = plain
    model = initial_model(config_of())
    state = trainer.initial_state(model)
    fetched = jax.device_get(state)
    before = jax.tree.map(np.array, fetched)
    for _ in range(3):
        state, _ = trainer.update(state, jax.tree.map(jnp.ones_like, state.params))
    assert_same(fetched, before)
    path = next(iter(before.params))
    assert not np.array_equal(state.params[path], before.params[path])


def test_moments_are_stacked_on_the_device(plain, saved, tmp_path):
    trainer, _ = plain
    bridge.save_file(tmp_path / "x.pt", saved)
    loaded = bridge.load(tmp_path / "x.pt")
    with counted() as transfers:
        state_of(trainer, loaded)
    assert transfers.fetched == transfers.sent == []


def test_training_does_not_take_the_checkpoints_own_moments(plain, saved, tmp_path):
    trainer, _ = plain
    bridge.save_file(tmp_path / "x.pt", saved)
    loaded = bridge.load(tmp_path / "x.pt")
    state = state_of(trainer, loaded)

    def places(arrays):
        return {array.unsafe_buffer_pointer() for array in jax.tree.leaves(arrays)}

    assert not places(loaded.optimizer_state.exp_avg) & places(state.optimizer)
    assert not places(loaded.optimizer_state.exp_avg_sq) & places(state.optimizer)
