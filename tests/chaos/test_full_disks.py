"""Full disks, at many sizes and during every kind of write: one line, and nothing is lost."""

import functools
import json
import random
import shutil

import pytest
from helpers import warm_python
from helpers.broken_runs import BASE, PIPELINE, one_line, resumed_to_the_end, started, there
from helpers.full_disks import disk, empty, fill, filled_when, resize

import bridge

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

KB = 1024


def sizes():
    """A disk of so many KB from the start."""
    moments = random.Random(0)
    return [moments.randint(low, low + 60) for low in (4, 24, 90, 200, 400, 460, 520, 580, 800)]


def reached(run, step):
    path = run / "metrics.jsonl"
    return path.exists() and f'"step": {step},' in path.read_text()


MOMENTS = {
    "the first state": (functools.partial(there, pattern="state/2.partial"), 0),
    "the arrays": (functools.partial(there, pattern="state/*.partial/arrays*/**/d/*"), 9 * KB),
    "a later state": (functools.partial(there, pattern="state/6.partial"), 70 * KB),
    "the last state": (functools.partial(there, pattern="state/10.partial"), 180 * KB),
    "the first .pt": (functools.partial(there, pattern=".base_model_step_2.pt.*"), 0),
    "a later .pt": (functools.partial(there, pattern=".base_model_step_8.pt.*"), 20 * KB),
    "the last .pt": (functools.partial(there, pattern=".base_model_step_10.pt.*"), 100 * KB),
    "metrics and events": (functools.partial(reached, step=3), 0),
    "the metrics' last": (functools.partial(reached, step=9), 0),
    "the report": (functools.partial(there, pattern="base_model_step_10.pt"), 0),
    "the picture": (functools.partial(there, pattern="report.json"), 3 * KB),
    "the config": (lambda run: run.is_dir(), 0),
}


def gone_on(folder, run, whole, done, codes=(2,)):
    """What is wrong with a run whose disk was full, once there is room again."""
    if wrong := one_line(done, codes) if done.returncode else None:
        return wrong
    return resumed_to_the_end(folder, run, whole)


def counted(cases, wrong, figure, kind):
    figure(f"disk full, {kind}: {len(cases) - len(wrong)} of {len(cases)}")
    for case in cases:
        print(case)
    assert not wrong, "\n".join(map(str, wrong))


def test_training_on_a_small_disk(folder, whole, tmp_path, figure):
    cases, wrong = [], []
    for size in sizes():
        with disk(tmp_path / f"{size}K", size * KB) as place:
            run = place / "runs" / "checkpoints_base"
            done = started(folder, run, *BASE).wait()
            cases.append(f"{size} KB: {done.returncode} {done.stderr.strip()[-300:]}")
            empty(place)
            if done.returncode == 0 or (found := gone_on(folder, run, whole, done)):
                wrong.append(f"{size} KB: {found if done.returncode else 'it was large enough'}")
    counted(cases, wrong, figure, "from the start, in training")


def test_training_on_a_disk_that_another_fills(folder, whole, tmp_path, figure):
    cases, wrong = [], []
    for name, (happened, left) in MOMENTS.items():
        with disk(tmp_path / name) as place:
            run = place / "runs" / "checkpoints_base"
            with filled_when(place, functools.partial(happened, run), left):
                done = started(folder, run, *BASE).wait()
            full = (place / "filler").exists()
            cases.append(f"{name}: {done.returncode} {done.stderr.strip()[-300:]}")
            empty(place)
            if not full or (found := gone_on(folder, run, whole, done)):
                wrong.append(f"{name}: {found if full else 'it was never full'}")
    counted(cases, wrong, figure, "from a moment on, in training")


def test_training_with_a_limit_of_the_files(folder, whole, tmp_path, figure):
    """Of 12 sizes, from less than a config to nearly a whole .pt file."""
    cases, wrong = [], []
    for size in (100, 1000, 2000, 2500, 5000, 9000, 20_000, 29_950, 60_000, 100_000, 203_000):
        run = tmp_path / str(size) / "checkpoints_base"
        done = started(folder, run, *BASE, limits={"RLIMIT_FSIZE": size}).wait()
        cases.append(f"{size} bytes: {done.returncode} {done.stderr.strip()[-300:]}")
        if done.returncode == 0 or (found := gone_on(folder, run, whole, done)):
            wrong.append(f"{size}: {found if done.returncode else 'it was large enough'}")
    counted(cases, wrong, figure, "limits of files, in training")


def hashes(data):
    return json.loads((data / "manifest.json").read_text())["files"]


def test_preparation(folder, tmp_path, figure):
    cases, wrong = [], []
    prepare = ("train.prepare", "--config", "c.yaml", "--data_dir")
    for size in (8, 40, 100, 200, 300, 400, 500):
        with disk(tmp_path / f"{size}K", size * KB) as place:
            done = warm_python.run(folder, *prepare, str(place / "data"))
            cases.append(f"{size} KB: {done.returncode} {done.stderr.strip()[-300:]}")
            empty(place)
            if found := one_line(done):
                wrong.append(f"{size} KB: {found}")
                continue
            done = warm_python.run(folder, *prepare, str(place / "data"))
            if done.returncode or hashes(place / "data") != hashes(folder / "data"):
                wrong.append(f"{size} KB, again: {done.stderr[-1500:]}")
    for size in (500, 4000, 30_000):
        data = tmp_path / f"limit {size}" / "data"
        limits = {"RLIMIT_FSIZE": size}
        done = warm_python.start(folder, *prepare, str(data), limits=limits).wait()
        cases.append(f"{size} bytes: {done.returncode} {done.stderr.strip()[-300:]}")
        if found := one_line(done):
            wrong.append(f"{size} bytes: {found}")
            continue
        done = warm_python.run(folder, *prepare, str(data))
        if done.returncode or hashes(data) != hashes(folder / "data"):
            wrong.append(f"{size} bytes, again: {done.stderr[-1500:]}")
    counted(cases, wrong, figure, "in preparation")


def test_a_pipelines_end(folder, tmp_path, figure):
    """Its evaluation, export and report, after the stages."""
    cases, wrong = [], []
    with disk(tmp_path / "disk") as place:
        run_dir = place / "runs"
        line = (*PIPELINE, "--run_dir", str(run_dir))
        done = warm_python.run(folder, *line)
        assert done.returncode == 0, done.stderr
        shutil.copytree(run_dir, tmp_path / "whole")
        ends = ("export", "evaluation-validation.json", "evaluation-validation.png", "samples.json")
        ends += ("report.html",)
        for left in (0, 5 * KB, 50 * KB, 150 * KB):
            for name in ends:
                path = run_dir / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            fill(place, left)
            done = warm_python.run(folder, *line)
            cases.append(f"{left} bytes left: {done.returncode} {done.stderr.strip()[-300:]}")
            empty(place)
            if found := one_line(done):
                wrong.append(f"{left} bytes left: {found}")
            done = warm_python.run(folder, *line)
            if done.returncode:
                wrong.append(f"{left} bytes left, again: {done.stderr[-1500:]}")
            for name in ("report.html", "evaluation-validation.json", "export/manifest.json"):
                if (run_dir / name).read_bytes() != (tmp_path / "whole" / name).read_bytes():
                    wrong.append(f"{left} bytes left: {name} differs")
    counted(cases, wrong, figure, "in a pipeline's end")


def test_conversion(folder, whole, tmp_path, figure):
    cases, wrong = [], []
    file = next(whole.glob("*_10.pt"))
    with disk(tmp_path / "disk") as place:
        for command, source, target in (
            ("to-torch", whole, "x.pt"),
            ("to-torch", whole, "x.safetensors"),
            ("from-torch", file, "run/checkpoints_base"),
        ):
            line = ("bridge", command, str(source), str(place / target))
            for left in (0, 30 * KB, 120 * KB):
                fill(place, left)
                done = warm_python.run(folder, *line)
                cases.append(f"{target}, {left}: {done.returncode} {done.stderr.strip()[-300:]}")
                empty(place)
                if found := one_line(done):
                    wrong.append(f"{target}, {left}: {found}")
                elif any(path.is_file() for path in place.rglob("*")):
                    wrong.append(f"{target}, {left}: {list(place.rglob('*'))} are left over")
            resize(place)
            assert warm_python.run(folder, *line).returncode == 0
            if not bridge.compare(bridge.load(place / target), bridge.load(whole)).agrees():
                wrong.append(f"{target}: another content")
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    counted(cases, wrong, figure, "in conversion")
