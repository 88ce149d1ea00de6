"""SIGKILL at random moments of real runs: each resumes, and ends as if nothing had been."""

import random
import time

import pytest
from helpers.broken_runs import BASE, difference, resumed, started, there

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

RUNS, KILLS = 10, 5


def is_saving(run):
    """Whether a state or a .pt file is being written."""
    return there(run, "state/*.partial") or there(run, ".*.pt.*.tmp")


def in_a_save(process, run, moments):
    """Waits until a run saves, and then for less or more than a save's length."""
    while process.running() and not is_saving(run):
        time.sleep(0.0005)
    time.sleep(moments.choice((0, moments.uniform(0, 0.1), moments.uniform(0, 0.5))))


def test_50_kills(folder, whole, tmp_path, figure):
    seconds = time.monotonic()
    assert resumed(folder, whole, *BASE).returncode == 0  # all is compiled now
    seconds = time.monotonic() - seconds
    killed, wrong, at = 0, [], []
    for seed in range(RUNS):
        moments = random.Random(seed)
        run = tmp_path / str(seed) / "checkpoints_base"
        for number in range(KILLS):
            for _ in range(20):  # some are done before their moment
                resume = ("--resume",) if (run / "config.yaml").exists() else ()
                process = started(folder, run, *BASE, *resume)
                if number % 2 == 0:  # the first of all is in the first save
                    in_a_save(process, run, moments)
                else:
                    time.sleep(moments.uniform(0, 1.5 * seconds))
                alive = process.running()
                process.kill()
                done = process.wait()
                if alive and done.returncode == -9:
                    break
                if done.returncode:
                    wrong.append(f"run {seed}, kill {number}: {done.stderr[-2000:]}")
                    break
            killed += 1
            at.append(len(list(run.glob("*.pt"))))
        done = resumed(folder, run, *BASE)
        if done.returncode:
            wrong.append(f"run {seed} does not resume: {done.stderr[-2000:]}")
        elif different := difference(run, whole):
            wrong.append(f"run {seed}: {different}")
    figure(
        f"SIGKILL: {killed} in {RUNS} runs, {RUNS - len(wrong)} of {RUNS} ended bitwise equal; "
        f".pt files at the kills: {at}"
    )
    assert not wrong, "\n".join(wrong)
