"""What a long command says while it works."""

import re

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

LONG = "runs/a-name-that-is-long/[of two words] and more/checkpoints_base/base_model_step_9.pt"
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


@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_are_written_out_on_a_terminal_alone(is_terminal, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    text = "a\tb\n\x1b[2J\r\0\x7f\x9b caf\u00e9 \U0001f600"
    written = "a\tb\n\\x1b[2J\\r\\x00\\x7f\\x9b caf\u00e9 \U0001f600"
    assert terminal.for_terminal(text) == (written if is_terminal else text)


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


@pytest.mark.parametrize(("later", "said"), [(None, ""), (57_000, ", 2m 30s for all stages")])
def test_the_time_left_of_a_stage_and_of_all(monkeypatch, capsys, later, said):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    progress = TrainingProgress(0, 100, 1000, later)
    progress.paused()
    for step in (5, 6, 7):
        now[0] += 1.0
        progress.advance(step, 0.0, 2.5)
    progress.report(2.5)
    left = "1m 33s left"
    assert capsys.readouterr().out == f"step 7/100  loss 2.5000  1,000 tokens/s  {left}{said}\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.4, "9s"), (59.6, "1m 00s"), (247, "4m 07s"), (11_100, "3h 05m"), (183_700, "2d 03h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("width", [None, 72])
def test_tables_are_not_cut_off(width, capsys, monkeypatch):
    if width:
        narrow = rich.console.Console(force_terminal=True, width=width)
        monkeypatch.setattr(terminal, "console", narrow)
    scores = {name: Score(1.25, 3.5, 0.75, 123_456) for name in (LONG, "bigram")}
    print_table(score_table({"text": scores}, "validation split", LONG))
    printed = capsys.readouterr().out
    lines = [re.sub("\x1b.*?m", "", line) for line in printed.splitlines()]
    assert max(map(len, lines)) <= (width or 200)
    names = "".join(line[1:-1].split("│")[1].strip() for line in lines if line.count("│") > 4)
    assert names.replace(" ", "") == f"{LONG}bigram".replace(" ", "")
    assert printed.count("123,456") == 2 and "…" not in printed
