"""`inspect`: everything about a file, and all that loading or resuming would refuse."""

import argparse
import dataclasses
import json
import math
import os
import random
import re

import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN
from safetensors.torch import save_file

import bridge
from bridge import FormatError, SchedulerState, UnreadableFileError, inspect
from bridge.__main__ import main
from bridge.schedule import scheduler_to_torch

CHECKPOINTS = sorted(GOLDEN.glob("*/*.pt"))
TRAINED = GOLDEN / "trajectory" / "checkpoint_step_12.pt"
DIMENSIONS = {"num_layers": 2, "num_heads": 4, "dropout": 0.0}
EXPECTED = {
    "base": ("MMRecModel", {"vocab_size": 160, "model_dim": 32, "ffn_dim": 80}, ()),
    "base_hem": (
        "MMRecModel",
        {"vocab_size": 160, "model_dim": 32, "ffn_dim": 80, "pe_dim": 32},
        ("HEM",),
    ),
    "base_dpg": (
        "MMRecModel",
        {"vocab_size": 160, "model_dim": 32, "ffn_dim": 80, "dpg_rank": 16},
        ("DPG",),
    ),
    "base_sparse": (
        "MMRecModel",
        {"vocab_size": 160, "model_dim": 32, "num_experts": 8, "sparse_chunk_size": 8},
        ("sparse",),
    ),
    "base_uboo": (
        "MMRecModel",
        {"vocab_size": 160, "model_dim": 32, "ffn_dim": 80, "lambda_P": 0.1},
        ("UBOO",),
    ),
    "expert": ("ExpertModule", {"model_dim": 32, "ffn_dim": 80}, ()),
    "mmrec100m_concatenate": (
        "MMRec100M",
        {"vocab_size": 160, "expert_dim": 32, "ffn_dim": 80, "fusion_method": "concatenate"}
        | {"fused_dim": 64},
        (),
    ),
}


def content_of(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def changed(tmp_path):
    """A golden file whose content was changed; what the change returns replaces it."""

    def save(source, change):
        content = content_of(source)
        path = tmp_path / "changed.pt"
        torch.save(change(content) or content, path)
        return path

    return save


def in_words(path, capsys):
    """The exit code, and what each label is followed by."""
    code = main(["inspect", str(path)])
    printed = capsys.readouterr()
    assert not printed.err
    lines = [line.split("  ", 1) for line in printed.out.splitlines() if line[:1] != " "]
    return code, {line[0]: line[-1].strip() for line in lines}, printed.out


@pytest.mark.parametrize(("folder", "expected"), EXPECTED.items(), ids=EXPECTED)
def test_class_dimensions_and_variants_are_told(folder, expected):
    found = inspect(GOLDEN / folder / "checkpoint.pt")
    model_class, dimensions, variants = expected
    assert (found.model_class, found.variants) == (model_class, variants)
    assert found.dimensions == dimensions | DIMENSIONS
    assert not found.problems


def test_both_variants_of_a_file_are_told():
    assert inspect(GOLDEN / "base_hem_dpg" / "checkpoint.pt").variants == ("HEM", "DPG")


@pytest.mark.parametrize(
    ("folder", "revised"),
    [
        ("base_hem_dpg", "DPG"),
        ("base_sparse", "sparse"),
        ("base_uboo", "UBOO"),
        ("base_hem", None),
        ("base", None),
    ],
)
def test_variants_that_the_original_has_revised_are_told(folder, revised, capsys):
    _, _, printed = in_words(GOLDEN / folder / "checkpoint.pt", capsys)
    reminder = ": revisions of the original differ here, see docs/model.md section 1"
    found = [line.strip() for line in printed.splitlines() if "revisions" in line]
    assert found == ([] if revised is None else [revised + reminder])
    main(["inspect", str(GOLDEN / folder / "checkpoint.pt"), "--json"])
    told = json.loads(capsys.readouterr().out)["reminder"]
    assert told == ("" if revised is None else revised + reminder)


def test_a_fusion_layer_has_no_blocks():
    found = inspect(GOLDEN / "fusion_concatenate" / "checkpoint.pt")
    assert found.dimensions == {"expert_dim": 32, "fused_dim": 64, "fusion_method": "concatenate"}
    assert found.parameters == {"fusion_proj": 64 * 64 + 64}


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_value_of_a_file_is_counted_once(path):
    tensors = content_of(path)["model_state_dict"]
    found = inspect(path)
    assert found.tied == (found.model_class == "MMRecModel")
    if found.tied:
        del tensors["lm_head.weight"]
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    assert found.total + found.buffers == sum(sizes.values())
    assert found.buffers == sum(n for name, n in sizes.items() if ".router." in name)
    assert list(found.parameters) == list(dict.fromkeys(name.split(".")[0] for name in tensors))
    for part, count in found.parameters.items():
        assert count == sum(
            n for name, n in sizes.items() if name.split(".")[0] == part and ".router." not in name
        )
    assert sum(share.tensors for share in found.dtypes.values()) == len(tensors)
    assert sum(share.values for share in found.dtypes.values()) == sum(sizes.values())
    assert found.size == path.stat().st_size


def test_training_state_is_told(capsys):
    found = inspect(TRAINED)
    assert (found.step, found.trained) == (12, 0.5)
    assert found.avg_loss == content_of(TRAINED)["avg_loss"]
    assert (found.optimizer.moments, found.optimizer.parameters) == (62, 62)
    group = content_of(TRAINED)["optimizer_state_dict"]["param_groups"][0]
    assert found.optimizer.settings == {k: group[k] for k in ("lr", "betas", "eps", "weight_decay")}
    schedule = dataclasses.asdict(found.schedule)
    assert schedule == {
        "base_lr": 3e-3,
        "warmup_steps": 6,
        "total_steps": 24,
        "step": 12,
        "min_lr": 0.0,
        "start_factor": 0.1,
        "form": "SequentialLR",
    }
    code, words, _ = in_words(TRAINED, capsys)
    assert code == 0
    assert words["optimizer"].startswith("AdamW, moments of 62 of 62 parameters, lr 0.00225, betas")
    assert words["schedule"] == "peak 0.003, warm-up 6, 24 steps in all"
    assert words["trained"] == "12 of 24 steps (50.0%)"


def test_parameters_without_moments_are_counted(changed):
    def change(content):
        for index in (3, 4, 60):
            del content["optimizer_state_dict"]["state"][index]

    found = inspect(changed(TRAINED, change))
    assert (found.optimizer.moments, found.optimizer.parameters) == (59, 62)
    assert found.problems == {
        "about resuming": [
            "its moments lack those of blocks.0.W_k.kernel, blocks.0.W_k.bias, "
            "blocks.1.ffn.linear_out.bias"
        ]
    }


def test_what_a_file_lacks_is_none(capsys):
    code, words, _ = in_words(GOLDEN / "base" / "checkpoint.pt", capsys)
    assert code == 0
    assert words["optimizer"] == words["schedule"] == words["variants"] == "none"
    assert words["trained"] == "0 steps"


def test_json_has_everything(capsys):
    assert main(["inspect", "--json", str(TRAINED)]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = inspect(TRAINED)
    assert found.keys() == {
        *(field.name for field in dataclasses.fields(expected)),
        "total",
        "trained",
        "reminder",
    }
    assert found["parameters"] == expected.parameters
    assert found["total"] == expected.total == 36_896
    assert found["optimizer"]["settings"]["betas"] == [0.9, 0.999]
    assert found["schedule"]["total_steps"] == 24


@pytest.mark.parametrize("kind", ["run", "run/state/12", "x.safetensors"])
def test_the_other_formats_say_the_same(kind, tmp_path):
    source = bridge.load(TRAINED)
    if kind.startswith("run"):
        state = tmp_path / "run" / "state" / "12"
        bridge.save_orbax(state, source.model, **source.training_state())
        size = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
        place, name = str(state), "Orbax"
    else:
        bridge.save_file(tmp_path / kind, source)
        size, place, name = os.path.getsize(tmp_path / kind), str(tmp_path / kind), ".safetensors"
    found = inspect(tmp_path / kind)
    expected = dataclasses.replace(inspect(TRAINED), path=place, format=name, size=size)
    assert found == expected


@pytest.mark.parametrize("tensor", ["model_state_dict", "exp_avg"])
def test_damage_is_found_in_what_nobody_names(tensor, tmp_path):
    """A flipped bit in any value is an error: what inspect accepts can be loaded."""
    data = bytearray(TRAINED.read_bytes())
    content = content_of(TRAINED)
    values = content["model_state_dict"]["blocks.1.W_v.weight"]
    if tensor == "exp_avg":
        values = content["optimizer_state_dict"]["state"][30]["exp_avg"]
    place = data.index(values.numpy().tobytes())
    data[place + 5] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(UnreadableFileError, match="CRC-32"):
        inspect(tmp_path / "flipped.pt")


def test_heads_that_no_one_states_are_unknown(changed, capsys):
    path = changed(GOLDEN / "base" / "checkpoint.pt", lambda content: content["model_state_dict"])
    code, words, _ = in_words(path, capsys)
    assert code == 1
    assert "num_heads unknown, as no shape shows it" in words["dimensions"]
    assert "ffn_dim 80" in words["dimensions"]
    assert "--num-heads" in words["1 about its config"]
    assert inspect(path).dimensions["num_heads"] is None
    assert not inspect(path, num_heads=4).problems


def test_wrapped_names_are_unwrapped(changed):
    def change(content):
        tensors = content["model_state_dict"]
        return {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}

    found = inspect(changed(GOLDEN / "base" / "checkpoint.pt", change))
    assert found.parameters == inspect(GOLDEN / "base" / "checkpoint.pt").parameters


def test_all_that_does_not_fit_is_listed(changed, capsys):
    def change(content):
        tensors = content["model_state_dict"]
        del tensors["blocks.0.W_q.bias"]
        tensors["blocks.1.W_v.weight"] = torch.zeros(3, 3)
        tensors["norm.weight"] = tensors["norm.weight"].double()
        tensors["wte.weight"] = torch.zeros(5)
        tensors["module.blocks.0.W_q.weight"] = torch.zeros(32, 32)
        content["metadata"]["config"]["ffn_dim"] = 81

    path = changed(GOLDEN / "base" / "checkpoint.pt", change)
    found = inspect(path)
    misshapen = found.problems.pop("misshapen")
    assert found.problems == {
        "contradictory": ["ffn_dim is 81 in the config and 80 in the tensors"],
        "missing": ["blocks.0.W_q.bias"],
        "unexpected": ["wte.weight"],
        "of the wrong type": ["norm.weight (float64)"],
        "duplicate": ["blocks.0.W_q.weight"],
    }
    assert "blocks.1.W_v.weight is [3, 3], not [32, 32]" in misshapen
    assert found.dtypes["float64"].tensors == 1
    code, words, printed = in_words(path, capsys)
    assert code == 1
    assert words["1 missing"] == "blocks.0.W_q.bias"
    assert all(problem in printed for problem in misshapen)
    assert found.model_class in printed


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["metadata"].update(model_class="GPT2"), "metadata.model_class is 'GPT2'"),
        (lambda c: c["metadata"]["config"].update(num_heads=5), "num_heads must divide"),
        (lambda c: c["metadata"]["config"].update(num_layers=10**6), "num_layers is 1000000"),
        (lambda c: {"a.b": torch.zeros(2), "c": torch.zeros(3)}, "no model has tensors of these"),
    ],
)
def test_a_file_of_no_model_is_described_all_the_same(change, problem, changed, capsys):
    path = changed(GOLDEN / "base" / "checkpoint.pt", change)
    found = inspect(path)
    (message,) = found.problems["about its config"]
    assert problem in message
    assert found.total > 0 and "float32" in found.dtypes
    code, words, _ = in_words(path, capsys)
    assert code == 1
    assert problem in words["1 about its config"]


def test_many_parts_are_summed_up(tmp_path, capsys):
    torch.save({f"p{i}": torch.zeros(i) for i in range(1, 21)}, tmp_path / "foreign.pt")
    code, _, printed = in_words(tmp_path / "foreign.pt", capsys)
    assert code == 1
    parts = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    assert parts == [*([f"p{i}", str(i)] for i in range(1, 13)), ["8", "more", "132"]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state["param_groups"][0]["params"].pop(), "is over 61 parameters"),
        (lambda state: state["state"].update({99: state["state"][0]}), "unexpected: index 99"),
        (lambda state: state["state"][1].pop("exp_avg"), "1 (blocks.0.W_q.weight) lacks exp_avg"),
        (
            lambda state: state["state"][0].update(exp_avg_sq=torch.zeros(3)),
            "exp_avg_sq of 0 (embedding.weight) is [3], not [160, 32]",
        ),
        (lambda state: state["param_groups"][0].pop("betas"), "it has no usable betas"),
        (lambda state: state.pop("state"), "not what torch's optimizers write"),
        (lambda state: state["param_groups"].append({}), "not what torch's optimizers write"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_a_problem(change, problem, changed):
    def change_optimizer(content):
        change(content["optimizer_state_dict"])

    path = changed(TRAINED, change_optimizer)
    (message,) = inspect(path).problems["about its optimizer"]
    assert problem in message
    assert inspect(path).total == 36_896


def test_another_schedule_is_a_problem(changed, capsys):
    path = changed(TRAINED, lambda content: content["scheduler_state_dict"].update(_milestones=[7]))
    found = inspect(path)
    assert found.schedule is None
    assert "total_iters" in found.problems["about its schedule"][0]
    assert in_words(path, capsys)[0] == 1


def test_a_file_cannot_write_to_the_terminal(changed, capsys):
    def change(content):
        content["optimizer_state_dict"]["param_groups"][0]["lr"] = "a\x1b[31m\nb\x07"

    _, words, printed = in_words(changed(TRAINED, change), capsys)
    assert "lr a\\x1b[31m\\nb\\x07, betas" in words["optimizer"]
    assert not {"\x1b", "\x07"} & set(printed)


def test_long_names_are_not_cut(changed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = "blocks.11.mdi.W_planning_target_of_something_else_altogether.0.weight_of_120_characters"
    path = changed(TRAINED, lambda c: c["model_state_dict"].update({name: torch.zeros(1)}))
    assert in_words(path, capsys)[1]["1 unexpected"] == name


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", UnreadableFileError), (b"hello", UnreadableFileError), (None, UnreadableFileError)],
)
def test_what_is_no_checkpoint_is_an_error(content, kind, tmp_path, capsys):
    path = tmp_path / "wrong.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind):
        inspect(path)
    assert main(["inspect", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {path}: ") and printed.err.count("\n") == 1
    assert not printed.out


def test_a_file_without_tensors_is_an_error(tmp_path):
    torch.save({"a": 1}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="holds neither"):
        inspect(tmp_path / "a.pt")


def untie(content):
    content["model_state_dict"]["lm_head.weight"] = torch.ones(160, 32)


def count_otherwise(content):
    content["scheduler_state_dict"] = golden_schedule(11)
    rate = content["scheduler_state_dict"]["_last_lr"][0]
    content["optimizer_state_dict"]["param_groups"][0]["lr"] = rate


def golden_schedule(step):
    state = SchedulerState(base_lr=3e-3, warmup_steps=6, total_steps=24, step=step)
    return scheduler_to_torch(state)


def end_before(content):
    state = SchedulerState(base_lr=3e-3, warmup_steps=6, total_steps=9, step=12)
    content["scheduler_state_dict"] = scheduler_to_torch(state)
    rate = content["scheduler_state_dict"]["_last_lr"][0]
    content["optimizer_state_dict"]["param_groups"][0]["lr"] = rate


@pytest.mark.parametrize(
    ("change", "kind", "problem"),
    [
        (untie, "of wrong values", "lm_head.weight is not embedding.weight"),
        (
            count_otherwise,
            "about its counters",
            "its schedule is after 11 steps, but its optimizer after 12: each continues from its "
            "own count, and training ends with the schedule, after 25 steps",
        ),
        (end_before, "about resuming", "its schedule is after 12 steps, and ends after 9"),
        (
            lambda c: c.update(optimizer_state_dict=None),
            "about resuming",
            "it is after 12 steps and has no optimizer state to continue from",
        ),
    ],
)
def test_what_loading_or_resuming_would_refuse_is_a_problem(change, kind, problem, changed):
    found = inspect(changed(TRAINED, change))
    assert found.problems == {kind: [problem]}
    assert found.tied == (change is not untie)


def test_the_routers_powers_are_checked(changed):
    name = "blocks.0.ffn.router.powers"
    path = changed(
        GOLDEN / "base_sparse" / "checkpoint.pt",
        lambda content: content["model_state_dict"].update({name: torch.tensor([1, 2, 5])}),
    )
    assert inspect(path).problems == {"of wrong values": [f"{name} is not 1, 2, 4, ..."]}


def test_entries_that_are_not_taken_over_are_listed(changed, capsys, tmp_path):
    def change(content):
        content["ema_state_dict"] = {
            f"module.{name}": tensor + 1 for name, tensor in content["model_state_dict"].items()
        } | {"n_averaged": torch.tensor(3)}
        content |= {"epoch": 3, "scaler": {"scale": 65536.0}, "rng": [1, 2]}

    path = changed(TRAINED, change)
    listed = (
        "ema_state_dict (64 tensors), epoch (3), scaler (a dictionary of 1 entry), "
        "rng (a list of 2 values)"
    )
    code, words, _ = in_words(path, capsys)
    assert (code, words["not taken"]) == (0, listed)
    assert main(["from-torch", str(path), str(tmp_path / "out")]) == 0
    assert f"not taken over: {listed}\n" in capsys.readouterr().out

    trained = bridge.load(path)
    average = bridge.load(path, entry="ema_state_dict")
    assert (average.step, average.optimizer_state, average.scheduler_state) == (0, None, None)
    for name, array in bridge.variables(trained.model).items():
        np.testing.assert_array_equal(bridge.variables(average.model)[name], array + 1)
    assert {"model_state_dict", "optimizer_state_dict", "epoch"} <= average.left_out.keys()
    with pytest.raises(
        FormatError, match=r"no weights called ema; .*: model_state_dict, ema_state"
    ):
        bridge.load(path, entry="ema")
    assert main(["inspect", str(path), "--weights", "ema_state_dict"]) == 0


STATES = {
    "numpy's": (np.random.get_state(), "a tuple of 5 values"),
    "an array": (np.arange(3), "numpy.ndarray, not read"),
    "Python's": (random.getstate(), "a tuple of 3 values"),
    "torch's": (torch.get_rng_state(), "a tensor [5056]"),
    "of cards": ([torch.get_rng_state()] * 2, "a list of 2 values"),
    "text of numpy's": (np.str_("PCG64"), "'PCG64'"),
    "options": (argparse.Namespace(a=1), "argparse.Namespace, not read"),
    "a class": (torch.nn.Parameter, "holds torch.nn.parameter.Parameter as a value"),
    "sparse": (torch.zeros(2, 3).to_sparse(), "sparse tensors"),
    "nested": ({"x": [{1: np.random.default_rng(0)}]}, "a dictionary of 1 entry"),
}


@pytest.mark.parametrize("name", STATES)
def test_whatever_else_a_file_holds_beside_the_model_is_left_out(name, changed):
    value, told = STATES[name]
    path = changed(TRAINED, lambda content: content.update(rng=value))
    found = inspect(path)
    assert (found.problems, found.left_out) == ({}, {"rng": told})
    assert bridge.load(path).optimizer_state is not None


def test_what_is_wrong_beside_the_weights_can_be_left_out(changed, capsys):
    path = changed(TRAINED, lambda content: content.update(step="many"))
    assert main(["inspect", str(path)]) == 2
    assert "step is 'many', not a whole number" in capsys.readouterr().err
    code = main(["inspect", str(path), "--model-only", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (code, told["step"], told["optimizer"]) == (0, 0, None)


def test_an_average_s_counters_are_left_out_and_said(changed):
    counters = {"decay": 0.99, "on": True, "num_updates": torch.tensor(3), "n": None}

    def change(content):
        content["ema"] = {f"module.{n}": t for n, t in content["model_state_dict"].items()}
        content["ema"] |= counters

    found = inspect(changed(TRAINED, change), entry="ema")
    assert not found.problems
    assert found.wrappers == ("module.",)
    assert {name for name in found.left_out if "." in name} == {f"ema.{name}" for name in counters}
    assert found.left_out["ema.decay"] == "0.99"


@pytest.mark.parametrize(
    ("arrange", "advice"),
    [
        (lambda w: {"student": w, "teacher": w | {}}, "name of those to take: student, teacher"),
        (
            lambda w: {"model_state_dict": {"student": w, "teacher": w | {}}},
            "take: model_state_dict.student, model_state_dict.teacher",
        ),
        (lambda w: {"ema": {"decay": 0.9, "model": w}}, "--weights ema.model takes the tensors"),
        (
            lambda w: {"net": w, "adam": {"param_groups": [], "state": {"a": w | {}}}, "rng": {1}},
            "--weights net takes the tensors in there",
        ),
    ],
)
def test_weights_in_unusual_places_are_named(arrange, advice, changed):
    path = changed(TRAINED, lambda content: arrange(content["model_state_dict"]))
    with pytest.raises(FormatError, match=re.escape(advice)):
        inspect(path)
    name = re.search(r"(?:take: |--weights )([\w.]+)", advice)[1]
    assert inspect(path, entry=name, num_heads=4).problems == {}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_tied_head_that_is_not_stored_is_known(suffix, tmp_path):
    tensors = content_of(TRAINED)["model_state_dict"]
    del tensors["lm_head.weight"]
    path = tmp_path / f"a.{suffix}"
    (torch.save if suffix == "pt" else save_file)(tensors, path)
    found = inspect(path, num_heads=4)
    assert (found.problems, found.tied) == ({}, True)
    assert found.warnings == ("has no lm_head.weight: it is tied to embedding.weight",)
    with pytest.warns(bridge.FileWarning, match=r"has no lm_head"):
        loaded = bridge.load(path, num_heads=4)
    assert bridge.compare(loaded, bridge.load(TRAINED, model_only=True)).of_kind("weight")
    # A file of a whole checkpoint has all that its model has.
    torch.save({"model_state_dict": tensors}, tmp_path / "whole.pt")
    assert inspect(tmp_path / "whole.pt", num_heads=4).problems["missing"] == ["lm_head.weight"]


def test_a_prefix_of_all_names_is_stripped_and_said(changed, capsys):
    def change(content):
        tensors = content["model_state_dict"]
        names = {name: f"net.model._fsdp_wrapped_module.{name}" for name in tensors}
        content["model_state_dict"] = {names[name]: tensor for name, tensor in tensors.items()}

    path = changed(TRAINED, change)
    code, words, _ = in_words(path, capsys)
    assert (code, words["names"]) == (0, "without net.model., _fsdp_wrapped_module.")
    assert inspect(path).parameters == inspect(TRAINED).parameters


@pytest.mark.parametrize(
    ("moment", "value", "warns"),
    [
        ("exp_avg", math.nan, True),
        ("exp_avg", -1.0, False),
        ("exp_avg_sq", math.inf, True),
        ("exp_avg_sq", -1e-9, True),
    ],
)
def test_moments_that_cannot_be_trained_on_are_warned_of(moment, value, warns, changed):
    def change(content):
        content["optimizer_state_dict"]["state"][5][moment][0, 0] = value

    found = inspect(changed(TRAINED, change))
    expected = f"NaN, infinite or negative moments: {moment} of blocks.0.W_v.weight"
    assert found.warnings == ((expected,) if warns else ())


@pytest.mark.parametrize("entry", ["model_state_dict", "model_state_dict.student"])
def test_the_trained_weights_can_be_named_too(entry, changed):
    def change(content):
        if entry.endswith("student"):
            content["model_state_dict"] = {"student": content["model_state_dict"], "teacher": {}}

    loaded = bridge.load(changed(TRAINED, change), entry=entry)
    assert (loaded.step, loaded.optimizer_state) == (0, None)
    assert bridge.compare(loaded, bridge.load(TRAINED, model_only=True)).of_kind("weight")
