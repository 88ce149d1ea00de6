"""Real runs of `python -m train.base` and `python -m mmrec_jax.generate`, small ones."""

import dataclasses
import html
import json
import re
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from helpers.command_lines import command, contents, error, run, write_sources

import bridge
from bridge.weights import variables
from train.checkpoints.fit import arrays_of
from train.checkpoints.state import checkpoint_of
from train.data.batch_documents import documents_of, named
from train.data.batches import training_rows
from train.data.prepared import PreparedData
from train.generation.speaker import load_speaker
from train.run.recorded import recorded_parts
from train.run.resume import Added
from train.run.run_folder import check_deletable
from train.run.session import open_session
from train.settings.cli import parse_config
from train.stages.base import BaseStage
from train.system.errors import UserError

STEPS = 12
CONFIG = """
data_dir: data
run_dir: runs
seed: 3
prompts: ["def "]
prepare: {text: [raw/text], code: [raw/code], validation_fraction: 0.2}
model: {vocab_size: 300, model_dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 24, dropout: 0.1}
optimizer: {learning_rate: 1.0e-2, warmup_steps: 3}
training:
  {steps: 12, batch_size: 4, sequence_length: 16, accumulation: 2, log_every: 1, validate_every: 6,
   validation_batches: 2, checkpoint_every: 3, keep_checkpoints: 2}
"""


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    kept = ("step", "loss", "grad_norm", "learning_rate", "loss/text", "loss/code")
    return [{key: record[key] for key in kept if key in record} for record in records]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with a config and prepared data."""
    folder = tmp_path_factory.mktemp("prepared")
    write_sources(folder)
    (folder / "c.yaml").write_text(CONFIG)
    run(folder, "train.prepare", "--config", "c.yaml")
    return folder


@pytest.fixture(scope="session")
def finished(prepared):
    """The folder of a run that was never interrupted, and what it printed."""
    done = run(prepared, "train.base", "--config", "c.yaml", "--run_dir", "whole")
    return prepared / "whole" / "checkpoints_base", done.stdout


def test_report(finished):
    folder, printed = finished
    scores = json.loads((folder / "report.json").read_text())["scores"]
    assert set(scores) == {"text", "code"}
    for of_domain in scores.values():
        assert set(of_domain) == {"model", "unigram", "bigram", "5-gram"}
        assert len({score["tokens"] for score in of_domain.values()}) == 1
    for wanted in (
        "bits/byte",
        "perplexity",
        "unigram",
        "bigram",
        "5-gram",
        "sample, prompt 'def '",
    ):
        assert wanted in printed
    for name in (f"base_model_step_{STEPS}.pt", "loss.png", "report.html", "report.json"):
        assert (folder / name).is_file()
        assert name in printed
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    tokens = scores["text"]["model"]["tokens"]
    assert f"bits/byte (on 128 of {tokens:,} tokens)" in printed  # 2 batches of 4 sequences of 16
    assert "left" in printed
    assert "tokens/s" in printed


def test_a_run_says_first_what_it_is_about_to_do(finished):
    folder, printed = finished
    head = printed.splitlines()[:6]
    assert [line.split()[0] for line in head] == [
        "stage", "parameters", "tokens", "data", "run", "device"
    ]  # fmt: skip
    assert head[0].split(maxsplit=1)[1] == "base, MMRecModel"
    total, *parts = (int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\d", head[1]))
    assert total == sum(parts)
    assert head[2].endswith("128 per step, 1,536 in 12 steps")
    assert head[3].endswith(str(folder.parent.parent / "data"))
    assert head[4].endswith(str(folder))
    assert "cores; float32" in head[5]


def test_samples_while_a_run_goes_on_change_nothing_else(prepared, finished):
    options = ("--run_dir", "sampled", "--training.sample_every", "5")
    printed = run(prepared, "train.base", "--config", "c.yaml", *options).stdout
    folder = prepared / "sampled" / "checkpoints_base"
    assert re.findall(r"step (\d+)  sample, prompt 'def ':\ndef ", printed) == ["5", "10", "12"]
    assert losses(folder) == losses(finished[0])
    last = f"base_model_step_{STEPS}.pt"
    sampled, plain = (bridge.load_torch(path / last) for path in (folder, finished[0]))
    assert bridge.compare(sampled, plain, outputs=False).agrees()
    events = b"".join(path.read_bytes() for path in (folder / "tensorboard").iterdir())
    assert events.count(b"sample/def") >= 3


@pytest.mark.slow
def test_a_plan_says_what_the_run_takes_and_writes_nothing(prepared, finished):
    options = ("--run_dir", "planned", "--plan")
    printed = run(prepared, "train.base", "--config", "c.yaml", *options).stdout
    assert not (prepared / "planned").exists()
    assert re.search(r"^plan time    \d.*12 steps", printed, re.MULTILINE)
    assert re.search(r"^plan memory  \d+ MB", printed, re.MULTILINE)
    planned = re.search(
        r"^plan disk    ([\d.]+) MB: 2 states .*4 \.pt files", printed, re.MULTILINE
    )
    real = sum(path.stat().st_size for path in finished[0].rglob("*") if path.is_file())
    assert float(planned[1]) * 1e6 == pytest.approx(real, rel=0.15)


def test_a_plan_is_of_a_whole_run(prepared):
    done = run(prepared, "train.base", "--config", "c.yaml", "--plan", "--resume", code=2)
    assert error(done) == "error: --plan is of a run from its start: leave out --resume"


def test_the_next_commands_of_a_page_run(prepared, finished, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    page = (finished[0] / "report.html").read_text()
    lines = [html.unescape(line) for line in re.findall(r"<pre>python -m (.*?)</pre>", page)]
    generate, extend, evaluate, export = map(shlex.split, lines)
    for words in (evaluate, export):
        run(tmp_path, *words)
    assert (tmp_path / "base.pt").is_file()
    assert (tmp_path / "whole" / "comparison-test-curves.png").is_file()
    assert generate[:2] == ["mmrec_jax.generate", "--checkpoint"] and len(generate) == 5
    assert extend[0] == "train.base" and extend[3:] == ["--resume", "--extend", "1000"]
    config = parse_config(["--config", str(tmp_path / extend[2])], "")
    assert config.training.steps == STEPS


def test_metrics_and_states(finished):
    folder, _ = finished
    records = losses(folder)
    assert [r["step"] for r in records if "loss" in r] == list(range(1, STEPS + 1))
    assert [r["step"] for r in records if "loss/text" in r] == [6, 12]
    assert bridge.steps(folder) == [9, 12]
    assert {p.name for p in folder.glob("*.pt")} == {
        f"base_model_step_{step}.pt" for step in (3, 6, 9, 12)
    }
    assert list((folder / "tensorboard").iterdir())
    assert not [*folder.rglob("*.partial*"), *folder.rglob("*.tmp")]
    check_deletable(folder)  # nothing is in it that --overwrite would take for somebody else's


def test_the_pt_file_is_the_state(finished):
    folder, _ = finished
    model, _, config = load_speaker(folder)
    loaded = bridge.load_torch(folder / f"base_model_step_{STEPS}.pt")
    assert loaded.step == config.training.steps == STEPS
    expected = variables(model)
    for path, array in variables(loaded.model).items():
        np.testing.assert_array_equal(array, expected[path])
    assert loaded.config == model.config
    mean = np.mean([r["loss"] for r in losses(folder) if "loss" in r])
    assert loaded.avg_loss == pytest.approx(mean, rel=1e-6)


def test_the_pt_files_training_state(finished):
    folder, _ = finished
    file = torch.load(folder / "base_model_step_9.pt", weights_only=True)
    group = file["optimizer_state_dict"]["param_groups"][0]
    assert group["initial_lr"] == 1e-2
    assert group["weight_decay"] == 0.1
    states = file["optimizer_state_dict"]["state"]
    assert set(states) == set(group["params"])
    assert all(state["step"] == 9 for state in states.values())
    tensors = file["model_state_dict"]
    names = [name for name in tensors if name != "lm_head.weight"]
    for index, name in enumerate(names):
        assert states[index]["exp_avg"].shape == tensors[name].shape
        # A memory of zeros reads as zeros, whatever is asked of it.
        idle = re.fullmatch(r".*(\d\.W_q|attention\.W_q)\..*|.*attention\.W_o\.weight", name)
        assert bool(states[index]["exp_avg_sq"].any()) != bool(idle), name
    scheduler = file["scheduler_state_dict"]
    assert scheduler["last_epoch"] == 9
    assert scheduler["_last_lr"] == [group["lr"]]
    next_rate = next(r["learning_rate"] for r in losses(folder) if r["step"] == 10)
    assert group["lr"] == pytest.approx(next_rate, rel=1e-6)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param("SIGKILL", -9, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 130, marks=pytest.mark.slow),
        ("SIGINT", 130),
    ],
)
def test_interrupted_and_resumed(prepared, finished, number, code):
    run_dir = f"interrupted-{number}"
    folder = prepared / run_dir / "checkpoints_base"
    arguments = ("train.base", "--config", "c.yaml", "--run_dir", run_dir)
    line, environment = command(*arguments)
    process = subprocess.Popen(
        line, cwd=prepared, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and '"step": 5' not in (
        (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""
    ):
        time.sleep(0.002)
    process.send_signal(getattr(signal, number))
    message = process.communicate()[1].decode()
    assert process.returncode == code, message
    assert "Traceback" not in message
    if code == 130:
        step = bridge.steps(folder)[-1]
        assert (
            message.strip() == f"interrupted at step {step}, which is saved: continue with --resume"
        )
    saved = bridge.steps(folder)  # by a thread, which is killed with the rest
    assert set(saved) <= set(range(3, STEPS)) and (saved or number == "SIGKILL")
    done = run(prepared, *arguments, "--resume")
    begins = f"resuming from step {saved[-1]}" if saved else "no saved state yet: starting from"
    assert begins in done.stdout
    assert losses(folder) == losses(finished[0])
    name = f"base_model_step_{STEPS}.pt"
    expected = variables(bridge.load_torch(finished[0] / name).model)
    for path, array in variables(bridge.load_torch(folder / name).model).items():
        np.testing.assert_array_equal(array, expected[path])


FAILING = """
import json, os, resource, runpy, signal, sys, time
from pathlib import Path
import bridge
from train.checkpoints import run_states

def made(step):
    path = Path(sys.argv[sys.argv.index("--run_dir") + 1], "checkpoints_base", "metrics.jsonl")
    return any(json.loads(line)["step"] >= step for line in path.read_text().splitlines(True)[:-1])

def wait_and_fail(kind, step):
    if step == 6:
        while not made(8):  # the steps do not wait
            time.sleep(0.01)
        if kind == "full disk":  # a file of the arrays has more bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        else:
            os.kill(os.getpid(), signal.SIGKILL)

def failing(function, kind):
    def called(*arguments, **state):
        wait_and_fail(kind, state["step"])
        return function(*arguments, **state)
    return called

kind = os.environ["KIND"]
name = "save_torch" if kind == "killed between" else "save_orbax"
setattr(bridge, name, failing(getattr(bridge, name), kind))
runpy.run_module("train.base", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("full disk", 2),
        pytest.param("killed before", -9, marks=pytest.mark.slow),
        ("killed between", -9),
    ],
)
def test_steps_go_on_while_a_save_is_slow_and_one_that_fails_loses_nothing(
    prepared, finished, kind, code
):
    (prepared / "failing.py").write_text(FAILING)
    arguments = ("--config", "c.yaml", "--run_dir", kind)
    line, environment = command("failing", *arguments)
    done = subprocess.run(
        line, cwd=prepared, env=environment | {"KIND": kind}, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    folder = prepared / kind / "checkpoints_base"
    if kind == "full disk":
        said = f"the state after step 6: {folder.relative_to(prepared)}/state/6: cannot be written"
        assert error(done) == f"error: {said}: File too large: continue with --resume"
    between = kind == "killed between"
    assert bridge.steps(folder) == ([3, 6] if between else [3])
    assert [path.name for path in folder.glob("*.pt")] == ["base_model_step_3.pt"]
    done = run(prepared, "train.base", *arguments, "--resume", "--training.keep_exports", 2)
    assert f"resuming from step {6 if between else 3}\n" in done.stdout
    assert losses(folder) == losses(finished[0])
    assert {path.name for path in folder.glob("*.pt")} == {
        f"base_model_step_{step}.pt" for step in (9, STEPS)
    }
    expected, found = (bridge.load(each) for each in (finished[0], folder))
    for (kind, arrays), others in zip(
        arrays_of(found).items(), arrays_of(expected).values(), strict=True
    ):
        for path, array in arrays.items():
            np.testing.assert_array_equal(array, others[path], f"{kind}{path}")


def imported(prepared, source, run_dir, *options):
    """A run's folder made from a file by the bridge's command."""
    folder = prepared / run_dir / "checkpoints_base"
    done = run(prepared, "bridge", "from-torch", source, folder, *options)
    return folder, done.stdout


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("ours", marks=pytest.mark.slow),
        pytest.param("safetensors", marks=pytest.mark.slow),
        "another program's",
    ],
)
def test_an_import_goes_on_as_the_run_that_it_came_from(prepared, finished, kind):
    source = finished[0] / "base_model_step_6.pt"
    if kind == "safetensors":
        source = prepared / "six.safetensors"
        run(prepared, "bridge", "to-torch", finished[0] / "base_model_step_6.pt", source)
    if kind == "another program's":
        content = torch.load(source, weights_only=True)
        del content["metadata"]["position"]
        # A rate that was set by hand, and no schedule.
        content["optimizer_state_dict"]["param_groups"][0]["lr"] = 3.3e-5
        content["scheduler_state_dict"] = None
        content["step"] = 12  # of micro-batches
        source = prepared / "six.pt"
        torch.save(content, source)
    run_dir = f"imported {kind}"
    folder, _ = imported(prepared, source, run_dir)
    assert bridge.steps(folder) == [6]
    line = ("train.base", "--config", "c.yaml", "--run_dir", run_dir, "--resume")
    printed = run(prepared, *line).stdout
    assert "resuming from step 6" in printed
    if kind == "another program's":
        said = "the checkpoint has the learning rate 3.3e-05 and no schedule: training continues"
        assert f"{said} with that of the config, 0.0075 at this step" in " ".join(printed.split())
    assert losses(folder) == [r for r in losses(finished[0]) if r["step"] > 6]
    name = f"base_model_step_{STEPS}.pt"
    expected, found = (bridge.load_torch(each / name) for each in (finished[0], folder))
    assert found.scheduler_state == expected.scheduler_state
    assert found.avg_loss == pytest.approx(expected.avg_loss, rel=1e-12)
    for attribute in ("exp_avg", "exp_avg_sq"):
        for path, array in getattr(expected.optimizer_state, attribute).items():
            moments = getattr(found.optimizer_state, attribute)
            np.testing.assert_array_equal(moments[path], array)
    for path, array in variables(found.model).items():
        np.testing.assert_array_equal(array, variables(expected.model)[path])


def test_an_imports_own_schedule_continues_where_it_is(prepared, finished, monkeypatch):
    imported = bridge.load_torch(finished[0] / "base_model_step_6.pt")
    schedule = bridge.SchedulerState(
        base_lr=1e-2,
        warmup_steps=0,
        total_steps=STEPS,
        step=4,
        min_lr=1e-3,
        form="CosineAnnealingLR",
    )
    imported.optimizer_state.hyperparameters["lr"] = schedule.learning_rate()
    imported = dataclasses.replace(imported, scheduler_state=schedule)
    folder = prepared / "own" / "checkpoints_base"
    bridge.save_orbax(folder / "state" / "6", imported.model, **imported.training_state())
    monkeypatch.chdir(prepared)
    settings = ["--optimizer.warmup_steps=0", "--optimizer.min_learning_rate=1e-3"]
    settings.append(f"--training.steps={STEPS + 2}")  # it ends with its schedule
    config = parse_config(["--config", "c.yaml", "--run_dir", "own", *settings], "")
    session = open_session(config, BaseStage(config), resume=True, overwrite=False)
    resumed = checkpoint_of(session.trainer, session.state, avg_loss=0.0, metadata={})
    assert (resumed.step, resumed.scheduler_state) == (6, schedule)


def test_an_import_of_another_training_is_refused(prepared, finished):
    folder, _ = imported(prepared, finished[0] / "base_model_step_6.pt", "elsewhere")
    base = ("train.base", "--config", "c.yaml", "--run_dir", "elsewhere", "--resume")
    before = contents(folder)
    for option, value, message in (
        ("--training.steps", 20, "training.steps is 12 in the checkpoint and 20 in the config"),
        ("--model.ffn_dim", 32, "model.ffn_dim is 24 in the checkpoint and 32 in the config"),
    ):
        said = error(run(prepared, *base, option, value, code=2))
        assert said.startswith("error: elsewhere/checkpoints_base/state/6: ") and message in said
    assert contents(folder) == before


def test_imported_weights_start_anew(prepared, finished):
    source = finished[0] / f"base_model_step_{STEPS}.pt"
    folder, _ = imported(prepared, source, "anew", "--model-only")
    line = ("train.base", "--config", "c.yaml", "--run_dir", "anew", "--training.steps", 4)
    run(prepared, *line, "--resume")
    records = [r["loss"] for r in losses(folder) if "loss" in r]
    first = next(r["loss"] for r in losses(finished[0]) if "loss" in r)
    assert len(records) == 4
    assert records[0] < first - 0.1  # it has learned before
    # It begins with the first data, and with a mean loss of its own.
    begun = bridge.load_torch(folder / "base_model_step_4.pt")
    assert begun.metadata["position"]["batches"] == {"next_index": 4 * 2}
    assert begun.avg_loss == pytest.approx(np.mean(records), rel=1e-6)


def test_generate(prepared, finished):
    folder, _ = finished
    line = ("mmrec_jax.generate", "--checkpoint", folder, "--prompt", "def f", "--length", 9)
    first = run(prepared, *line).stdout
    assert first.startswith("def f")
    assert run(prepared, *line, "--seed", 1).stdout != first
    file = ("--checkpoint", folder / f"base_model_step_{STEPS}.pt")
    assert run(prepared, *line, *file).stdout == first
    both = run(prepared, *line, "--prompt", "The", "--temperature", 0, "--top_p", 0.9).stdout
    alone = run(prepared, *line, "--temperature", 0).stdout
    assert f"[1] {alone}" in both
    several = ("--prompt", "The", "--prompt", "def f")
    assert run(prepared, *line, *several).stdout.count(f"] {first}") == 2
    assert "[2] The" in both
    assert run(prepared, *line, "--stop", first[5:7]).stdout == "def f\n"
    for option, value in (("--length", 0), ("--temperature", -1), ("--stop", "")):
        assert option.strip("-") in error(run(prepared, *line, option, value, code=2))


def test_a_run_is_not_overwritten_by_mistake(prepared, finished):
    base = ("train.base", "--config", "c.yaml")
    shutil.copytree(finished[0], prepared / "kept" / "checkpoints_base")
    done = run(prepared, *base, "--run_dir", "kept", code=2)
    assert "--resume" in error(done)
    assert "--overwrite" in error(done)
    done = run(prepared, *base, "--run_dir", "keptt", "--resume", code=2)
    assert "holds no run" in error(done)
    done = run(prepared, *base, "--run_dir", "kept", "--resume", "--overwrite", code=2)
    assert "exclude each other" in error(done)
    change = ("--resume", "--model.ffn_dim", 32)
    done = run(prepared, *base, "--run_dir", "kept", *change, code=2)
    assert "model.ffn_dim (24 there, 32 now)" in error(done)


def test_a_complete_run_says_so_and_nothing_is_written(prepared, finished):
    folder = prepared / "complete" / "checkpoints_base"
    shutil.copytree(finished[0], folder)
    before = contents(folder)
    resume = ("train.base", "--config", "c.yaml", "--run_dir", "complete", "--resume")
    done = run(prepared, *resume, "--training.log_every", 5)
    assert done.stdout.splitlines() == [
        f"the run in complete/checkpoints_base is complete, with all of its {STEPS} steps: to "
        "train it further, give --resume --extend STEPS"
    ]
    assert contents(folder) == before
    (folder / "report.json").unlink()  # as if it was killed before the report
    assert "the run in" not in run(prepared, *resume).stdout
    assert json.loads((folder / "report.json").read_text())["step"] == STEPS


LONGER = STEPS + 6


@pytest.mark.parametrize("schedule", ["stretch", "restart"])
def test_an_extended_run(prepared, finished, monkeypatch, schedule):
    """Killed before its first step, resumed in the middle, and imported from its own file."""
    monkeypatch.chdir(prepared)
    folder = prepared / schedule / "checkpoints_base"
    shutil.copytree(finished[0], folder)
    line = ["--config", "c.yaml", "--run_dir", schedule]
    config = parse_config(line, "")
    session = open_session(
        config, BaseStage(config), resume=True, overwrite=False, added=Added(6, schedule)
    )
    kept = checkpoint_of(session.trainer, session.state, avg_loss=0.0, metadata={})
    saved = bridge.load_torch(folder / f"base_model_step_{STEPS}.pt")
    assert kept.step == kept.optimizer_state.step == STEPS
    found = bridge.compare(saved, kept)
    assert found.largest == 0 and not {*found.only_in_a, *found.only_in_b}
    printed = run(prepared, "train.base", *line, "--resume").stdout
    words = " ".join(printed.split())
    assert f"resuming from step {STEPS}\n" in printed
    assert {
        "stretch": "its cosine goes on, and ends at step 18",
        "restart": f"a new warm-up and cosine begin at step {STEPS}, and end at step 18",
    }[schedule] in words
    assert f"training.steps: the 18 of {schedule}/checkpoints_base/config.yaml hold" in words
    records = [r for r in losses(folder) if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, LONGER + 1))
    ahead = STEPS if schedule == "restart" else 0
    for record in records[STEPS:]:
        state = bridge.SchedulerState(
            base_lr=1e-2,
            warmup_steps=3,
            total_steps=LONGER - ahead,
            step=record["step"] - 1 - ahead,
        )
        assert record["learning_rate"] == pytest.approx(state.learning_rate(), abs=1e-8)
    # PyTorch makes the same rates from a file in the middle.
    file = torch.load(folder / "base_model_step_15.pt", weights_only=True)
    optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=LONGER - ahead - 3),
    ]
    rates = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])
    optimizer.param_groups[0]["lr"] = file["optimizer_state_dict"]["param_groups"][0]["lr"]
    rates.load_state_dict(file["scheduler_state_dict"])
    for record in records[15:]:
        assert rates.get_last_lr()[0] == pytest.approx(record["learning_rate"], abs=1e-8)
        optimizer.step()
        rates.step()
    if schedule == "stretch":
        return
    # The rest once more, from the state in the middle, and as an import.
    end = bridge.load_torch(folder / f"base_model_step_{LONGER}.pt")
    shutil.rmtree(folder / "state" / str(LONGER))
    (folder / f"base_model_step_{LONGER}.pt").unlink()
    run(prepared, "train.base", *line, "--resume")
    other = f"{schedule}, imported"
    imported(prepared, folder / "base_model_step_15.pt", other)
    line = ("train.base", "--config", "c.yaml", "--run_dir", other, "--training.steps", LONGER)
    run(prepared, *line, "--resume")
    for run_dir in (schedule, other):
        again = prepared / run_dir / "checkpoints_base" / f"base_model_step_{LONGER}.pt"
        assert bridge.compare(bridge.load_torch(again), end).agrees()


def test_an_import_is_extended(prepared, finished, monkeypatch):
    """Its schedule has ended, and it has no config yet."""
    monkeypatch.chdir(prepared)
    folder = prepared / "import" / "checkpoints_base"
    source = bridge.load_torch(finished[0] / f"base_model_step_{STEPS}.pt")
    bridge.save_orbax(bridge.state_folder(folder, STEPS), source.model, **source.training_state())
    import_of = ["--config", "c.yaml", "--run_dir", "import"]
    other = parse_config([*import_of, "--training.steps", "10"], "")
    message = (
        rf"^--extend: the run of .*/state/{STEPS} has {STEPS} steps, and the config says 10: set"
    )
    with pytest.raises(UserError, match=message):
        open_session(other, BaseStage(other), resume=True, overwrite=False, added=Added(6, "x"))
    config = parse_config(import_of, "")
    for added in (Added(6, "stretch"), None):  # killed before its first step
        session = open_session(config, BaseStage(config), resume=True, overwrite=False, added=added)
        begun = checkpoint_of(session.trainer, session.state, avg_loss=0.0, metadata={})
        wanted = dataclasses.replace(source.scheduler_state, total_steps=LONGER)
        assert (begun.step, begun.scheduler_state) == (STEPS, wanted)
    assert [part["step"] for part in recorded_parts(folder)] == [STEPS, STEPS]


def test_too_few_steps_for_a_new_warm_up_are_refused(prepared, finished, monkeypatch):
    monkeypatch.chdir(prepared)
    shutil.copytree(finished[0], prepared / "short" / "checkpoints_base")
    before = contents(prepared / "short")
    config = parse_config(["--config", "c.yaml", "--run_dir", "short"], "")
    message = "^--schedule restart: 3 steps are left from step 12 on, too few for a new warm-up of"
    with pytest.raises(UserError, match=message):
        open_session(
            config, BaseStage(config), resume=True, overwrite=False, added=Added(3, "restart")
        )
    assert contents(prepared / "short") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data_dir", "nowhere"), "nowhere"),
        (("--model.vocab_size", "301"), "model.vocab_size is 301"),
        (("--training.sequence_length", "100000"), "training.sequence_length"),
        (("--training.batch_size", "0"), "training.batch_size must be at least 1"),
        (("--optimizer.learning_rate", "fast"), "optimizer.learning_rate"),
        (("--run_dir", "c.yaml"), "c.yaml"),
        (("--run_dir", ""), "run_dir is empty"),
        (("--seed", "-1"), "seed must lie in"),
        (("--optimizer.weight_decay", ".nan"), "optimizer.weight_decay must be"),
    ],
)
def test_wrong_settings(prepared, arguments, message):
    done = run(prepared, "train.base", "--config", "c.yaml", *arguments, code=2)
    assert message in error(done)


def test_divergence_is_said_and_not_saved(prepared):
    rate = ("--optimizer.learning_rate", "1e30", "--run_dir", "diverged")
    done = run(prepared, "train.base", "--config", "c.yaml", *rate, code=2)
    assert "diverged at step" in error(done)
    for path in (prepared / "diverged" / "checkpoints_base").glob("*.pt"):
        loaded = bridge.load_torch(path)  # a warning of NaN weights would be an error here
        assert loaded.step < STEPS


def test_bad_steps_are_skipped_and_several_in_a_row_end_the_run(prepared, monkeypatch):
    """The data of step 5 spoil its gradient, those of steps 8 to 10 their losses."""
    monkeypatch.chdir(prepared)
    config = parse_config(["--config", "c.yaml", "--run_dir", "bad"], "")

    def opened(left_out=range(0), bad=(5, 8, 9, 10), **start):
        flags = {"resume": False, "overwrite": False} | start
        session = open_session(config, BaseStage(config), left_out=left_out, **flags)
        gradient = session.trainer.gradient

        def spoiled(state, batch, index, share=None):
            grads, metrics = gradient(state, batch, index, share=share)
            step = session.data.position // config.training.accumulation
            if step in bad and index == 1:
                if step == 5:
                    grads = {path: array * np.nan for path, array in grads.items()}
                else:
                    metrics = metrics | {"loss": metrics["loss"] * np.inf}
            return grads, metrics

        monkeypatch.setattr(session.trainer, "gradient", spoiled)
        return session

    with pytest.raises(UserError) as raised:
        opened().train()
    message = str(raised.value)
    assert message.startswith("step 7 was tried 3 times, with the data of steps 8-10, and its loss")
    assert "continue with --resume and --skip-steps 8-10, or with a lower" in message
    rows = training_rows(config)
    documents = documents_of(config, "base", rows, [7 * 2 + 1, 8 * 2 + 1, 9 * 2 + 1])
    assert f"these data are {named(documents)}: continue with" in message
    folder = prepared / "bad" / "checkpoints_base"
    assert bridge.steps(folder) == [3, 6]
    session = opened(range(8, 11), resume=True)
    session.train()
    records = [record for record in losses(folder) if "loss" in record]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [r["skipped_steps"] for r in map(json.loads, lines) if "loss" in r] == [0] * 4 + [1] * 8
    # The steps are those of a run that never had these data.
    shutil.rmtree(folder)
    without = opened(range(8, 11), bad=(5,))
    without.train()
    for a, b in zip(session.state.params.values(), without.state.params.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_damaged_runs(prepared, finished):
    folder = prepared / "damaged" / "checkpoints_base"
    shutil.copytree(finished[0], folder)

    def damage():
        files = (folder / "state" / str(STEPS) / "arrays").rglob("*")
        largest = max((path for path in files if path.is_file()), key=lambda p: p.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)

    damage()
    resume = ("train.base", "--config", "c.yaml", "--run_dir", "damaged", "--resume")
    (folder / f"base_model_step_{STEPS}.pt").unlink()
    printed = run(prepared, *resume).stdout
    said = f"{folder.relative_to(prepared)}/state/{STEPS}: damaged: the SHA-256 of"
    assert said in printed and "resuming from step 9\n" in printed
    assert losses(folder) == losses(finished[0])
    damage()
    sample = ("mmrec_jax.generate", "--checkpoint")
    assert "damaged: the SHA-256 of" in error(run(prepared, *sample, folder, code=2))
    assert "holds no complete checkpoint" in error(run(prepared, *sample, folder / "state", code=2))
    assert "none: cannot be read: No such" in error(run(prepared, *sample, "none", code=2))
    other_chunks = error(run(prepared, *sample, finished[0], "--chunk_size", 3, code=2))
    assert "states training.chunk_size: null: leave it out" in other_chunks


def test_a_complete_run_has_its_last_state_again(prepared, finished):
    folder = prepared / "mended" / "checkpoints_base"
    shutil.copytree(finished[0], folder)
    (folder / "state" / str(STEPS) / "checkpoint.json").write_text("{}")
    resume = ("train.base", "--config", "c.yaml", "--run_dir", "mended", "--resume")
    assert f"resuming from step {STEPS}, " in run(prepared, *resume).stdout
    assert bridge.compare(bridge.load(folder), bridge.load(finished[0])).agrees()
    assert "is complete" in run(prepared, *resume).stdout


def test_a_complete_run_with_the_state_of_another_says_so(prepared, finished):
    folder = prepared / "swapped" / "checkpoints_base"
    shutil.copytree(finished[0], folder)
    resume = ("train.base", "--config", "c.yaml", "--run_dir", "swapped", "--resume")
    assert "is complete" in run(prepared, *resume).stdout
    state = bridge.state_folder(folder, STEPS)
    other = bridge.load_orbax(state)
    other.model.norm.scale[...] += 1
    shutil.rmtree(state)
    bridge.save_orbax(state, other.model, **other.training_state())
    message = error(run(prepared, *resume, code=2))
    assert f"state/{STEPS} and " in message and "one of them is not of this run" in message
    # Now both are another run's, and agree.
    other.optimizer_state.hyperparameters["eps"] = 1e-3
    file = folder / f"base_model_step_{STEPS}.pt"
    for path, save in ((state, bridge.save_orbax), (file, bridge.save_torch)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        save(path, other.model, **other.training_state())
    message = error(run(prepared, *resume, code=2))
    assert "optimizer.eps is 0.001 in the checkpoint" in message and "move it away" in message
    shutil.rmtree(state)
    message = error(run(prepared, *resume, code=2))
    assert f"{file.name}: the checkpoint was trained with other settings" in message
    file.unlink()
    run(prepared, *resume)
    assert "is complete" in run(prepared, *resume).stdout


def test_other_data_are_refused(prepared, finished):
    shutil.copytree(finished[0], prepared / "other" / "checkpoints_base")
    shutil.copytree(prepared / "raw", prepared / "raw2")
    (prepared / "raw2" / "text" / "new.txt").write_text("a new document " * 30)
    changed = ("--prepare.text", '["raw2/text"]', "--data_dir", "data2")
    run(prepared, "train.prepare", "--config", "c.yaml", *changed)
    other = ("--run_dir", "other", "--resume", "--extend", 6, "--data_dir", "data2")
    before = contents(prepared / "other")
    done = run(prepared, "train.base", "--config", "c.yaml", *other, code=2)
    assert f"data2 is not what other/checkpoints_base/state/{STEPS} was trained" in error(done)
    assert contents(prepared / "other") == before


def test_a_start_that_was_killed_can_be_repeated(prepared, finished):
    folder = prepared / "begun" / "checkpoints_base"
    folder.mkdir(parents=True)
    (folder / ".config.yaml.0123abcd.tmp").write_text("data_")
    shutil.copytree(finished[0], folder.with_name(".checkpoints_base.old"))
    rate = ("--optimizer.learning_rate", "1e38", "--training.checkpoint_every", "1")
    done = run(prepared, "train.base", "--config", "c.yaml", "--run_dir", "begun", *rate, code=2)
    assert "parameters' norm inf" in error(done)  # not "is not a run's folder"
    assert bridge.steps(folder) == []
    assert not list(folder.glob("*.pt")) + list(folder.glob(".*"))


def test_data_that_are_removed_or_replaced_under_a_run_are_still_its_own(prepared, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(prepared / "data", data_dir)
    options = ["--config", str(prepared / "c.yaml"), "--data_dir", str(data_dir)]
    data = PreparedData(parse_config(options, ""), "base")
    before = data.documents([0]), data.counted.tokens.tolist()
    shutil.rmtree(data_dir)
    assert (data.documents([0]), data.counted.tokens.tolist()) == before
    assert len(next(data.batches).inputs)


def test_steps_to_leave_out_that_are_behind_are_said(prepared, capsys):
    options = ["--config", str(prepared / "c.yaml"), "--data_dir", str(prepared / "data")]
    data = PreparedData(parse_config(options, ""), "base")
    data.skip(5 * data._config.training.accumulation)
    next(data.batches_without(range(2, 6)))
    assert "the data of steps 2 to 5 are behind: nothing is left out" in capsys.readouterr().out
    next(data.batches_without(range(6, 8)))
    assert "leaving out the data of steps 6 to 7" in capsys.readouterr().out


@pytest.mark.slow
def test_a_cpu_without_bfloat16_says_so_and_trains_in_float32(prepared):
    (prepared / "without_bfloat16.py").write_text(
        "import runpy, train.system.precision\n"
        "train.system.precision.multiplies_bfloat16 = lambda: False\n"
        "runpy.run_module('train.base', run_name='__main__')\n"
    )
    options = ("--training.precision", "bfloat16", "--training.steps", 4, "--run_dir", "without")
    done = run(prepared, "without_bfloat16", "--config", "c.yaml", *options)
    assert "cannot multiply in bfloat16: training in float32" in done.stdout
    recorded = json.loads((prepared / "without/checkpoints_base/environment.json").read_text())
    assert recorded[-1]["precision"] == "float32"
