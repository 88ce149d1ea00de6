"""Runs over several devices and in several processes: the numbers of one device, and clear ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from helpers import warm_python
from helpers.command_lines import command, contents, error, run, write_sources

import bridge
from bridge.weights import variables

CONFIG = """
data_dir: data
run_dir: runs
seed: 3
prepare: {text: [raw/text], code: [raw/code], validation_fraction: 0.2}
model: {vocab_size: 300, model_dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 24, dropout: 0.0}
optimizer: {learning_rate: 1.0e-2, warmup_steps: 3}
training:
  {steps: 8, batch_size: 4, sequence_length: 16, accumulation: 2, log_every: 1, validate_every: 4,
   validation_batches: 2, checkpoint_every: 3, keep_checkpoints: 9}
"""

LOST = (
    "error: another process of this run ended or cannot be reached, see what it printed: start all "
    "processes again with --resume"
)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_sources(folder)
    (folder / "c.yaml").write_text(CONFIG)
    run(folder, "train.prepare", "--config", "c.yaml")
    return folder


@pytest.fixture(scope="session")
def on_one(prepared):
    """The run's folder of one process on one device."""
    run(prepared, "train.base", "--config", "c.yaml", "--run_dir", "one")
    return prepared / "one" / "checkpoints_base"


@pytest.fixture
def start(prepared):
    """A function that starts the processes of one run; none of them outlives the test."""
    started = []
    ports = {}

    def start(run_dir, count, data, model, *options, module="train.base", only=None):
        if run_dir not in ports or only is None:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                ports[run_dir] = free.getsockname()[1]
        port, indices = ports[run_dir], range(count) if only is None else [only]
        for index in indices:
            line, environment = command(
                *(module, "--config", "c.yaml", "--run_dir", run_dir),
                *("--mesh.data", data, "--mesh.model", model),
                *("--distributed.coordinator", f"localhost:{port}"),
                *("--distributed.processes", count, "--distributed.process", index, *options),
            )
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen(line, cwd=prepared, env=environment, **pipes)
            started.append(process)
        return started[-len(indices) :]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end(processes, timeout=300):
    """Each process as it ended, with its whole output."""
    outputs = [process.communicate(timeout=timeout) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def finish(processes):
    for done in end(processes):
        assert done.returncode == 0, done.stderr
    return processes


def wait_for_step(folder, step):
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < step:
        time.sleep(0.02)


def losses(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "grad_norm", "mean_decay", "max_state", "loss/text", "loss/code")
    return np.array([record[name] for record in records for name in names if name in record])


def assert_same_run(folder, expected, rel=1e-5):
    np.testing.assert_allclose(losses(folder), losses(expected), rtol=rel)
    assert bridge.steps(folder) == bridge.steps(expected)
    of_file = {path.name for path in expected.iterdir()}
    assert {path.name for path in folder.iterdir()} == of_file


def assert_same_state(found, expected):
    """Bit for bit."""
    trees = [
        (variables(state.model), state.optimizer_state.exp_avg, state.optimizer_state.exp_avg_sq)
        for state in (found, expected)
    ]
    for one, wanted in zip(*trees, strict=True):
        assert one.keys() == wanted.keys()
        for path, array in wanted.items():
            np.testing.assert_array_equal(one[path], array)


def test_several_devices_of_one_process_have_the_numbers_of_one(prepared, on_one):
    options = ("--run_dir", "devices", "--mesh.data", 2, "--mesh.model", 2)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    words = ("train.base", "--config", "c.yaml", *map(str, options))
    done = warm_python.run(prepared, *words, environment={"XLA_FLAGS": flags})
    assert done.returncode == 0, done.stderr
    assert_same_run(prepared / "devices" / "checkpoints_base", on_one)


def test_two_processes_have_the_numbers_of_one(prepared, on_one, start):
    first, second = end(start("two", 2, 1, 2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert_same_run(prepared / "two" / "checkpoints_base", on_one)
    assert "checkpoint: two/checkpoints_base/base_model_step_8.pt" in first.stdout
    assert "step" not in second.stdout


@pytest.mark.chaos
def test_what_the_first_process_refuses_all_refuse(prepared, start):
    finish(start("again", 2, 1, 2))
    before = contents(prepared / "again")
    refused = end(start("again", 2, 1, 2))
    assert [done.returncode for done in refused] == [2, 2]
    assert refused[0].stderr.startswith("error: again/checkpoints_base holds a run: give --resume")
    assert refused[1].stderr.startswith("error: process 0 said: again/checkpoints_base holds a run")
    assert contents(prepared / "again") == before


def test_a_mesh_that_is_not_there_is_one_error(prepared):
    done = run(prepared, "train.base", "--config", "c.yaml", "--mesh.data", "2", code=2)
    assert error(done) == (
        "error: mesh: data 2 times model 1 is 2 devices, and there are 1: set mesh.data and "
        "mesh.model to as many"
    )


@pytest.mark.chaos
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("model", [1, 2])
def test_fifty_steps_of_several_processes_are_those_of_one(prepared, count, model, start):
    steps = ("--training.steps", "50", "--run_dir")
    if not (prepared / "long").exists():
        run(prepared, "train.base", "--config", "c.yaml", *steps, "long")
    name = f"long{count}{model}"
    finish(start(name, count, count // model, model, *steps[:2]))
    assert_same_run(prepared / name / "checkpoints_base", prepared / "long" / "checkpoints_base")


@pytest.mark.chaos
def test_what_four_processes_saved_goes_on_in_one_and_in_two(prepared, on_one, start):
    """Those save the state that they resumed from again: it is the same, bit for bit."""
    finish(start("four", 4, 2, 2))
    newest = prepared / "four" / "checkpoints_base"
    for name, resume in (
        ("one of four", lambda *words: run(prepared, "train.base", "--config", "c.yaml", *words)),
        ("two of four", lambda _, name, *words: finish(start(name, 2, 1, 2, *words))),
    ):
        folder = prepared / name / "checkpoints_base"
        shutil.copytree(newest, folder)
        for step in (6, 8):
            shutil.rmtree(bridge.state_folder(folder, step))
            (folder / f"base_model_step_{step}.pt").unlink()
        (folder / "base_model_step_3.pt").unlink()  # so it is written from what was restored
        resume("--run_dir", name, "--resume")
        assert_same_run(folder, on_one)
        written = bridge.load_torch(folder / "base_model_step_3.pt")
        assert_same_state(written, bridge.load_orbax(bridge.state_folder(newest, 3)))


@pytest.mark.parametrize(
    "killed", [pytest.param(0, marks=pytest.mark.chaos), pytest.param(1, marks=pytest.mark.slow)]
)
def test_when_one_is_killed_the_others_end_in_one_line(prepared, killed, start):
    name = f"killed{killed}"
    processes = start(name, 2, 2, 1, "--training.steps", "5000")
    wait_for_step(prepared / name / "checkpoints_base", 5)
    processes[killed].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    others = [done for done in end(processes) if done.returncode != -signal.SIGKILL]
    assert time.monotonic() - begun < 60
    for done in others:
        assert done.stderr.splitlines()[-1].startswith(LOST)
        assert "Traceback" not in done.stderr
        assert done.returncode == 2


SLEEPING = """
import runpy, sys, time
from train.step.trainer import Trainer
step = Trainer.step
def slow_step(self, state, batches, note):
    if "3" == sys.argv[-1] and int(state.step) in (0, 4):
        time.sleep(60)
    return step(self, state, batches, note)
Trainer.step = slow_step
runpy.run_module("train.base", run_name="__main__", alter_sys=True)
"""


@pytest.mark.chaos
def test_the_others_wait_for_a_process_that_sleeps_in_a_step(prepared, start, on_one):
    (prepared / "sleeping.py").write_text(SLEEPING)
    finish(start("sleeping", 4, 2, 2, module="sleeping"))
    assert_same_run(prepared / "sleeping" / "checkpoints_base", on_one)


@pytest.mark.chaos
def test_processes_with_different_settings_are_one_error(start):
    processes = [
        start("different", 2, 2, 1, "--seed", seed, only=index) for index, seed in enumerate((3, 4))
    ]
    for done in end([process for group in processes for process in group]):
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(
            ("error: the processes have different configs: start all with the same", LOST)
        )


@pytest.mark.chaos
def test_a_process_that_stands_still_ends_the_run_in_one_line(prepared, start):
    options = ("--training.steps", "5000", "--training.hang_seconds", "15")
    processes = start("still", 2, 2, 1, *options, "--distributed.heartbeat_seconds", "99")
    wait_for_step(prepared / "still" / "checkpoints_base", 5)
    processes[1].send_signal(signal.SIGSTOP)
    _, errors = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 2
    assert errors.startswith("error: no micro-batch was done in 15 s: ")


@pytest.mark.chaos
def test_a_signal_to_one_process_ends_all_after_the_same_step(prepared, on_one, start):
    processes = start("signal", 2, 2, 1)
    wait_for_step(prepared / "signal" / "checkpoints_base", 4)
    processes[1].send_signal(signal.SIGTERM)
    printed = {done.stderr for done in end(processes)}
    assert len(printed) == 1
    assert "which is saved: continue with --resume" in printed.pop()
    assert {process.returncode for process in processes} == {130}
    finish(start("signal", 2, 2, 1, "--resume"))
    np.testing.assert_allclose(
        losses(prepared / "signal" / "checkpoints_base"), losses(on_one), rtol=1e-5
    )
