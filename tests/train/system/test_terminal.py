"""What a long command says while it works."""

import io

import pytest
import rich.console
import rich.table

from train.preparation.account import Account, Source
from train.preparation.assemble import Assembled
from train.preparation.summary import print_summary
from train.scoring.score import Score
from train.scoring.scoreboard import score_table
from train.system import terminal
from train.system.terminal import TrainingProgress, console, duration, print_table

OUTSIDE = ["base[lr=1e-3]", "x[/home]", ":x:", "[bold]b[/]", "[/", "a\\[b]", "1e-3", "[@click=x]y"]
"""Names and texts that a library for terminals could take for its own."""


@pytest.mark.parametrize("text", OUTSIDE)
def test_text_from_outside_is_printed_as_it_is(text, capsys):
    console.print(text)
    console.print(text, style="bold")
    table = rich.table.Table("name", title=text)
    table.add_column(text)
    table.add_row(text, text)
    print_table(table)
    print_table(score_table({text: {text: Score(1.0, 2.0, 3.0, 4)}}, text, text))
    account = Account([Source("prepare.text", text, "text")])
    account.parts[0].reject("empty", text)
    print_summary(console, account, Assembled({}, 0))
    console.rule(text)
    assert capsys.readouterr().out.count(text) == 2 + 4 + 3 + 2 + 1


def test_the_rate_is_of_training_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    progress = TrainingProgress(5, 100, 1000)

    def made(step, share, seconds):
        now[0] += seconds
        progress.advance(step, share, 1.0)
        return progress.tokens_per_second

    # The first step after a start compiles the gradient, its sum and the update.
    assert [made(5, 0.5, 20.0), made(5, 1.0, 20.0)] == [0, 0]
    progress.paused()
    assert [made(6, 0.5, 1.0), made(6, 1.0, 0.5), made(7, 0.5, 0.5)] == [0, 1000, 1000]
    progress.paused()
    assert [made(7, 1.0, 9.0), made(8, 0.5, 0.25)] == [0, 2000]


def test_a_table_is_never_cut_off(monkeypatch):
    name = "runs/with/a/long/name/" * 5
    table = rich.table.Table("source", "predictor")
    table.add_row(name, name)
    for width, rows in ((40, 7), (None, 1)):
        shown = io.StringIO()
        monkeypatch.setattr("sys.stdout", shown)
        screen = rich.console.Console(width=width, force_terminal=width is not None)
        monkeypatch.setattr(terminal, "console", screen)
        print_table(table)
        lines = [line for line in shown.getvalue().splitlines() if line.startswith("\u2502")]
        assert len(lines) == rows
        for column in (1, 2):
            assert "".join(line.split("\u2502")[column].strip() for line in lines) == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.4, "9s"), (59.6, "1m 00s"), (247, "4m 07s"), (11_100, "3h 05m"), (183_700, "2d 03h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
