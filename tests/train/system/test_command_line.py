"""How commands end (train/system/command_line.py), Ctrl-C included."""

import argparse
import io
import signal
import sys
import time

import pytest
from helpers.command_lines import run

from train.system.command_line import exit_after, parse_options
from train.system.errors import UserError
from train.system.terminal import console


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "error: the following arguments are required: --run: see --help\n"),
        (
            ["--run", "a", "--top", "x"],
            "error: --top: expected a whole number, not x\n",
        ),
        (["a"], "error: a is not an option: write --run a\n"),
        (["--run", "a", "--top"], "error: --top needs a value: write --top VALUE\n"),
        (["--run", "a", "--tpo=3"], "error: unknown option --tpo: did you mean --top?\n"),
        (
            ["--run", "a", "--dry_run"],
            "error: unknown option --dry_run: did you mean --dry-run?\n",
        ),
        (["--run", "a", "--xyz"], "error: unknown option --xyz: --help lists them all\n"),
        (
            ["--run", "a", "b"],
            "error: b is not an option: options are written --NAME VALUE, --help lists them all\n",
        ),
    ],
)
def test_commands_without_a_config_end_with_one_line_too(argv, message, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--top", type=int)
    parser.add_argument("--dry-run", action="store_true")
    given = vars(parse_options(parser, ["--run", "a"]))
    assert given == {"run": "a", "top": None, "dry_run": False}
    with pytest.raises(SystemExit) as stopped:
        exit_after(lambda: print(parse_options(parser, argv)))
    assert (stopped.value.code, *capsys.readouterr()) == (2, "", message)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-8"])
def test_what_a_terminal_cannot_show_is_replaced(encoding, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding, "strict"))

    def show():
        print("caf\u00e9 \u4e2d \U0001f600 \udce9")
        console.print("caf\u00e9 \u4e2d \U0001f600 \udce9")
        raise UserError("caf\u00e9 \u4e2d \U0001f600 \udce9")

    with pytest.raises(SystemExit):
        exit_after(show)
    shown = "caf\u00e9 \u4e2d \U0001f600 \udce9".encode(encoding, "replace")
    for stream, expected in (
        (sys.stdout, shown + b"\n" + shown + b"\n"),
        (sys.stderr, b"error: " + shown + b"\n"),
    ):
        stream.flush()
        assert stream.buffer.getvalue() == expected


COLLECTING = """
import gc, signal, time
from train.system.command_line import exit_after

def _xla_gc_callback(*_):
    gc.callbacks.remove(_xla_gc_callback)
    signal.raise_signal(signal.SIGINT)

def main():
    gc.callbacks.append(_xla_gc_callback)
    gc.collect()
    time.sleep(20)

exit_after(main)
"""


def test_ctrl_c_is_not_lost_in_a_garbage_collection(tmp_path):
    (tmp_path / "collecting.py").write_text(COLLECTING)
    start = time.monotonic()
    done = run(tmp_path, "collecting", code=130)
    assert time.monotonic() - start < 15
    assert (done.stdout, done.stderr) == ("", "interrupted\n")


@pytest.mark.parametrize("module", ["train.base", "train.pipeline", "mmrec_jax.generate"])
def test_ctrl_c_while_a_command_starts_just_ends_it(tmp_path, module):
    # The folder that a command runs in comes first where modules are looked for.
    (tmp_path / "jsonargparse.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)")
    done = run(tmp_path, module, code=-signal.SIGINT)
    assert (done.stdout, done.stderr) == ("", "")
