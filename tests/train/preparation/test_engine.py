"""The engines agree, and what interrupts them costs nothing (preparation/engine.py)."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import rich.console
from helpers import documents, warm_python
from helpers.paths import ROOT

from train.preparation.engine import Engine
from train.settings.prepare_config import EngineConfig
from train.system.errors import TasksFailedError

COMMAND = [sys.executable, "-m", "train.prepare"]
WORDS = [f"{a}{b}{c}" for a in "bdfghklmnp" for b in "aeiou" for c in "nrstk"]

SBATCH = """#!{python}
# A cluster of one machine: the tasks of the array run before sbatch returns.
import os, re, subprocess, sys
if "REFUSED" in os.environ:
    sys.exit("sbatch: error: invalid partition specified")
script = open(sys.argv[-1]).read()
assert "#SBATCH --partition=small" in script
print("Submitted batch job 7")
if "launch_pickled_pipeline" in script:
    assert "#SBATCH --mem-per-cpu=3G" in script
    (last,) = re.findall("array=0-([0-9]+)", script)
    for task in range(int(last) + 1):
        variables = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task), SLURM_NODELIST="here")
        with open("slurm.log", "a") as log:
            subprocess.run(["bash", sys.argv[-1]], env=variables, stdout=log, stderr=log)
"""
SRUN = """#!/bin/bash
shift 3  # -l -n 1
exec "$@"
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Text and code, with duplicates and passages that several documents have."""
    root = tmp_path_factory.mktemp("sources")
    words = random.Random(0)
    passage = " ".join(words.choices(WORDS, k=90))
    with open(root / "records.jsonl", "w") as stream:
        for number in range(60):
            text = " ".join(words.choices(WORDS, k=150))
            text += f" {passage}" * (number % 5 == 0)
            for _ in range(1 + (number % 7 == 0)):
                stream.write(json.dumps({"text": text}) + "\n")
    (root / "code").mkdir()
    for number in range(30):
        lines = [f"{words.choice(WORDS)} = {words.choice(WORDS)}()\n" for _ in range(40)]
        (root / "code" / f"{number}.py").write_text("".join(lines))
    return root


def write_config(folder: Path, sources: Path, engine: str = "{workers: 2}") -> Path:
    path = folder / "c.yaml"
    path.write_text(
        f"data_dir: {folder / 'data'}\nrun_dir: {folder / 'runs'}\nmodel: {{vocab_size: 400}}\n"
        f"prepare:\n  text: [{sources / 'records.jsonl'}]\n  code: [{sources / 'code'}]\n"
        f"  validation_fraction: 0.2\n  test_fraction: 0.2\n  engine: {engine}\n"
    )
    return path


def prepare(config: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = ("train.prepare", "--config", str(config), *arguments)
    return warm_python.run(config.parent, *words, environment=environment)


def hashes(folder: Path) -> dict:
    return json.loads((folder / "data" / "manifest.json").read_text())["files"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, sources):
    """The files of a preparation in one process, and what it prints."""
    folder = tmp_path_factory.mktemp("expected")
    done = prepare(write_config(folder, sources, "{workers: 1}"))
    assert (done.returncode, done.stderr) == (0, "")
    return hashes(folder), done.stdout


def test_a_dry_run_shows_the_account_and_writes_nothing(tmp_path, sources, expected):
    config = write_config(tmp_path, sources)
    done = prepare(config, "--dry-run", "--data_dir", str(tmp_path / "new" / "data"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "9 rejected, duplicate: " in done.stdout and "nothing is written" in done.stdout
    tables = expected[1][expected[1].index("source") : expected[1].index("written to")]
    assert tables in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_strict_is_an_exit_code_of_1_where_a_document_is_rejected(tmp_path, sources):
    config = write_config(tmp_path, sources)
    done = prepare(config, "--strict")
    assert done.returncode == 1
    assert done.stderr == (
        "error: 9 documents were rejected, so nothing is written: leave them out of the sources, "
        "or give no --strict\n"
    )
    assert "9 rejected, duplicate: " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def all_ended(group: int) -> bool:
    """Whether no process of a group is left, after some seconds at most."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_and_run_again_it_writes_the_same(tmp_path, sources, expected, seed):
    config = write_config(tmp_path, sources)
    moments = random.Random(seed)
    for sent in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        command = [*COMMAND, "--config", str(config)]
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                process.communicate(timeout=moments.uniform(2, 12))
            except subprocess.TimeoutExpired:
                if sent == signal.SIGINT:  # a terminal sends it to the whole group
                    os.killpg(process.pid, sent)
                else:
                    process.send_signal(sent)
                _, error = process.communicate(timeout=60)
                assert all_ended(process.pid)
                assert sent == signal.SIGKILL or "Traceback" not in error, error
        assert not (tmp_path / "data").exists() or hashes(tmp_path) == expected[0]
    done = prepare(config)
    assert done.returncode == 0
    assert hashes(tmp_path) == expected[0]
    assert {path.name for path in tmp_path.iterdir()} == {"c.yaml", "data"}


def test_a_killed_worker_ends_the_stage_and_the_next_one_goes_on(tmp_path):
    """Where a system is short of memory it kills one process, not the group."""
    console = rich.console.Console(file=io.StringIO())
    done = tmp_path / "done"
    done.mkdir()
    engine = Engine(EngineConfig(workers=2), tmp_path, console)
    with pytest.raises(TasksFailedError, match="a worker was killed"):
        engine.run("stage", 4, [documents.Killed(done)])
    assert (done / "0").exists()
    Engine(EngineConfig(workers=2), tmp_path, console).run("stage", 4, [documents.Killed(done)])
    assert sorted(path.name for path in done.iterdir()) == ["0", "1", "2", "3"]


def test_ctrl_c_ends_a_call_that_is_deep_in_a_library(tmp_path):
    engine = Engine(EngineConfig(), tmp_path, rich.console.Console(file=io.StringIO()))
    worker = tmp_path / "worker"

    def interrupt():
        while not worker.exists() or not worker.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal does, which wakes the main thread

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.call("stuck", documents.stuck_in_a_library, tmp_path)
    assert time.monotonic() - start < 20
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(worker.read_text()), 0)


def test_preparation_imports_neither_jax_nor_torch():
    """What starts the workers imports it before the first stage: it has to be small and quick."""
    program = (
        "import importlib, pkgutil, sys\n"
        "import train.prepare, train.preparation\n"
        "for module in pkgutil.iter_modules(train.preparation.__path__):\n"
        "    importlib.import_module(f'train.preparation.{module.name}')\n"
        "assert 'train.preparation.engine' in sys.modules\n"
        "heavy = {'flax', 'jax', 'jaxlib', 'orbax', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["{workers: 2}", "{kind: ray, workers: 2}"])
def test_engines_write_the_same_files(tmp_path, sources, expected, engine):
    done = prepare(write_config(tmp_path, sources, engine))
    assert (done.returncode, done.stderr) == (0, "")
    assert hashes(tmp_path) == expected[0]


@pytest.fixture
def cluster(tmp_path):
    """A folder with the commands of Slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, content in (
        ("sbatch", SBATCH.format(python=sys.executable)),
        ("srun", SRUN),
        ("squeue", "#!/bin/sh\n"),
        ("scontrol", "#!/bin/sh\necho here\n"),
    ):
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


SLURM = "{kind: slurm, slurm: {partition: small, memory_gb: 3}}"


@pytest.mark.slow
def test_slurm_writes_the_same_files(tmp_path, sources, expected, cluster):
    done = prepare(write_config(tmp_path, sources, SLURM), PATH=cluster)
    assert (done.returncode, done.stderr) == (0, ""), (tmp_path / "slurm.log").read_text()
    assert hashes(tmp_path) == expected[0]


def test_without_a_cluster_slurm_is_one_line(tmp_path, sources, cluster):
    config = write_config(tmp_path, sources, SLURM)
    done = prepare(config, PATH=os.path.dirname(sys.executable))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "sbatch cannot be run" in done.stderr
    done = prepare(config, PATH=cluster, REFUSED="1")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: sbatch refused")
