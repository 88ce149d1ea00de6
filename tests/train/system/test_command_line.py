"""How commands end (train/system/command_line.py), Ctrl-C included."""

import argparse
import errno
import io
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from helpers.command_lines import command, run_anew
from helpers.paths import ROOT

from train.step.loop import train
from train.system.command_line import exit_after, parse_options
from train.system.errors import UserError
from train.system.interrupt import SAVING, STOPPING, StopSignal, interrupt_on_signals
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
            ["--run", "a", "--dry_runs"],
            "error: unknown option --dry_runs: did you mean --dry-run?\n",
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
    for spelled in ("--dry-run", "--dry_run"):
        assert parse_options(parser, ["--run=a_b-c", spelled]).dry_run
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
    done = run_anew(tmp_path, "collecting", code=130)
    assert time.monotonic() - start < 15
    assert (done.stdout, done.stderr) == ("", "interrupted\n")


@pytest.mark.parametrize("module", ["train.base", "train.pipeline", "mmrec_jax.generate"])
def test_ctrl_c_while_a_command_starts_just_ends_it(tmp_path, module):
    # The folder that a command runs in comes first where modules are looked for.
    (tmp_path / "jsonargparse.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)")
    done = run_anew(tmp_path, module, code=-signal.SIGINT)
    assert (done.stdout, done.stderr) == ("", "")


STEPS = """
import os, signal, sys, time
from types import SimpleNamespace
from train.checkpoints.background_save import BackgroundSave
from train.step.loop import train
from train.system.watchdog import Watchdog
from train.system.command_line import exit_after

def step(state, batches, advance):
    if state.step == 1:
        print("at work", flush=True)
        sys.stdin.buffer.raw.read(1)  # as in a library, where no handler is called
        while sys.argv[1] == "hangs":
            sys.stdin.buffer.raw.readinto(bytearray(1))
    return SimpleNamespace(step=state.step + 1), {"skipped": 0.0, "parameter_norm": 1.0}

trainer = SimpleNamespace(config=SimpleNamespace(training=SimpleNamespace(steps=4)), step=step)
progress = SimpleNamespace(advance=lambda *_: None, paused=lambda: None)
saving = BackgroundSave()
def write(step):
    time.sleep(60 if sys.argv[1] == "hangs in the save" else 0.2)
    print("saved", step, flush=True)
def save(state, values):
    saving.begin(state.step, lambda: write(state.step))
first = SimpleNamespace(step=0)
ends = save, None, progress, Watchdog(99), saving.wait
exit_after(lambda: train(trainer, first, None, [], *ends))
"""
"""A run of four steps, without JAX's part in them; a byte on stdin ends step 2."""


def end_step(process):
    process.stdin.write(b"x")
    process.stdin.flush()


def test_signals_save_first_and_a_second_one_ends_at_once(tmp_path):
    (tmp_path / "steps.py").write_text(STEPS)
    _, environment = command("steps")
    hangs = (signal.SIGINT, signal.SIGINT)
    saves = (signal.SIGTERM, signal.SIGINT)  # the second one while the step is saved
    processes = {}
    for given in (
        (signal.SIGINT,),
        (signal.SIGTERM, signal.SIGTERM),  # at once, as timeout sends it
        (signal.SIGHUP,),
        (signal.SIGUSR1,),
        hangs,
        saves,
    ):
        how = {hangs: "hangs", saves: "hangs in the save"}.get(given, "ends")
        line = [sys.executable, "steps.py", how]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes[given] = subprocess.Popen(line, cwd=tmp_path, env=environment, **pipes)
    for given, process in processes.items():
        assert process.stdout.readline() == b"at work\n"
        for number in given:
            process.send_signal(number)
            if given in (hangs, saves):
                time.sleep(0.7)
            if given is saves and number == given[0]:
                end_step(process)
        if given not in (hangs, saves):
            time.sleep(0.2)
            end_step(process)
    ends = {
        given: (*process.communicate(), process.returncode) for given, process in processes.items()
    }
    said = b"interrupted at step 2, which is saved: continue with --resume\n"
    for given, end in ends.items():
        if given in (hangs, saves):
            again = b"interrupted again, and ended at once: what was saved is kept\n"
            assert end == (b"", again, 130)
        elif given == (signal.SIGUSR1,):
            assert end == (b"saved 2\nstep 2 is saved, as SIGUSR1 asked\n", b"", 0)
        else:
            assert end == (b"saved 2\n", said, 130), given


def test_a_signal_during_the_last_save_ends_the_command_after_it():
    def step(state, batches, advance):
        return SimpleNamespace(step=1), {"skipped": 0.0, "parameter_norm": 1.0}

    training = SimpleNamespace(steps=1)
    trainer = SimpleNamespace(config=SimpleNamespace(training=training), step=step)
    progress = SimpleNamespace(advance=lambda *_: None, paused=lambda: None)
    ends = None, None, progress, None, lambda: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="at step 1, which is saved"):
        train(trainer, SimpleNamespace(step=0), None, [], *ends)


def test_a_request_to_save_does_not_end_what_a_command_has_started():
    code = (
        "import subprocess, train.system.interrupt as signals\n"
        "signals.end_at_once()\n"
        "signals.interrupt_on_signals()\n"
        "print(subprocess.run(['sh', '-c', 'kill -USR1 $$; echo alive']).returncode)"
    )
    line, environment = command("x")
    done = subprocess.run([line[0], "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "alive\n0\n", done.stderr


def test_what_is_ignored_stays_ignored():
    before = {number: signal.getsignal(number) for number in (*STOPPING, SAVING)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        interrupt_on_signals()
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(SAVING)
        assert (stop.requested, stop.saving) == (False, True)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


FULL = OSError(errno.ENOSPC, "No space left on device", "runs/x.pt")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FULL, "runs/x.pt: No space left on device"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError("40 requested and 0 written"), "40 requested and 0 written"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, message, capsys):
    def refused():
        raise error

    with pytest.raises(SystemExit) as stopped:
        exit_after(refused)
    assert (stopped.value.code, *capsys.readouterr()) == (2, "", f"error: {message}\n")


PRINTING = """
import sys
from train.system.command_line import exit_after
from train.system.errors import UserError
from train.system.terminal import console

def show():
    try:
        print("x", flush=True) if sys.argv[1] == "0" else console.print("x")
    except OSError as error:  # as whoever writes a file and prints about it
        raise UserError("the wrong file: No space left on device") from error

exit_after(show)
"""


def test_an_output_that_is_full_or_closed_is_one_line(tmp_path):
    (tmp_path / "printing.py").write_text(PRINTING)
    _, environment = command(tmp_path, "printing")
    for how in "01":
        for output, reason in (
            (">/dev/full", "standard output: No space left on device"),
            ("| sleep 0", "standard output: Broken pipe"),
            (">&-", "standard output is closed: redirect it, to /dev/null if nobody reads it"),
            (">/dev/full 2>/dev/full", None),
        ):
            line = f"set -o pipefail; (sleep 0.2; exec {sys.executable} printing.py {how}) {output}"
            done = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            said = "" if reason is None else f"error: {reason}\n"
            assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_who_asks_to_save_before_a_command_has_begun_does_not_end_it():
    ask = (
        "import sys; sys.argv[0] = '-m'; import signal, train; signal.raise_signal(signal.SIGUSR1)"
    )
    line = [sys.executable, "-c", ask]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
