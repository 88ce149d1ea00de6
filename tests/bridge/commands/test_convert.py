"""`python -m bridge`: every command for real, and every way to get one wrong in one line."""

import concurrent.futures
import dataclasses
import errno
import json
import os
import shlex
import subprocess
import sys
import tempfile
import typing

import pytest
import torch
import yaml
from helpers.paths import GOLDEN, ROOT
from helpers.small_models import SMALL

import bridge
from bridge.__main__ import main
from bridge.commands.parser import build_parser
from bridge.config.metadata import to_checkpoint
from bridge.config.yaml_file import from_yaml
from bridge.schedule import scheduler_to_torch
from mmrec_jax import ModelConfig
from train.checkpoints.fit import check_model, check_training
from train.checkpoints.state import state_of
from train.settings.cli import parse_config
from train.settings.config import FusionPart
from train.stages.fusion import FusionStage
from train.step.trainer import Trainer

BASE = GOLDEN / "base" / "checkpoint.pt"
TRAINED = GOLDEN / "trajectory" / "checkpoint_step_12.pt"
WIDER = "model: {vocab_size: 160, model_dim: 32, num_layers: 3, num_heads: 2, ffn_dim: 96}\n"
COMMANDS = ("to-torch", "to-hf", "from-torch", "adapt", "inspect", "verify")


def python_m_bridge(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "bridge", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def run(capsys):
    """Runs a command in this process; returns exit code, stdout and stderr."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def refused(run):
    """The one line of a command that must fail with exit code 2."""

    def call(*arguments):
        code, _, errors = run(*arguments)
        assert code == 2
        assert errors.startswith("error: ") and errors.count("\n") == 1
        return errors.strip()

    return call


@pytest.fixture
def changed(tmp_path):
    """A golden file whose content was changed."""

    def save(source, change):
        content = torch.load(source, weights_only=True)
        change(content)
        path = tmp_path / "changed.pt"
        torch.save(content, path)
        return path

    return save


@pytest.mark.slow
def test_all_commands_for_real(tmp_path):
    (tmp_path / "c.yaml").write_text(WIDER)
    commands = [
        ("from-torch", TRAINED, "runs/mine/checkpoints_base"),
        ("to-torch", TRAINED, "out.safetensors"),
        ("verify", BASE, TRAINED),
        ("inspect", TRAINED, "--json"),
        ("adapt", BASE, "new", "--config", "c.yaml", "--model-class", "GPT2"),
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda command: python_m_bridge(*command, cwd=tmp_path), commands))
    assert [process.returncode for process in done] == [0, 0, 1, 0, 2], done
    assert not any(process.stderr for process in done[:-1])
    from_torch, to_torch, verify, inspect, adapt = done
    assert "--run_dir runs/mine --resume\n" in from_torch.stdout
    assert "writing out.safetensors ..." in to_torch.stdout
    assert verify.stdout.endswith("A and B differ, tolerance 0\n")
    assert json.loads(inspect.stdout)["step"] == 12
    assert adapt.stderr.count("\n") == 1 and "GPT2 is unknown" in adapt.stderr
    assert sorted(os.listdir(tmp_path)) == ["c.yaml", "out.safetensors", "runs"]
    for written in ("runs/mine/checkpoints_base", "out.safetensors"):
        assert bridge.compare(bridge.load(tmp_path / written), bridge.load(TRAINED)).agrees()


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_says_what_a_command_does(command, run):
    code, printed, errors = run(*([command] if command else []), "--help")
    assert (code, errors) == (0, "")
    if command:
        assert f"example:\n  python -m bridge {command} " in printed
    else:
        assert all(f"\n    {name} " in printed or f"\n    {name}\n" in printed for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND: see python -m bridge --help"),
        (["convert"], "COMMAND convert is unknown; known: to-torch, to-hf, from-torch, adapt, "),
        (
            ["inspct", "a"],
            "COMMAND inspct is unknown: did you mean inspect?",
        ),
        (["--json", "inspect", "a"], "unknown option --json: --help lists them all"),
        (["to-torch", "a"], "required: OUT: see python -m bridge to-torch --help"),
        (["from-torch", "a", "b", "c"], "unrecognized arguments: c"),
        (["from-torch", "a", "b", "--partia"], "option --partia: did you mean --partial?"),
        (["inspect", "a", "--jsom"], "unknown option --jsom: did you mean --json?"),
        (["inspect", "--num_head=3"], "unknown option --num_head: did you mean --num-heads?"),
        (["inspect", "a", "--wxyz"], "unknown option --wxyz: --help lists them all"),
        (["from-torch", "a", "b", "--num-heads", "0"], "'0' is not a whole number from 1"),
        (["from-torch", "a", "b", "--seed", "-1"], "argument --seed: "),
        (["from-torch", "a", "b", "--seed", "4294967296"], "is not a whole number"),
        (["adapt", "a", "b"], "required: --config"),
        (
            ["adapt", "a", "b", "--config", "c", "--model-class", "GPT2"],
            "GPT2 is unknown; known: MMRec",
        ),
        (["from-torch", "a", "~nobody-here/b"], "no user nobody-here: correct ~nobody-here, or "),
        (["inspect"], "required: FILE"),
        (["verify", "a"], "required: B"),
        (["verify", "a", "b", "--tolerance", "-1"], "argument --tolerance: "),
        (["verify", "a", "b", "--tolerance", "nan"], "'nan' is not a number from 0"),
        (["verify", "a", "b", "--tolerance", "inf"], "'inf' is not a number from 0"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, refused):
    assert message in refused(*arguments)


def test_dashes_and_underscores_are_alike():
    for words in (["--num-heads", "3"], ["--num_heads=3"]):
        assert build_parser().parse_args(["inspect", "a_b-c", *words]).num_heads == 3


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["missing.pt", "missing.safetensors", "empty folder", "text.pt"])
def test_wrong_files_are_one_line_and_leave_nothing(command, name, refused, tmp_path):
    wrong, out = tmp_path / name, tmp_path / "out.pt"
    if name == "text.pt":
        wrong.write_text("hello\n" * 99)
    elif name == "empty folder":
        wrong.mkdir()
    arguments = {
        "to-torch": [out],
        "from-torch": [out],
        "to-hf": [out],
        "adapt": [out, "--config", ROOT / "configs" / "demo.yaml"],
        "inspect": [],
        "verify": [BASE],
    }
    assert f"{wrong}: " in refused(command, wrong, *arguments[command])
    assert not out.exists()


@pytest.mark.parametrize("command", ["to-torch", "from-torch", "from-torch --partial", "adapt"])
def test_a_place_that_cannot_be_written_is_refused_before_reading(
    command, run, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    (tmp_path / "c.yaml").write_text(WIDER)
    name, *options = command.split()
    options += ["--config", tmp_path / "c.yaml"] if name == "adapt" else []

    def no_file(mode, dir):  # what root may write is writable to it
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    for place in (tmp_path / "file" / "out.pt", tmp_path / "out.pt"):
        code, out, errors = run(name, BASE, place, *options)
        assert (code, out) == (2, "")
        assert errors.startswith(f"error: {place}: cannot be written: ")
    assert sorted(os.listdir(tmp_path)) == ["c.yaml", "file"]


def test_an_expert_is_told_how_it_is_joined(run, tmp_path):
    code, out, _ = run("from-torch", GOLDEN / "expert" / "checkpoint.pt", tmp_path / "expert")
    assert code == 0
    assert f"--base_model BASE --fusion.text_expert {tmp_path / 'expert'}\n" in out


def test_all_that_does_not_fit_is_in_the_error_without_partial(changed, refused, tmp_path):
    def change(content):
        tensors = content["model_state_dict"]
        del tensors["blocks.0.W_q.bias"], tensors["blocks.1.W_k.weight"]
        tensors["foo"] = tensors["bar"] = torch.zeros(3)
        tensors["norm.weight"] = torch.zeros(31)

    error = refused("from-torch", changed(BASE, change), tmp_path / "out")
    assert "2 missing: blocks.0.W_q.bias, blocks.1.W_k.weight" in error
    assert "2 unexpected: " in error and "foo" in error and "bar" in error
    assert "1 misshapen: norm.weight is [31], not [32]" in error
    assert error.endswith("--partial loads what fits")
    assert not (tmp_path / "out").exists()


def test_partial_prints_and_writes_what_became_of_each_tensor(changed, run, tmp_path):
    def change(content):
        tensors = content["model_state_dict"]
        del tensors["blocks.0.W_q.bias"]
        tensors["foo"] = torch.zeros(3)
        tensors["norm.weight"] = torch.zeros(31)
        tensors["blocks.1.norm1.weight"] = torch.zeros(32, dtype=torch.float64)

    path = changed(TRAINED, change)
    out = tmp_path / "out"
    code, printed, errors = run("from-torch", path, out, "--partial", "--seed", "3")
    assert (code, errors) == (0, "")
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in printed.splitlines()]
    tensors = "59 of the model's 62 tensors (the tied head counted once)"
    assert ["loaded", f"{tensors}, 36,800 of 36,896 values"] in rows
    assert ["missing", "blocks.0.W_q.bias", "[32]"] in rows
    assert ["unexpected", "foo", "[3]"] in rows
    assert ["misshapen", "norm.weight", "[31]", "[32]"] in rows
    assert ["of the wrong type", "blocks.1.norm1.weight", "[32] float64", "[32]"] in rows
    assert "training state left out: " in printed
    assert f"{out / 'load_report.json'} lists all tensors\n" in printed
    report = json.loads((tmp_path / "out" / "load_report.json").read_text())
    assert report["missing"] == ["blocks.0.W_q.bias"]
    assert report["unexpected"] == ["foo"]
    assert report["misshapen"] == [{"name": "norm.weight", "found": [31], "wanted": [32]}]
    assert report["wrong_type"] == [{"name": "blocks.1.norm1.weight", "dtype": "float64"}]
    expected, _ = bridge.load_partial(path, seed=3)
    written = bridge.load(tmp_path / "out")
    assert (written.step, written.optimizer_state) == (0, None)
    assert bridge.compare(written, expected).agrees()


@pytest.mark.parametrize("options", [[], ["--partial"]])
def test_a_runs_folder_is_what_training_resumes_from(options, run, tmp_path):
    folder = tmp_path / "mine" / "checkpoints_base"
    code, printed, _ = run("from-torch", TRAINED, folder, *options)
    assert code == 0
    assert f"--config my.yaml --run_dir {tmp_path / 'mine'} --resume\n" in printed
    assert "\n  mv " not in printed
    settings = printed.split("these settings:\n")[1].split("and run:\n")[0]
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(settings) | {"data_dir": "data", "run_dir": "runs"})
    )
    config = parse_config(["--config", str(tmp_path / "my.yaml")], "")
    saved = bridge.load(folder)
    check_training(config, saved)
    assert config.model == saved.config
    assert (config.training.steps, config.optimizer.learning_rate, saved.step) == (24, 3e-3, 12)


@pytest.mark.parametrize(("scheduled", "rate"), [(False, 3.3e-5), (True, 3e-3)])
def test_a_rate_that_was_set_by_hand(scheduled, rate, changed, run, tmp_path):
    def change(content):
        content["optimizer_state_dict"]["param_groups"][0]["lr"] = 3.3e-5
        if not scheduled:
            content["scheduler_state_dict"] = None

    path = changed(TRAINED, change)
    code, printed, warned = run("from-torch", path, tmp_path / "checkpoints_base")
    assert code == 0
    settings = yaml.safe_load(printed.split("these settings:\n")[1].split("and run:\n")[0])
    assert settings["optimizer"]["learning_rate"] == rate
    assert ("training continues with the schedule's" in warned) == scheduled
    assert ("training continues with the schedule's" in run("inspect", path)[1]) == scheduled


@pytest.mark.parametrize(
    ("warmup", "form"), [(0, "CosineAnnealingLR"), (0, "SequentialLR"), (5, "SequentialLR")]
)
def test_a_lowest_rate_and_a_counter_of_micro_batches_are_taken_over(
    warmup, form, changed, run, tmp_path
):
    schedule = bridge.SchedulerState(
        base_lr=3e-4,
        warmup_steps=warmup,
        total_steps=40,
        step=11,
        min_lr=0.1 * 3e-4,
        start_factor=0.01 if warmup else 0.1,
        form=form,
    )

    def change(content):
        content["step"] = 96
        content["scheduler_state_dict"] = scheduler_to_torch(schedule)
        group = content["optimizer_state_dict"]["param_groups"][0]
        group.update(lr=schedule.learning_rate(), initial_lr=3e-4)

    path = changed(TRAINED, change)
    code, printed, _ = run("from-torch", path, tmp_path / "runs" / "checkpoints_base")
    assert code == 0
    assert "step 12 by its optimizer, which counts (the file's counter says 96)" in printed
    assert "its schedule is after 11 steps, but its optimizer after 12: each con" in printed
    settings = printed.split("these settings:\n")[1].split("and run:\n")[0]
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(settings) | {"data_dir": "data", "run_dir": "runs"})
    )
    config = parse_config(["--config", str(tmp_path / "my.yaml")], "")
    saved = bridge.load(tmp_path / "runs" / "checkpoints_base")
    check_training(config, saved)
    assert config.optimizer.min_learning_rate == 0.1 * 3e-4
    assert saved.scheduler_state == schedule

    out = tmp_path / "out.pt"
    assert run("to-torch", tmp_path / "runs" / "checkpoints_base", out)[0] == 0
    exported, imported = (torch.load(file, weights_only=True) for file in (out, path))
    assert exported["scheduler_state_dict"] == imported["scheduler_state_dict"]
    assert exported["step"] == 96
    assert run("verify", path, out)[0] == 0
    assert f"lowest {schedule.min_lr}, " in run("inspect", out)[1]
    printed = run("inspect", path)[1]
    assert "12 of 41 steps" in printed and "the file's counter says 96" in printed


def test_folders_of_other_names_are_moved_one_after_the_other(run, tmp_path):
    for name in ("a b", "c"):
        code, printed, _ = run("from-torch", BASE, tmp_path / name)
        assert code == 0
        steps = printed.split("and run:\n")[1].splitlines()[:4]
        assert steps[0] == "  python -m train.prepare --config my.yaml"
        for words in map(shlex.split, steps[1:3]):
            {"mkdir": os.mkdir, "mv": os.rename}[words[0]](*words[1:])
        run_dir = shlex.split(steps[3])[-2]
        assert bridge.steps(bridge.stage_folder(run_dir, "base")) == [0]
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("trained", [("fusion", "lm_head"), typing.get_args(FusionPart)])
def test_what_a_fusions_optimizer_has_trained_is_trained_further(trained, skeleton, run, tmp_path):
    module = skeleton("MMRec100M", SMALL)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for name, parameter in module.named_parameters():
        if name.split(".")[0] in trained:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    content = {
        "model_state_dict": module.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "config": to_checkpoint("MMRec100M", SMALL, {}),
        "step": 8,
    }
    torch.save(content, tmp_path / "joint.pt")
    folder = tmp_path / "runs" / "checkpoints_fusion"
    code, printed, _ = run("from-torch", tmp_path / "joint.pt", folder)
    assert code == 0
    assert f"python -m train.fusion --config my.yaml --run_dir {tmp_path / 'runs'} --res" in printed
    settings = yaml.safe_load(printed.split("these settings:\n")[1].split("and run:\n")[0])
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump(settings | {"data_dir": "data", "run_dir": "runs"})
    )
    config = parse_config(["--config", str(tmp_path / "my.yaml")], "")
    assert set(config.fusion.trainable) == set(trained)
    saved = bridge.load(folder)
    check_training(config, saved)
    check_model(config.model, saved.model, "")
    stage = FusionStage(config)
    state = state_of(Trainer(config, stage.resumed(saved), stage.frozen), saved)
    assert {path[0] for path in state.params} == set(trained)
    assert int(state.step) == 1


def test_other_classes_are_not_for_training_yet(run, tmp_path):
    code, printed, _ = run("from-torch", GOLDEN / "expert" / "checkpoint.pt", tmp_path / "out")
    assert code == 0
    assert "train.base" not in printed
    assert f"python -m bridge inspect {tmp_path / 'out'}" in printed


def test_without_an_optimizer_training_starts_anew(changed, run, tmp_path):
    path = changed(TRAINED, lambda content: content.update(optimizer_state_dict=None))
    out = tmp_path / "out"
    code, printed, _ = run("from-torch", path, out)
    assert code == 0
    assert "it is after 12 steps and has no optimizer state" in printed
    assert "train.base" not in printed
    assert f"  rm -r {out}\n  python -m bridge from-torch {path} {out} --model-only\n" in printed
    assert bridge.load(out).step == 12

    code, printed, _ = run("from-torch", path, tmp_path / "anew", "--model-only")
    assert code == 0
    assert "train.base" in printed
    loaded = bridge.load(tmp_path / "anew")
    assert (loaded.step, loaded.optimizer_state, loaded.scheduler_state) == (0, None, None)
    assert (tmp_path / "anew" / "state" / "0").is_dir()


@pytest.mark.parametrize("name", ["out.pt", "out.safetensors"])
def test_files_are_overwritten_only_where_that_is_asked_for(name, run, refused, tmp_path):
    out = tmp_path / name
    out.write_text("precious")
    assert "exists already: give --overwrite" in refused("to-torch", TRAINED, out)
    assert out.read_text() == "precious"
    code, printed, errors = run("to-torch", TRAINED, out, "--overwrite", "--model-only")
    assert (code, errors) == (0, "")
    assert f"reading {TRAINED} (536 kB) ..." in printed
    assert "MMRecModel, 36,896 parameters, step 0, no optimizer, no schedule" in printed
    loaded = bridge.load(out)
    assert (loaded.step, loaded.optimizer_state, loaded.scheduler_state) == (0, None, None)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out", "names no format: give it the suffix .pt or .safetensors"),
        ("out.bin", "names no format"),
        (".pt", "names no format"),
        ("folder.pt", "is a folder: name a file"),
        ("none/out.pt", "cannot be written: its folder does not exist; make it first"),
        ("file/out.pt", "cannot be written: "),
    ],
)
def test_files_that_cannot_be_written_are_refused_at_once(target, message, refused, tmp_path):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").touch()
    error = refused("to-torch", BASE, tmp_path / target)
    assert f"{tmp_path / target}: {message}" in error
    is_in_a_file = f"{tmp_path / 'file'} is a file, not a folder; name another place" in error
    assert is_in_a_file == target.startswith("file/")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.pt"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("full", "exists and is not empty: name a new folder"),
        ("run", "exists and is not empty"),
        ("file", "is not a folder"),
        ("file/out", "file is a file, not a folder; name another place"),
    ],
)
@pytest.mark.parametrize("command", ["from-torch", "adapt"])
def test_folders_that_cannot_be_made_are_refused(command, target, message, refused, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "run" / "state" / "7").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "c.yaml").write_text(WIDER)
    options = ["--config", tmp_path / "c.yaml"] if command == "adapt" else []
    source = GOLDEN / "expert" / "checkpoint.pt"
    found = refused(command, source, tmp_path / target, *options)
    assert f"error: {tmp_path / target}" in found and message in found
    assert os.listdir(tmp_path / "full") == ["precious"]


@pytest.mark.parametrize("name", ["7.partial/notes.txt", "mine.partial", "notes.partial/x"])
def test_other_peoples_files_among_what_is_left_are_kept(name, refused, tmp_path):
    (tmp_path / "out" / "state" / name).mkdir(parents=True)
    assert "is not empty" in refused("from-torch", BASE, tmp_path / "out")
    assert (tmp_path / "out" / "state" / name).is_dir()


def test_a_folder_that_another_command_works_on_is_refused(refused, tmp_path):
    with bridge.locked(bridge.run_lock(tmp_path / "out")):
        message = refused("from-torch", BASE, tmp_path / "out")
    assert f"{tmp_path / 'out'}: another command is at work on it: wait until it ends" in message
    assert not list(tmp_path.iterdir())


def test_what_a_killed_conversion_left_is_no_obstacle(run, tmp_path):
    (tmp_path / "out" / "state" / "12.partial" / "arrays").mkdir(parents=True)
    (tmp_path / "out" / "state" / "12.partial" / "arrays" / "d").touch()
    assert run("from-torch", BASE, tmp_path / "out")[0] == 0
    assert os.listdir(tmp_path / "out" / "state") == ["0"]


def test_nan_is_a_warning(changed, run, tmp_path):
    def change(content):
        content["model_state_dict"]["norm.weight"][3] = float("nan")

    path = changed(BASE, change)
    for options in ([], ["--partial"]):
        code, _, errors = run("from-torch", path, tmp_path / f"out{len(options)}", *options)
        assert code == 0
        line = f"warning: {path}: NaN or infinite weights: norm.weight (1 of 32 values)\n"
        assert errors == line


@pytest.mark.parametrize("model_class", ["FusionLayer", "MMRec100M", "MMRecModel"])
@pytest.mark.parametrize("method", ["weighted", "concatenate"])
def test_what_the_original_cannot_run_is_said_on_export(
    model_class, method, skeleton, run, tmp_path
):
    config = dataclasses.replace(SMALL, fusion_method=method)
    torch.save(skeleton(model_class, config).state_dict(), tmp_path / "in.pt")
    out = tmp_path / "out.pt"
    code, printed, _ = run("to-torch", tmp_path / "in.pt", out, "--num-heads", "3")
    assert code == 0
    weighted = method == "weighted" and model_class != "MMRecModel"
    assert ("its fusion is weighted: the original" in printed) == weighted


def test_an_interruption_is_one_line(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bridge.any_format.load", interrupted)
    code, _, errors = run("to-torch", BASE, tmp_path / "out.pt")
    assert (code, errors) == (130, "interrupted\n")


def test_output_that_is_not_read_to_its_end_is_no_error(capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["inspect", str(BASE)]) == 141
    assert not capsys.readouterr().err


def test_a_step_before_the_first_is_refused(changed, refused, tmp_path):
    path = changed(BASE, lambda content: content.update(step=-3))
    assert "step is -3" in refused("from-torch", path, tmp_path / "out")


def test_heads_can_be_given(changed, run, refused, tmp_path):
    path = changed(BASE, lambda content: content.pop("metadata"))
    assert "give num_heads" in refused("to-torch", path, tmp_path / "out.pt")
    assert run("to-torch", path, tmp_path / "out.pt", "--num-heads", "8")[0] == 0
    assert bridge.load(tmp_path / "out.pt").config.num_heads == 8
    assert run("from-torch", path, tmp_path / "out", "--num-heads", "2", "--partial")[0] == 0
    assert bridge.load(tmp_path / "out").config.num_heads == 2


def test_adapt_makes_a_model_of_the_config(run, tmp_path):
    (tmp_path / "c.yaml").write_text(f"data_dir: a\nrun_dir: b\n{WIDER}optimizer: {{x: 1}}\n")
    out = tmp_path / "out"
    code, printed, errors = run("adapt", TRAINED, out, "--config", tmp_path / "c.yaml")
    assert (code, errors) == (0, "")
    assert "blocks.2.W_q.weight" in printed and "train.base" in printed
    loaded = bridge.load(out)
    assert loaded.config == from_yaml(tmp_path / "c.yaml")
    assert (loaded.step, loaded.optimizer_state) == (0, None)
    expected, report = bridge.load_partial(TRAINED, config=loaded.config)
    assert bridge.compare(loaded, expected).agrees()
    assert json.loads((out / "load_report.json").read_text()) == report.to_json()


def test_adapt_can_be_told_the_class(run, tmp_path):
    (tmp_path / "c.yaml").write_text(WIDER)
    options = ["--config", tmp_path / "c.yaml", "--model-class", "ExpertModule"]
    assert run("adapt", BASE, tmp_path / "out", *options)[0] == 0
    assert type(bridge.load(tmp_path / "out").model).__name__ == "ExpertModule"


@pytest.mark.parametrize("name", ["base", "base-22m", "expert-text"])
def test_a_training_config_means_the_same_to_the_bridge(name):
    path = ROOT / "configs" / f"{name}.yaml"
    assert from_yaml(path) == parse_config(["--config", str(path)], "").model


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("model: {}", {}),
        ("model: {dropout: 1e-1, pe_dim: null, use_hem: true}", {"dropout": 0.1, "use_hem": True}),
        ("model: {dropout: 0}\ntraining: {steps: 1}", {"dropout": 0.0}),
        ("model: {fusion_method: weighted}", {"fusion_method": "weighted"}),
        ("x: &m {num_heads: 4}\nmodel: *m", {"num_heads": 4}),
    ],
)
def test_a_config_may_leave_things_out(text, changes, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert from_yaml(tmp_path / "c.yaml") == ModelConfig(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no section `model`"),
        ("model:", "line 1: model must hold keys"),
        ("model: 5", "line 1: model must hold keys"),
        ("- model", "line 1: a config file must hold keys"),
        ("data_dir: a", "has no section `model`"),
        ("data_dir: a\nmodell: {}", "has no section `model`: is it modell on line 2?"),
        ("model: {ffn_dims: 5}", "line 1: unknown key model.ffn_dims; did you mean model.ffn_dim?"),
        ("model:\n  5: 5", "line 2: unknown key model.5; known: vocab_size, "),
        ("model: {ffn_dim: x}", "model.ffn_dim in the file's config is 'x', not a whole number"),
        ("model: {ffn_dim: 5.0}", "model.ffn_dim in the file's config is 5.0, not a whole number"),
        ("model: {ffn_dim: null}", "model.ffn_dim in the file's config is None"),
        ("model: {ffn_dim: true}", "model.ffn_dim in the file's config is True"),
        ("model: {use_hem: 1}", "model.use_hem in the file's config is 1, not true or false"),
        ("model: {dropout: x}", "model.dropout in the file's config is 'x'"),
        ("model: {dropout: 1.5}", "model.dropout must lie in [0, 1), not 1.5"),
        (
            "model:\n  num_layers: 2\n  num_heads: 7",
            "line 3: model.num_heads must divide model_dim = 256",
        ),
        ("model: {fusion_method: sum}", "model.fusion_method must be"),
        ("model: {ffn_dim: 5, ffn_dim: 6}", "line 1: model.ffn_dim was set on line 1 already"),
        ("model: {ffn_dim: 5}\nmodel: {}", "line 2: model was set on line 1 already"),
        ("model: [", "line 1: not valid YAML"),
        ("a: 1\nmodel\n  ffn_dim: 5", "line 2: not valid YAML: a ':' is missing"),
        ("a: 1\nmodel: *none", "line 2: not valid YAML"),
        ("model: {ffn_dim: !!python/name:os.system}", "line 1: not valid YAML"),
        ("model: \0", "not valid YAML"),
        ("[" * 5000, "nested too deep"),
    ],
)
def test_a_wrong_config_is_one_line(text, message, refused, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    error = refused("adapt", BASE, tmp_path / "out", "--config", tmp_path / "c.yaml")
    assert error.startswith(f"error: {tmp_path / 'c.yaml'}") and message in error
    assert not (tmp_path / "out").exists()


def test_a_config_that_cannot_be_read_is_one_line(refused, tmp_path):
    (tmp_path / "latin").write_bytes(b"model: {ffn_dim: 5} # \xe9")
    for name, message in (("none", "No such file"), (".", "Is a directory"), ("latin", "UTF-8")):
        assert message in refused("adapt", BASE, tmp_path / "o", "--config", tmp_path / name)


@pytest.mark.parametrize("options", [[], ["--partial"], ["--model-only"]])
def test_a_prefix_that_is_left_out_is_printed(options, run, tmp_path):
    content = torch.load(BASE, weights_only=True)
    tensors = content["model_state_dict"]
    content["model_state_dict"] = {
        f"module.net.model.{name.replace('blocks.0', '_orig_mod.blocks.0')}": value
        for name, value in tensors.items()
    }
    torch.save(content, tmp_path / "a.pt")
    code, out, _ = run("from-torch", tmp_path / "a.pt", tmp_path / "run", *options)
    assert code == 0
    assert "\n  names without net.model., _orig_mod., module.\n" in out
    _, out, _ = run("from-torch", BASE, tmp_path / "other", *options)
    assert "names without" not in out


def test_the_home_folder_is_meant_by_a_tilde(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("from-torch", BASE, "~/out")[0] == 0
    assert run("to-torch", "~/out", "~/out.pt")[0] == 0
    assert (tmp_path / "out.pt").is_file()


@pytest.mark.parametrize("how", ["full", "broken"])
def test_a_conversion_whose_output_cannot_be_written_is_one_line(how, tmp_path):
    """That nobody reads what it prints is not that nobody wants the file."""
    output = {"full": "> /dev/full", "broken": "| true"}[how]
    line = f"set -o pipefail; {sys.executable} -m bridge to-torch {BASE} {tmp_path}/o.pt {output}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    reason = {"full": "No space left on device", "broken": "Broken pipe"}[how]
    assert (done.returncode, done.stderr) == (2, f"error: standard output: {reason}\n")
