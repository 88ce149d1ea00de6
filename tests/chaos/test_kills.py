"""SIGKILL at random moments of real runs: each resumes, and ends as if nothing had been."""

import random
import re
import time

import pytest
from helpers.broken_runs import BASE, STEPS, difference, resumed, started, there

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

RUNS, KILLS = 10, 5


@pytest.fixture(scope="module")
def compiled(folder, whole):
    """All that a run compiles that is resumed: who is killed may leave half a file of it."""
    assert resumed(folder, whole, *BASE).returncode == 0


def steps_made(run):
    path = run / "metrics.jsonl"
    try:
        return max(map(int, re.findall(r'"step": (\d+),', path.read_text())), default=0)
    except OSError:
        return 0


def is_saving(run):
    """Whether a state or a .pt file is being written."""
    return there(run, "state/*.partial") or there(run, ".*.pt.*.tmp")


def wait(process, run, step, in_a_save, moments):
    """Waits until a run has made so many steps, or saves after them, and then for a moment."""
    while process.running() and (steps_made(run) < step or (in_a_save and not is_saving(run))):
        time.sleep(0.0005 if in_a_save else 0.002)
    time.sleep(moments.choice((0, moments.uniform(0, 0.1), moments.uniform(0, 0.6))))


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_run_that_is_killed_five_times(folder, whole, compiled, tmp_path, figure, seed):
    moments = random.Random(seed)
    run = tmp_path / "checkpoints_base"
    at = []
    while len(at) < KILLS:
        step = min(moments.randint(0, 1) + 2 * len(at), STEPS - 1)
        resume = ("--resume",) if (run / "config.yaml").exists() else ()
        process = started(folder, run, *BASE, *resume)
        if len(at) == 1 and seed % 2:
            time.sleep(moments.uniform(0, 3))  # while it starts
        else:
            wait(process, run, step, len(at) % 2 == 0, moments)  # the first in its first save
        process.kill()
        done = process.wait()
        assert done.returncode in (-9, 0), done.stderr
        if done.returncode:
            at.append(f"{steps_made(run)}{'s' if is_saving(run) else ''}")
    done = resumed(folder, run, *BASE)
    assert done.returncode == 0, done.stderr
    different = difference(run, whole)
    end = different or "bitwise equal, metrics without a gap"
    figure(f"SIGKILL, run {seed}: {KILLS} kills after steps {', '.join(at)} (s: in a save): {end}")
    assert not different
