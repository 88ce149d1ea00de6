"""Two and three commands that start in one folder at once: one runs, and nothing of it is lost."""

import json
import random
import shutil
import time

import pytest
from helpers import warm_python
from helpers.broken_runs import BASE, PIPELINE, difference, one_line, there

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

TEXT = ("train.expert", "--config", "c.yaml", "--training.domain", "text", "--training.steps", "4")
FUSION = ("train.fusion", "--config", "c.yaml", "--training.steps", "4")
PREPARE = ("train.prepare", "--config", "c.yaml", "--data_dir")


@pytest.fixture(scope="module")
def piped(folder, tmp_path_factory):
    """The run_dir of a whole pipeline."""
    run_dir = tmp_path_factory.mktemp("piped") / "runs"
    done = warm_python.run(folder, *PIPELINE, "--run_dir", str(run_dir))
    assert done.returncode == 0, done.stderr
    return run_dir


def at_once(folder, lines):
    processes = [warm_python.start(folder, *line) for line in lines]
    return [process.wait() for process in processes]


def judged(ends, winners=(1,)):
    """What is wrong with how commands ended that started at once; None if nothing is."""
    won = [done for done in ends if done.returncode == 0]
    if len(won) not in winners:
        return f"{len(won)} ran: {[(done.args, done.stderr[-300:]) for done in ends]}"
    lost = (one_line(done) for done in ends if done.returncode)
    return next((found for found in lost if found), None)


def test_starts_in_one_run(folder, whole, tmp_path, figure):
    """Of a run that has begun, in any mix of --resume and --overwrite."""
    moments = random.Random(0)
    wrong, said = [], []
    rounds = 8
    for number in range(rounds):
        run = tmp_path / str(number) / "checkpoints_base"
        first = (*BASE, "--run_dir", str(run.parent))
        process = warm_python.start(folder, *first)
        while not there(run, "*_4.pt") and process.running():
            time.sleep(0.002)
        process.kill()
        process.wait()
        flags = moments.choices(("--resume", "--overwrite"), k=moments.choice((2, 3)))
        ends = at_once(folder, [(*first, flag) for flag in flags])
        said += [done.stderr.strip().replace(str(run), "RUN") for done in ends if done.returncode]
        found = judged(ends) or difference(run, whole)
        if found:
            wrong.append(f"{number}, {flags}: {found}")
    figure(f"starts in one run at once: {rounds - len(wrong)} of {rounds}; {set(said)}")
    assert not wrong, "\n".join(wrong)


def test_starts_in_an_empty_folder(folder, whole, tmp_path, figure):
    wrong, rounds = [], 3
    for number in range(rounds):
        run = tmp_path / str(number) / "checkpoints_base"
        line = (*BASE, "--run_dir", str(run.parent))
        found = judged(at_once(folder, [line] * (2 + number % 2))) or difference(run, whole)
        if found:
            wrong.append(f"{number}: {found}")
    figure(f"starts in an empty folder at once: {rounds - len(wrong)} of {rounds}")
    assert not wrong, "\n".join(wrong)


def test_stages_and_pipelines_at_once(folder, piped, tmp_path, figure):
    """Experts, fusions and pipelines beside each other, in a run_dir where all is there."""
    wrong = []
    rounds = {
        "two pipelines": (PIPELINE, PIPELINE),
        "three pipelines": (PIPELINE, PIPELINE, PIPELINE),
        "two experts": ((*TEXT, "--overwrite"), (*TEXT, "--resume"), (*TEXT, "--overwrite")),
        "a fusion and another": ((*FUSION, "--overwrite"), (*FUSION, "--overwrite")),
        "a fusion and a pipeline": ((*FUSION, "--overwrite"), PIPELINE),
        "a base and a pipeline": ((*BASE, "--overwrite"), PIPELINE, (*BASE, "--resume")),
    }
    for name, lines in rounds.items():
        run_dir = tmp_path / name / "runs"
        if "pipelines" not in name:
            shutil.copytree(piped, run_dir)
            if "experts" in name:  # half done
                for path in (run_dir / "checkpoints_text").glob("*_4*"):
                    path.unlink()
                shutil.rmtree(run_dir / "checkpoints_text" / "state" / "4")
        options = ("--run_dir", str(run_dir), "--base_model", str(piped / "checkpoints_base"))
        ends = at_once(
            folder, [(*line, *options[: 2 if line[0] == "train.pipeline" else 4]) for line in lines]
        )
        # A pipeline that has nothing left to do is so short that both may run.
        if found := judged(ends):
            wrong.append(f"{name}: {found}")
            continue
        for stage in ("base", "text", "fusion"):
            left, right = (each / f"checkpoints_{stage}" for each in (run_dir, piped))
            if found := difference(left, right):
                wrong.append(f"{name}: {stage}: {found}")
        if "pipelines" in name:
            for each in ("evaluation-validation.json", "samples.json"):
                if (run_dir / each).read_bytes() != (piped / each).read_bytes():
                    wrong.append(f"{name}: another {each}")
    figure(f"stages and pipelines at once: {len(rounds) - len(wrong)} of {len(rounds)}")
    assert not wrong, "\n".join(wrong)


def test_preparations_at_once(folder, tmp_path, figure):
    wrong, rounds = [], 3
    wanted = json.loads((folder / "data" / "manifest.json").read_text())["files"]
    for number in range(rounds):
        data = tmp_path / str(number) / "data"
        ends = at_once(folder, [(*PREPARE, str(data))] * (2 + number % 2))
        found = judged(ends)
        if not found and json.loads((data / "manifest.json").read_text())["files"] != wanted:
            found = "other data"
        if found:
            wrong.append(f"{number}: {found}")
    figure(f"preparations at once: {rounds - len(wrong)} of {rounds}")
    assert not wrong, "\n".join(wrong)
