"""No message is longer than a screen: lists show their first ten items, then a count."""

import warnings

import pytest
import torch
from helpers.paths import GOLDEN

from bridge import MismatchError, NonFiniteWarning, load_torch
from bridge.__main__ import main
from bridge.errors import listed

BASE = GOLDEN / "base" / "checkpoint.pt"
SCREEN = 80 * 24


@pytest.fixture
def changed(tmp_path):
    """A function that changes a golden file's state dict, and returns where the changed one is."""

    def save(change):
        content = torch.load(BASE, weights_only=True)
        tensors = content["model_state_dict"]
        for name in list(tensors):
            change(tensors, name)
        torch.save(content, tmp_path / "changed.pt")
        return tmp_path / "changed.pt"

    return save


def rename(tensors, name):
    tensors[f"{name}_of_another_model"] = tensors.pop(name)


def reshape(tensors, name):
    tensors[name] = tensors[name][None]


def make_nan(tensors, name):
    if tensors[name].is_floating_point():
        tensors[name] = torch.full_like(tensors[name], torch.nan)


def test_a_list_shows_ten_items_and_the_number_of_the_others():
    names = [f"w{index}" for index in range(61)]
    assert listed(names[:10]) == "w0, w1, w2, w3, w4, w5, w6, w7, w8, w9"
    assert listed(names) == "w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 and 51 more"
    assert listed([]) == ""
    assert listed(["x" * 200] * 12, most=500) == f"{'x' * 200}, {'x' * 200} and 10 more"
    assert listed(["x" * 2000]) == "x" * 2000


@pytest.mark.parametrize(
    ("change", "kinds"), [(rename, {"missing", "unexpected"}), (reshape, {"misshapen"})]
)
def test_a_mismatch_of_all_tensors_fits_on_a_screen(change, kinds, changed):
    path = changed(change)
    with pytest.raises(MismatchError) as caught:
        load_torch(path)
    line = caught.value.message
    problems = caught.value.problems
    assert problems.keys() >= kinds
    assert len(line) < SCREEN
    for kind in kinds:
        count = len(problems[kind])
        assert count > 60
        assert f"{count} {kind}: {', '.join(problems[kind][:10])} and {count - 10} more" in line


def test_a_warning_of_all_tensors_fits_on_a_screen(changed):
    path = changed(make_nan)
    with pytest.warns(NonFiniteWarning, match=r" and \d+ more$") as caught:
        load_torch(path)
    assert len(str(caught[0].message)) < SCREEN


def test_a_warning_of_all_moments_fits_on_a_screen(tmp_path):
    content = torch.load(GOLDEN / "trajectory" / "checkpoint_step_12.pt", weights_only=True)
    for item in content["optimizer_state_dict"]["state"].values():
        item["exp_avg"].fill_(torch.nan)
    torch.save(content, tmp_path / "a.pt")
    with pytest.warns(NonFiniteWarning, match=r"moments: .* and \d+ more$") as caught:
        load_torch(tmp_path / "a.pt")
    assert len(str(caught[0].message)) < SCREEN


def test_what_commands_print_fits_on_a_screen(changed, tmp_path, capsys):
    path = changed(rename)
    assert main(["inspect", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 60
    assert sum(line.endswith(" more") for line in lines) >= 2
    changed(lambda tensors, name: name == "norm.weight" or rename(tensors, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["from-torch", str(path), str(tmp_path / "out"), "--partial"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("  missing")]) == 11
    assert any(line.split()[:2] == ["missing", "and"] for line in lines)
