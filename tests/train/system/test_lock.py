"""Lock files, and whoever dies with one in hand."""

import signal
import subprocess
import sys

import pytest
from helpers.command_lines import command

from train.system.errors import UserError
from train.system.lock import locked

HOLDER = """
import signal
from pathlib import Path
from train.system.lock import locked
with locked(Path("runs/.lock"), "in use"):
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path):
    path = tmp_path / "new" / "folder" / ".lock"
    for _ in range(2):
        with locked(path, "in use"):
            for _ in range(2):
                with pytest.raises(UserError, match=r"^in use$"), locked(path, "in use"):
                    pass
        assert not list(tmp_path.iterdir())


def test_the_lock_of_another_folder_of_the_name_is_left_alone(tmp_path):
    """Whoever is at work on a folder that was moved does not take away the next one's lock."""
    path = tmp_path / "runs" / ".lock"
    with locked(path, "in use"):
        path.parent.rename(tmp_path / "moved")
        path.parent.mkdir()
        path.touch()
    assert path.exists()


def test_an_error_frees_the_lock_and_leaves_what_was_made(tmp_path):
    path = tmp_path / "new" / ".lock"
    with pytest.raises(ZeroDivisionError), locked(path, "in use"):
        (tmp_path / "new" / "kept").touch()
        raise ZeroDivisionError
    with locked(path, "in use"):
        pass
    assert [found.name for found in tmp_path.rglob("*")] == ["new", "kept"]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    (tmp_path / "holder.py").write_text(HOLDER)
    _, environment = command("holder")
    line = [sys.executable, "holder.py"]
    with subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        path = tmp_path / "runs" / ".lock"
        with pytest.raises(UserError, match="in use"), locked(path, "in use"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert path.exists()
    with locked(path, "in use"):
        pass
    assert not path.exists()
