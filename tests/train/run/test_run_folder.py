"""Whether a run may begin in a folder, and what is deleted for it: said before anything is read."""

import dataclasses
import functools
import shutil
from types import SimpleNamespace

import pytest
from helpers.command_lines import contents

from train import base, evaluate, expert, fusion
from train.pipeline import __main__ as pipeline
from train.run.run_folder import (
    check_may_begin,
    check_still_there,
    check_writable,
    delete_run,
    describe_run,
    identity_of,
    locked_runs,
)
from train.run.session import Session
from train.settings.cli import parse_command
from train.settings.config import Config, TrainingConfig
from train.settings.pipeline_config import PipelineConfig
from train.stage_command import added_steps, steps_of
from train.system.errors import ResumableError, UserError
from train.system.write import write_text

OURS = "data_dir: a\ntraining: {steps: 9}\n"
"""The least that a run's config has."""


@pytest.mark.parametrize("name", ["love.txt", "notes.tmp", "weights.partial", ".hidden.tmp"])
def test_other_peoples_folders_are_refused_and_kept(tmp_path, name):
    (tmp_path / name).write_text("dear")
    with pytest.raises(UserError, match="is not a run's folder"):
        check_may_begin(tmp_path, overwrite=True)
    delete_run(tmp_path)
    assert (tmp_path / name).read_text() == "dear"


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    run = tmp_path / "checkpoints_base"
    run.symlink_to("disk")
    check_may_begin(run, overwrite=False)
    (run / "config.yaml").write_text(OURS)
    check_may_begin(run, overwrite=True)
    delete_run(run)
    assert run.is_symlink()
    assert list(run.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "checkpoints_base"}


FILES = (
    "environment.json",
    "tensorboard/events.out.tfevents.1.host.2",
    "state/12/arrays/d/0123abc",
    "state/12/manifest.json",
    "state/15.partial/arrays/ocdbt.process_0/d/ab",
    "continued_model_step_12.pt",
    "code_expert_step_9.pt",
    ".loss.png.0123abcd.tmp",
)


def run_with(folder, *names):
    for name in ("config.yaml", *FILES, *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(OURS)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "state/notes", "state/12/notes", "tensorboard/x.csv", "state/12/arrays.txt"),
        *("best_model_step_9.pt", ".thesis.docx.tmp"),
    ],
)
def test_other_peoples_files_in_a_run_are_kept(tmp_path, name):
    run = run_with(tmp_path / "checkpoints_base", name)
    before = contents(tmp_path)
    message = f"has files that training does not write, such as {name}, and is not deleted"
    for delete in (delete_run, functools.partial(check_may_begin, overwrite=True)):
        with pytest.raises(UserError, match=message):
            delete(run)
    assert contents(tmp_path) == before
    (run / name).unlink()
    delete_run(run)
    assert not list(tmp_path.iterdir())


def test_a_link_in_a_run_is_not_deleted(tmp_path):
    run = run_with(tmp_path / "checkpoints_base")
    (tmp_path / "ideas").mkdir()
    (run / "tensorboard" / "ideas").symlink_to(tmp_path / "ideas")
    with pytest.raises(UserError, match="such as tensorboard/ideas, and is not deleted"):
        check_may_begin(run, overwrite=True)


def test_a_run_that_took_the_place_of_another_is_not_written_to(tmp_path):
    run = run_with(tmp_path / "checkpoints_base")
    mine = identity_of(run)
    check_still_there(run, mine)
    run.rename(tmp_path / "moved")
    for _ in range(2):  # nothing there, and then another run
        with pytest.raises(UserError, match="was removed or moved while it was trained"):
            check_still_there(run, mine)
        run_with(run)
    assert identity_of(tmp_path / "moved") == mine


def test_another_programs_config_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("title: mine\n")
    for delete in (delete_run, functools.partial(check_may_begin, overwrite=True)):
        with pytest.raises(UserError, match=r"config.yaml is not a run's config: choose another"):
            delete(tmp_path)
    assert (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("content", ["5", "[", "[" * 5000, "\0", "a: {b"])
def test_a_damaged_config_is_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    for delete in (delete_run, functools.partial(check_may_begin, overwrite=True)):
        with pytest.raises(UserError, match=r"^.*config.yaml( line 1)?(:| is not a run's config)"):
            delete(tmp_path)


def test_leftovers_of_killed_starts_are_removed_at_the_start(tmp_path):
    """What was being written, and what --overwrite was deleting."""
    run = tmp_path / "checkpoints_base"
    run_with(tmp_path / ".checkpoints_base.old")
    run_with(run)
    tokenizer = run / "tokenizer.json"
    tokenizer.touch()
    (run / "environment.json").unlink()
    describe_run(Config(data_dir="gone", run_dir=str(tmp_path)), run, 12, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints_base"]
    assert [path.name for path in (run / "state").iterdir()] == ["12"]
    assert not list(run.glob(".*"))


def test_what_is_beside_a_run_is_kept(tmp_path):
    run = run_with(tmp_path / "checkpoints_base")
    old = run_with(tmp_path / ".checkpoints_base.old", "mine.txt")
    with pytest.raises(UserError, match=r"\.old has files .* such as mine.txt"):
        delete_run(run)
    (old / "mine.txt").unlink()
    delete_run(run)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["metrics.jsonl", "state", "state/12", "base_model_step_3.pt"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_done_through_a_link_in_a_run(tmp_path, name, overwrite):
    theirs = tmp_path / "theirs"
    (theirs / "12").mkdir(parents=True)
    run = tmp_path / "checkpoints_base"
    (run / name).parent.mkdir(parents=True)
    (run / "config.yaml").write_text(OURS)
    (run / name).symlink_to(theirs)
    config = Config(data_dir="gone", run_dir=str(tmp_path))
    with pytest.raises(UserError, match=f"^{run / name} is a link, and nothing is written or"):
        base.main(config, resume=not overwrite, overwrite=overwrite)
    with pytest.raises(UserError, match=f"^{run / name} is a link"):
        write_text(run / name, "x")
    assert [path.name for path in theirs.rglob("*")] == ["12"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", "run_dir: .*/file is a file, not a folder: choose another run_dir"),
        ("file/checkpoints_base", "run_dir: .*/file is a file, not a folder"),
        ("file/below/checkpoints_base", "run_dir: .*/file is a file, not a folder"),
        ("/proc/runs/checkpoints_base", "run_dir: cannot write to /proc/runs/checkpoints_base: "),
        ("/proc", "run_dir: cannot write to /proc: .*: choose another run_dir"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        check_may_begin(tmp_path / name, overwrite=False)


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("new/checkpoints_base", "there", "there/checkpoints_base"):
        check_writable(tmp_path / name)
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mine/checkpoints_base", r"did you mean .*/mine\?$"),
        ("imported", "move that folder into a run_dir of its own, as RUN_DIR/checkpoints_base$"),
    ],
)
def test_a_checkpoint_in_place_of_run_dir_is_told_where_it_belongs(tmp_path, name, advice):
    state = tmp_path / name / "state" / "5"
    state.mkdir(parents=True)
    for file in ("checkpoint.json", "manifest.json"):
        (state / file).touch()
    file = tmp_path / name / "base_model_step_5.pt"
    file.touch()
    for run_dir, what in ((tmp_path / name, "is itself"), (file, "is a file in")):
        message = f"run_dir: {run_dir} {what} the folder of a checkpoint: {advice}"
        with pytest.raises(UserError, match=message):
            check_may_begin(run_dir / "checkpoints_base", overwrite=False)
        with pytest.raises(UserError, match=message):
            evaluate.main(Config(data_dir="gone", run_dir=str(run_dir)))


ONE_STAGE = "data_dir: gone\nrun_dir: runs\ntraining: {domain: code}\n"
ALL_STAGES = """data_dir: gone
run_dir: runs
stages:
  text: {training: {domain: text}}
  code: {training: {domain: code}}
  continued: {training: {steps: 300_000}}
"""


@pytest.mark.parametrize(
    ("main", "kind", "stage", "flags"),
    [
        (base.main, Config, "base", {"resume": True, "overwrite": False}),
        (base.main, Config, "base", {"resume": False, "overwrite": True}),
        (expert.main, Config, "code", {"resume": False, "overwrite": True}),
        (fusion.main, Config, "fusion", {"resume": False, "overwrite": True}),
        (pipeline.main, PipelineConfig, "continued", {"overwrite": True}),
    ],
)
def test_a_second_start_is_refused_before_anything_is_touched(
    tmp_path, monkeypatch, main, kind, stage, flags
):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / f"checkpoints_{stage}"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(OURS)
    (tmp_path / "c.yaml").write_text(ONE_STAGE if kind is Config else ALL_STAGES)
    config, _ = parse_command(["--config", "c.yaml"], "", kind)
    (tmp_path / "link").symlink_to(run)
    with locked_runs(tmp_path / "link"):
        before = contents(tmp_path)
        message = f"^runs/checkpoints_{stage}: another command is at work on it: wait until"
        with pytest.raises(UserError, match=message):
            main(config, **flags)
        assert contents(tmp_path) == before
    with pytest.raises(UserError, match=r"gone|other settings|prepare lists"):
        main(config, **flags)


@pytest.mark.parametrize(
    ("text", "steps"), [("7", range(7, 8)), ("7-7", range(7, 8)), ("120-122", range(120, 123))]
)
def test_steps_to_skip(text, steps):
    assert steps_of(text) == steps


@pytest.mark.parametrize(
    "text", ["", "0", "0-3", "5-4", "a-b", "3-", "-3", "3,4", "1-2-3", f"1-{10**21}"]
)
def test_wrong_steps_to_skip_are_one_line(text):
    with pytest.raises(UserError, match=r"^--skip-steps: expected steps as N-M, such as 120-122"):
        steps_of(text)
    config = Config(data_dir="gone", run_dir="gone")
    with pytest.raises(UserError, match=r"^--skip-steps is for a run that goes on: give --resume"):
        base.main(config, resume=False, overwrite=False, skip_steps="3-4")


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ((None, None), None),
        (("6", None), (6, "stretch")),
        (("500000", "stretch"), (500_000, "stretch")),
        (("12", "restart"), (12, "restart")),
    ],
)
def test_steps_to_add(words, added):
    assert added_steps(*words) == added


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            ((text, None), "--extend: expected a number of steps, such as 5000, not")
            for text in ("", "0", "-3", "1.5", "ten", "1e3", "9" * 10, "\u0663")
        ),
        (("6", "cosine"), "--schedule: expected stretch or restart, not cosine$"),
        ((None, "restart"), "--schedule is for --extend STEPS: give it too, or leave it out$"),
    ],
)
def test_wrong_steps_to_add_are_one_line(words, message):
    with pytest.raises(UserError, match=f"^{message}"):
        added_steps(*words)


def test_only_a_run_that_goes_on_is_extended():
    config = Config(data_dir="gone", run_dir="gone")
    with pytest.raises(UserError, match=r"^--extend is for a run that goes on: give --resume too"):
        base.main(config, resume=False, overwrite=False, extend="5")


def test_a_pipeline_says_what_resumes_it(tmp_path, monkeypatch):
    """It has no --resume; what its stages say names the one of their own commands."""
    problem = ResumableError("no room", " and --skip-steps 3, or with a lower rate")
    assert str(problem).startswith("no room: continue with --resume and --skip-steps 3, or")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(ALL_STAGES)
    config, _ = parse_command(["--config", "c.yaml"], "", PipelineConfig)

    def fail(_):
        raise problem

    monkeypatch.setattr(pipeline.PipelineRecord, "prepare", fail)
    with pytest.raises(UserError, match=r"^no room: continue with the same command and --skip"):
        pipeline.main(config, overwrite=False)


@pytest.mark.parametrize("left", [(), ("state",)])
def test_a_save_into_a_folder_that_was_removed_ends_the_run(tmp_path, monkeypatch, left):
    """Before it makes the folder anew; or after it, if it was removed meanwhile."""
    run = tmp_path / "checkpoints_base"
    session = Session.__new__(Session)
    session.run, session.trainer = run, None
    session._stage = SimpleNamespace(saved=lambda m: m, file=str, checkpoint_name="base_model")
    session._config = SimpleNamespace(training=TrainingConfig())
    checkpoint = dataclasses.make_dataclass("Checkpoint", ["model", "step"])

    def saved(*_):
        shutil.rmtree(run)
        (run / "state").mkdir(parents=True)

    monkeypatch.setattr("train.run.session.checkpoint_of", lambda *_: checkpoint(None, 5))
    monkeypatch.setattr("train.run.session.run_states.check_space", lambda *_: None)
    monkeypatch.setattr("train.run.session.run_states.save", saved)
    monkeypatch.setattr("train.run.session.run_states.export_torch", lambda *_: None)
    if left:
        run_with(run)
    session._identity = identity_of(run)
    with pytest.raises(UserError, match=r"checkpoints_base was removed or moved while it was"):
        session.write(None, 1.0, {})
    assert [path.name for path in tmp_path.rglob("state")] == list(left)


@pytest.mark.parametrize("name", ["file/checkpoints_base", "/proc/runs/checkpoints_base"])
def test_a_lock_that_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "file").touch()
    message = r"^run_dir: .*: choose another run_dir$"
    with pytest.raises(UserError, match=message), locked_runs(tmp_path / name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
