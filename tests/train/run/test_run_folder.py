"""Whether a run may begin in a folder, and what is deleted for it: said before anything is read."""

import pytest

from train import evaluate
from train.run.run_folder import check_may_begin, check_writable, delete_run
from train.settings.config import Config
from train.system.errors import UserError


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
    (run / "config.yaml").write_text("seed: 1")
    check_may_begin(run, overwrite=True)
    delete_run(run)
    assert run.is_symlink()
    assert list(run.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "checkpoints_base"}


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
