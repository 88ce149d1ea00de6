"""Where a run may be written: what cannot be is said before anything is read or trained."""

import pytest

from train.run.run_folder import check_may_begin, check_writable
from train.system.errors import UserError


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
