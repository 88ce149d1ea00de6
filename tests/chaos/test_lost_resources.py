"""Folders that vanish or cannot be written, outputs and files that run out: one line, no loss."""

import contextlib
import json
import os
import shutil
import subprocess
import time

import pytest
from helpers import warm_python
from helpers.broken_runs import BASE, PIPELINE, difference, one_line, resumed_to_the_end, started
from helpers.command_lines import command
from helpers.full_disks import disk, mount

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

PREPARE = ("train.prepare", "--config", "c.yaml", "--data_dir")


def wait_for(process, run, step):
    """Waits until a run has made a step, or has ended."""
    path = run / "metrics.jsonl"
    while process.running():
        with contextlib.suppress(OSError):
            if f'"step": {step},' in path.read_text():
                return
        time.sleep(0.002)


def again(folder, run, whole, done):
    """What is wrong with a run that goes on if it has to, and ends as if nothing had been."""
    return resumed_to_the_end(folder, run, whole) if done.returncode else difference(run, whole)


def counted(figure, kind, tried, wrong):
    figure(f"{kind}: {len(tried) - len(wrong)} of {len(tried)}; {set(filter(None, tried))}")
    assert not wrong, "\n".join(wrong)


def remove(path):
    path.rename(path.with_name("away"))
    shutil.rmtree(path.with_name("away"))


def test_a_folder_that_is_removed_under_a_run(folder, whole, tmp_path, figure):
    tried, wrong = [], []
    for gone, step in (
        ("run", 1),
        ("run", 5),
        ("run_dir", 3),
        ("state", 5),
        ("tensorboard", 1),
        ("data", 1),
        ("data", 7),
    ):
        place = tmp_path / f"{gone}-{step}"
        run = place / "runs" / "checkpoints_base"
        shutil.copytree(folder / "data", place / "data")
        data = ("--data_dir", str(place / "data"))
        process = started(folder, run, *BASE, *data)
        wait_for(process, run, step)
        removed = {"run": run, "run_dir": run.parent, "data": place / "data"}.get(gone, run / gone)
        while process.running() and not removed.exists():
            time.sleep(0.001)
        remove(removed)
        done = process.wait()
        tried.append(done.stderr.strip().replace(str(place), ""))
        if found := one_line(done) if done.returncode else None:
            wrong.append(f"{gone}, {step}: {found}")
        elif done.returncode == 0 and gone in ("run", "run_dir"):
            wrong.append(f"{gone}, {step}: it ended well, and left nothing")
        elif found := again(folder, run, whole, done):
            wrong.append(f"{gone}, {step}: {found}")
    counted(figure, "folders removed under a run", tried, wrong)


def test_data_that_are_prepared_anew_under_a_run(folder, whole, tmp_path, figure):
    """The run goes on with what it began with, or ends with a line."""
    tried, wrong = [], []
    changed = ("--prepare.seed", "9", "--prepare.validation_fraction", "0.3")
    done = warm_python.run(folder, *PREPARE, str(tmp_path / "other"), *changed)
    assert done.returncode == 0, done.stderr
    report = json.loads((whole / "report.json").read_text())
    for step in (1, 7):
        place = tmp_path / str(step)
        run = place / "runs" / "checkpoints_base"
        shutil.copytree(folder / "data", place / "data")
        process = started(folder, run, *BASE, "--data_dir", str(place / "data"))
        wait_for(process, run, step)
        (place / "data").rename(place / "old")
        shutil.copytree(tmp_path / "other", place / "data")
        done = process.wait()
        tried.append(done.stderr.strip().replace(str(place), ""))
        if done.returncode:
            found = one_line(done)
        else:
            same = json.loads((run / "report.json").read_text()) == report
            found = None if same else "its report is of other data"
        if found or (found := again(folder, run, whole, done)):
            wrong.append(f"step {step}: {found}")
    counted(figure, "data prepared anew under a run", tried, wrong)


def test_too_many_open_files(folder, whole, tmp_path, figure):
    tried, wrong = [], []
    for limit in (14, 18, 22, 26, 30, 36, 44, 60):
        run = tmp_path / str(limit) / "checkpoints_base"
        done = started(folder, run, *BASE, limits={"RLIMIT_NOFILE": limit}).wait()
        tried.append(f"{limit}: {done.returncode} {done.stderr.strip()[-200:]}")
        found = one_line(done) if done.returncode else None
        if found or (found := again(folder, run, whole, done)):
            wrong.append(f"{limit}: {found}")
    for limit in (16, 24, 32, 40):
        data = tmp_path / f"data {limit}"
        line = (*PREPARE, str(data))
        done = warm_python.start(folder, *line, limits={"RLIMIT_NOFILE": limit}).wait()
        tried.append(f"prepare {limit}: {done.returncode} {done.stderr.strip()[-200:]}")
        found = one_line(done) if done.returncode else None
        if not found and warm_python.run(folder, *line).returncode:
            found = "cannot be prepared again"
        if found:
            wrong.append(f"prepare {limit}: {found}")
    for limit in (12, 16, 20, 24, 28):
        line = ("bridge", "to-torch", str(whole), str(tmp_path / f"{limit}.pt"))
        done = warm_python.start(folder, *line, limits={"RLIMIT_NOFILE": limit}).wait()
        tried.append(f"bridge {limit}: {done.returncode} {done.stderr.strip()[-200:]}")
        if found := one_line(done) if done.returncode else None:
            wrong.append(f"bridge {limit}: {found}")
    counted(figure, "too many open files", tried, wrong)


def test_an_output_that_is_full(folder, whole, tmp_path, figure):
    tried, wrong = [], []
    run = tmp_path / "runs" / "checkpoints_base"
    with open("/dev/full", "w") as full:
        for name, line in {
            "base": (*BASE, "--run_dir", str(run.parent)),
            "prepare": (*PREPARE, str(tmp_path / "data")),
            "pipeline": (*PIPELINE, "--run_dir", str(tmp_path / "piped")),
            "evaluate": ("train.evaluate", "--config", "c.yaml", "--run_dir", str(whole.parent)),
            "generate": ("mmrec_jax.generate", "--checkpoint", str(whole), "--prompt", "def"),
            "inspect": ("bridge", "inspect", str(whole)),
            "to-torch": ("bridge", "to-torch", str(whole), str(tmp_path / "x.pt")),
        }.items():
            done = warm_python.start(folder, *line, stdout=full).wait()
            tried.append(f"{name}: {done.stderr.strip()}")
            if found := one_line(done):
                wrong.append(f"{name}: {found}")
    if found := again(folder, run, whole, done):
        wrong.append(f"base: {found}")
    counted(figure, "standard output full", tried, wrong)


def test_an_output_that_ends_while_a_run_prints(folder, whole, tmp_path, figure):
    tried, wrong = [], []
    for step in (1, 6):
        run = tmp_path / str(step) / "checkpoints_base"
        reader, writer = os.pipe()
        with open(writer, "wb") as output:
            process = started(folder, run, *BASE, stdout=output)
            wait_for(process, run, step)
            os.close(reader)
            done = process.wait()
        tried.append(done.stderr.strip())
        if found := one_line(done) or again(folder, run, whole, done):
            wrong.append(f"step {step}: {found}")
    counted(figure, "standard output closed under a run", tried, wrong)


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", ">&-", "<&-"])
def test_outputs_that_are_closed(folder, whole, tmp_path, figure, closed):
    """In a Python of its own, which looks at what is open as it starts."""
    run = tmp_path / "runs" / "checkpoints_base"
    (line, environment), wrong, tried = command(*BASE, "--run_dir", run.parent), [], []
    for words, codes in ((line, (2,) if closed == ">&-" else (0,)), (line, (2,))):
        shell = ["bash", "-c", f'exec "$@" {closed}', "bash", *words]
        done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)
        tried.append(done.stderr.strip())
        if done.returncode not in codes or "Traceback" in done.stderr:
            wrong.append(f"exit code {done.returncode}: {done.stderr[-2000:]}")
        elif found := one_line(done) if closed in (">&-", "<&-") and done.returncode else None:
            wrong.append(found)
    if closed != ">&-" and (found := difference(run, whole)):
        wrong.append(found)
    counted(figure, f"{closed} of a run", tried, wrong)


def test_a_folder_that_becomes_read_only(folder, whole, tmp_path, figure):
    tried, wrong = [], []
    for part, step in (("run_dir", 0), ("run", 0), ("run_dir", 5), ("run", 1), ("state", 5)):
        with disk(tmp_path / f"{part}-{step}") as place:
            run = place / "runs" / "checkpoints_base"
            target = {"run_dir": run.parent, "run": run}.get(part, run / part)
            process = None
            if not step:
                target.mkdir(parents=True)
            else:
                process = started(folder, run, *BASE)
                wait_for(process, run, step)
                while process.running() and not target.exists():
                    time.sleep(0.001)
            assert mount("--bind", str(target), str(target)).returncode == 0
            try:
                assert mount("-o", "remount,bind,ro", str(target)).returncode == 0
                done = (process or started(folder, run, *BASE)).wait()
            finally:
                subprocess.run(["umount", "--lazy", str(target)], check=True)
            tried.append(done.stderr.strip().replace(str(place), ""))
            if found := one_line(done) or again(folder, run, whole, done):
                wrong.append(f"{part}, step {step}: {found}")
    counted(figure, "folders that become read-only", tried, wrong)


def test_data_on_a_read_only_disk(folder, tmp_path, figure):
    with disk(tmp_path / "disk") as place:
        assert mount("-o", "remount,ro", str(place)).returncode == 0
        done = warm_python.run(folder, *PREPARE, str(place / "data"))
        out = [
            warm_python.run(folder, "bridge", "to-torch", "none", str(place / "x.pt")),
            done,
        ]
    assert not [found for found in map(one_line, out) if found]
    figure(f"data on a read-only disk: {done.stderr.strip()}")
