"""A save in the background, without what it saves; test_base_run.py has real ones."""

import threading
import time

import pytest

from train.checkpoints import background_save
from train.checkpoints.background_save import BackgroundSave
from train.system.errors import UserError


@pytest.fixture
def blocked():
    """What a save that is under way waits for."""
    event = threading.Event()
    yield event
    event.set()


def test_whoever_begins_a_save_goes_on_and_the_next_save_waits_for_it(blocked):
    saving, done = BackgroundSave(), []

    def slow():
        assert blocked.wait(10)
        done.append(1)

    saving.begin(1, slow)
    saving.check()
    assert done == []
    threading.Timer(0.05, blocked.set).start()
    saving.begin(2, lambda: done.append(2))
    assert done[0] == 1
    saving.wait()
    assert done == [1, 2]


def test_who_waits_long_is_told_for_what(blocked, monkeypatch, capsys):
    monkeypatch.setattr(background_save, "_PATIENCE", 0.01)
    saving = BackgroundSave()
    saving.wait()
    saving.begin(7, lambda: blocked.wait(10))
    threading.Timer(0.1, blocked.set).start()
    saving.wait()
    assert capsys.readouterr().out == "step 7 is still being saved: waiting for it\n"
    saving.wait()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("asked", ["check", "wait", "begin"])
def test_an_error_is_raised_once_by_whatever_is_called_next(asked):
    saving, before = BackgroundSave(), threading.active_count()

    def fail():
        raise UserError("full")

    saving.begin(1, fail)
    while asked == "check" and threading.active_count() > before:  # it does not wait
        time.sleep(0.01)
    arguments = (2, pytest.fail) if asked == "begin" else ()
    with pytest.raises(UserError, match="full"):
        getattr(saving, asked)(*arguments)
    saving.check()
    saving.wait()
