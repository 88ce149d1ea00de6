"""The help of commands that take a config (train/settings/command_help.py)."""

import pytest

from train import base, evaluate, expert, fusion, prepare
from train.pipeline import __main__ as pipeline

COMMANDS = [each.COMMAND for each in (base, evaluate, expert, fusion, prepare, pipeline)]
NAMES = ["base", "evaluate", "expert", "fusion", "prepare", "pipeline"]


def printed(command, option, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        command.run([option])
    text, error = capsys.readouterr()
    assert (stopped.value.code, error) == (0, "")
    return text


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help_is_one_screen(command, capsys, monkeypatch):
    text = printed(command, "--help", capsys, monkeypatch)
    assert text == printed(command, "-h", capsys, monkeypatch)
    lines = text.splitlines()
    assert 20 < len(lines) <= 50 and max(map(len, lines)) <= 100
    assert command.description in text and "--help-all" in text and "None" not in text
    for key in command.everyday:
        assert f"  --{key} " in text
    flags = [action.dest for action in command.parser()._actions if action.nargs == 0]
    assert all(f"--{name.replace('_', '-')} " in text for name in flags if name[0] != "=")


def test_help_all_shows_every_setting(capsys, monkeypatch):
    text = printed(pipeline.COMMAND, "--help-all", capsys, monkeypatch)
    names = [
        name for action in pipeline.COMMAND.parser()._actions for name in action.option_strings
    ]
    settings = [name for name in names if "." in name and not name.endswith("+")]
    assert len(settings) > 150
    sections = [name for name in settings if f"{name}." in " ".join(settings)]
    assert all(f"{name} " in text for name in settings if name not in sections)
