"""`verify` and `compare`: no difference through any formats, and every difference is found."""

import dataclasses
import itertools
import json

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN

import bridge
from bridge import compare
from bridge.__main__ import main
from bridge.comparison import largest_difference
from bridge.keys import entries, named_parameters
from mmrec_jax.block_forms import stack_blocks

BASE = GOLDEN / "base" / "checkpoint.pt"
TRAINED = GOLDEN / "trajectory" / "checkpoint_step_12.pt"
LATER = GOLDEN / "trajectory" / "checkpoint_step_24.pt"
FORMATS = ("pt", "safetensors", "run")


def content_of(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def changed(tmp_path):
    """A golden file whose content was changed."""

    def save(source, change):
        content = content_of(source)
        change(content)
        path = tmp_path / "changed.pt"
        torch.save(content, path)
        return path

    return save


@pytest.fixture
def verify(capsys):
    """Runs the command; returns the exit code and what it prints as JSON."""

    def run(a, b, *options):
        code = main(["verify", str(a), str(b), "--json", *options])
        printed = capsys.readouterr()
        assert not printed.err
        found = json.loads(printed.out)
        assert found["agrees"] == (code == 0)
        return code, found

    return run


def convert(source, target):
    command = "from-torch" if target.suffix == "" else "to-torch"
    assert main([command, str(source), str(target)]) == 0
    return target


def named(folder, name, kind):
    return folder / (name if kind == "run" else f"{name}.{kind}")


def test_nothing_is_lost_between_any_two_formats(tmp_path, verify, capsys):
    sources = {kind: convert(TRAINED, named(tmp_path, "source", kind)) for kind in FORMATS}
    for first, second in itertools.product(FORMATS, FORMATS):
        target = convert(sources[first], named(tmp_path, f"from_{first}", second))
        capsys.readouterr()
        code, found = verify(TRAINED, target)
        assert (code, found["largest"]) == (0, 0.0), (first, second)
        assert len(found["tensors"]) == 3 * 62


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(GOLDEN.glob("*/checkpoint*.pt")) if path not in (TRAINED, LATER)],
    ids=lambda path: path.parent.name,
)
def test_every_class_and_variant_survives_all_formats(path, tmp_path, verify, capsys):
    run = convert(path, tmp_path / "run")
    last = convert(convert(run, tmp_path / "x.safetensors"), tmp_path / "x.pt")
    capsys.readouterr()
    code, found = verify(path, last)
    assert (code, found["largest"], found["different"]) == (0, 0.0, [])
    loaded = bridge.load(path)
    table = entries(type(loaded.model).__name__, loaded.config)
    stored = [entry.key for entry in table if entry.kind in ("parameter", "buffer")]
    assert sorted(item["name"] for item in found["tensors"] if item["kind"] == "weight") == sorted(
        stored
    )
    outputs = {
        "ExpertModule": {"output", "memory"},
        "FusionLayer": {"output"},
        "MMRecModel": {"logits", "memory"}
        | ({"auxiliary loss"} if loaded.config.use_uboo else set()),
        "MMRec100M": {f"{o} ({r})" for o in ("logits", "memory") for r in ("both", "text", "code")},
    }
    assert found["outputs"].keys() == outputs[type(loaded.model).__name__]


@pytest.mark.parametrize("name", ["blocks.1.W_g.weight", "embedding.weight", "norm.weight"])
def test_a_change_of_one_weight_is_found_and_named(name, changed, verify):
    def change(content):
        tensors = content["model_state_dict"]
        tensors[name].view(-1)[5] += 1e-6
        tensors["lm_head.weight"] = tensors["embedding.weight"]

    path = changed(TRAINED, change)
    code, found = verify(TRAINED, path)
    assert code == 1
    differing = [item["name"] for item in found["tensors"] if item["difference"] > 0]
    assert differing == [name] == [found["tensors"][0]["name"]]
    assert 5e-7 < found["tensors"][0]["difference"] < 2e-6
    assert any(value > 0 for value in found["outputs"].values())
    assert verify(TRAINED, path, "--tolerance", "1e-3")[0] == 0
    assert verify(TRAINED, path, "--tolerance", "1e-9")[0] == 1


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_a_change_of_one_moment_is_found_and_named(moment, changed, verify, capsys):
    loaded = bridge.load(TRAINED)
    index, key = 9, named_parameters(entries("MMRecModel", loaded.config))[9].key

    def change(content):
        content["optimizer_state_dict"]["state"][index][moment].view(-1)[0] += 1e-6

    path = changed(TRAINED, change)
    code, found = verify(TRAINED, path)
    assert code == 1
    worst = found["tensors"][0]
    assert (worst["kind"], worst["name"]) == (moment, key)
    assert 5e-7 < worst["difference"] == found["largest"] < 2e-6
    assert verify(TRAINED, path, "--model-only")[0] == 0
    assert main(["verify", str(TRAINED), str(path)]) == 1
    assert [moment, key] in [line.split()[1:] for line in capsys.readouterr().out.splitlines()]


def set_group(**values):
    return lambda content: content["optimizer_state_dict"]["param_groups"][0].update(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(avg_loss=c["avg_loss"] + 1e-6),
        set_group(eps=1e-8 * (1 + 1e-9)),
        set_group(foreach=True, fused=False),
    ],
)
def test_a_tolerance_covers_numbers_and_how_adamw_is_computed(change, changed, verify):
    path = changed(TRAINED, change)
    assert verify(TRAINED, path)[0] == 1
    assert verify(TRAINED, path, "--tolerance", "1e-5")[0] == 0


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda c: c.update(step=13), ["step: 12 in A, 13 in B"]),
        (lambda c: c.update(avg_loss=1.5), ["avg_loss: 5.010129690170288 in A, 1.5 in B"]),
        (set_group(weight_decay=0.2), ["optimizer.weight_decay: 0.1 in A, 0.2 in B"]),
        (set_group(betas=(0.9, 0.99)), ["optimizer.betas: (0.9, 0.999) in A, (0.9, 0.99) in B"]),
        (lambda c: c.update(optimizer_state_dict=None), ["optimizer: only in A"]),
        (lambda c: c.update(scheduler_state_dict=None), ["schedule: only in A"]),
        (
            lambda c: c["metadata"]["config"].update(dropout=0.5),
            ["config.dropout: 0.0 in A, 0.5 in B"],
        ),
    ],
)
def test_whatever_else_differs_is_said(change, lines, changed, verify):
    path = changed(TRAINED, change)
    code, found = verify(TRAINED, path, "--tolerance", "1e-3")
    assert (code, found["different"]) == (1, lines)
    assert found["largest"] == 0
    in_config = lines[0].startswith("config")
    assert verify(TRAINED, path, "--model-only")[0] == (1 if in_config else 0)


def test_the_schedules_differ_in_each_counter(changed):
    a = bridge.load(TRAINED)
    b = dataclasses.replace(
        a, scheduler_state=dataclasses.replace(a.scheduler_state, total_steps=99)
    )
    assert compare(a, b).different == ("schedule.total_steps: 24 in A, 99 in B",)


def test_other_heads_show_in_what_the_model_computes(changed, verify):
    path = changed(BASE, lambda content: content["metadata"]["config"].update(num_heads=8))
    code, found = verify(BASE, path)
    assert (code, found["different"]) == (1, ["config.num_heads: 4 in A, 8 in B"])
    assert all(item["difference"] == 0 for item in found["tensors"])
    assert found["outputs"]["logits"] > 1e-4


def test_the_tolerance_is_of_the_outputs_too():
    same = compare(bridge.load(BASE), bridge.load(BASE))
    other = dataclasses.replace(same, outputs=same.outputs | {"memory": 0.5})
    assert same.agrees() and not other.agrees() and not other.agrees(0.4)
    assert other.agrees(0.5) and other.largest == 0.5


def test_another_class_is_a_clear_report(verify, capsys):
    expert = GOLDEN / "expert" / "checkpoint.pt"
    code, found = verify(BASE, expert)
    assert code == 1
    assert found["different"][0] == "model class: MMRecModel in A, ExpertModule in B"
    assert found["only_in_a"] == ["embedding.weight"]
    assert not found["only_in_b"] and not found["outputs"]
    assert main(["verify", str(BASE), str(expert)]) == 1
    printed = capsys.readouterr().out
    assert "not compared: the models are of different classes" in printed
    assert "A and B differ" in printed


def test_other_shapes_and_names_are_listed(verify):
    code, found = verify(BASE, GOLDEN / "base_hem" / "checkpoint.pt")
    assert code == 1
    assert "blocks.0.W_q.weight" in found["only_in_a"]
    assert "blocks.0.W_fused.weight" in found["only_in_b"]
    assert any(line.startswith("config.use_hem: None in A, True") for line in found["different"])


def test_misshapen_tensors_are_listed(changed, verify):
    def change(content):
        content["metadata"]["config"]["vocab_size"] = 150
        for name in ("embedding.weight", "lm_head.weight"):
            content["model_state_dict"][name] = content["model_state_dict"][name][:150].clone()

    code, found = verify(BASE, changed(BASE, change))
    assert code == 1
    assert found["misshapen"] == ["embedding.weight: [160, 32] in A, [150, 32] in B"]
    assert found["different"] == ["config.vocab_size: 160 in A, 150 in B"]
    assert not found["outputs"]


def test_another_dtype_is_reported_and_counts_without_a_tolerance_only(tmp_path, verify):
    for name, dtype in (("half.pt", torch.bfloat16), ("full.pt", torch.float32)):
        content = content_of(BASE)
        content["model_state_dict"] = {
            key: tensor.bfloat16().to(dtype) for key, tensor in content["model_state_dict"].items()
        }
        torch.save(content, tmp_path / name)
    code, found = verify(tmp_path / "half.pt", tmp_path / "full.pt")
    assert (code, found["largest"], found["different"]) == (1, 0.0, [])
    assert {tuple(item["dtypes"]) for item in found["tensors"]} == {("bfloat16", "float32")}
    assert verify(tmp_path / "half.pt", tmp_path / "full.pt", "--tolerance", "1e-9")[0] == 0
    code, found = verify(tmp_path / "half.pt", BASE, "--tolerance", "1e-9")
    assert code == 1
    assert 0 < found["outputs"]["logits"] < 0.5


def test_nan_is_itself_and_nothing_else(changed, tmp_path, capsys):
    def change(content):
        content["model_state_dict"]["norm.weight"][3] = float("nan")

    path = changed(BASE, change)
    assert main(["verify", str(path), str(path), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["largest"] == 0
    assert printed.err.count("warning: ") == printed.err.count("\n") == 2
    assert main(["verify", str(BASE), str(path), "--json", "--tolerance", "1e30"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"][0]["name"] == "norm.weight"
    assert found["tensors"][0]["difference"] == found["largest"] == "inf"


def test_the_table_shows_the_ten_worst_in_order(capsys):
    assert main(["verify", str(TRAINED), str(LATER)]) == 1
    printed = capsys.readouterr().out
    shown = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    worst = [words for words in shown if words[1] in ("weight", "exp_avg", "exp_avg_sq")]
    expected = compare(bridge.load(TRAINED), bridge.load(LATER)).tensors[:10]
    assert [(words[1], words[2]) for words in worst] == [(t.kind, t.name) for t in expected]
    figures = [float(words[0]) for words in worst]
    assert figures == sorted(figures, reverse=True)
    for line in ("step: 12 in A, 24 in B", "schedule.step: 12 in A, 24 in B", "logits", "memory"):
        assert line in printed


def test_the_inputs_depend_on_the_seed(changed):
    a = bridge.load(BASE)
    b = bridge.load(changed(BASE, lambda c: c["model_state_dict"]["blocks.1.W_g.bias"].add_(0.01)))
    first, again, other = (compare(a, b, seed).outputs for seed in (0, 0, 1))
    assert first == again != other


def test_a_bare_file_needs_its_heads_only(tmp_path, capsys):
    torch.save(content_of(BASE)["model_state_dict"], tmp_path / "bare.pt")
    bare = str(tmp_path / "bare.pt")
    assert main(["verify", bare, bare]) == 2
    assert "give num_heads" in capsys.readouterr().err
    assert main(["verify", bare, bare, "--num-heads", "4"]) == 0


FLOATS = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, float("inf"), -float("inf")])
)


@hypothesis.given(pairs=st.lists(st.tuples(FLOATS, FLOATS), max_size=6))
def test_differences_are_largest_symmetric_and_zero_for_the_same(pairs):
    a, b = (np.array([pair[i] for pair in pairs], np.float32) for i in (0, 1))
    assert largest_difference(a, a) == 0
    found = largest_difference(a, b)
    assert found == largest_difference(b, a)
    if np.isfinite(a).all() and np.isfinite(b).all():
        exact = [abs(float(x) - float(y)) for x, y in zip(a, b, strict=True)]
        assert found == max(exact, default=0.0)
        assert (found == 0) == np.array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_is_not_a_number_differs_infinitely_but_for_its_bits(dtype):
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    nan = np.array([np.nan, 1], dtype)
    other = nan.copy()
    other.view(bits)[0] ^= 1  # another NaN
    assert np.isnan(other.astype(np.float32)[0])
    infinite, one = np.array([np.inf, 1], dtype), np.array([1, 1], dtype)
    assert largest_difference(nan, nan.copy()) == 0
    assert largest_difference(nan, np.array([np.nan, 2], dtype)) == 1
    assert largest_difference(nan, other) == np.inf
    assert largest_difference(nan, one) == np.inf
    assert largest_difference(infinite, infinite.copy()) == 0
    assert largest_difference(infinite, -infinite) == np.inf
    assert largest_difference(infinite, np.array([np.inf, 3], dtype)) == 2


def test_differences_between_dtypes_are_of_their_values():
    a = np.array([1.0, 2.0, np.inf], np.float32)
    assert largest_difference(a, a.astype(ml_dtypes.bfloat16)) == 0
    assert largest_difference(a + np.float32(0.5), a.astype(np.float16)) == 0.5
    nan = np.array([np.nan], np.float32)
    assert largest_difference(nan, nan.astype(np.float16)) == np.inf


def test_scalars_and_empty_arrays_have_differences_too():
    assert largest_difference(np.float32(1)[()], np.asarray(np.float32(3))) == 2
    assert largest_difference(np.zeros((0, 3), np.float32), np.ones((0, 3), np.float32)) == 0


def test_stacked_blocks_are_compared_by_layer():
    a = bridge.load(BASE)
    b = dataclasses.replace(a, model=stack_blocks(a.model))
    assert compare(a, b).agrees()
    b.model.blocks.norm1.scale[...] += jnp.asarray([[0.0], [1.0]])
    (worst, *rest) = compare(a, b).tensors
    assert worst.name == "blocks.1.norm1.weight"
    assert worst.difference == pytest.approx(1)
    assert not any(item.difference for item in rest)
