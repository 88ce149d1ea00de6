"""Which optimizer a state dict is of, and to which parameter each of its moments goes."""

import re

import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN

from bridge import FileWarning, FormatError, MismatchError, load_torch, save_torch
from bridge.keys import entries, named_parameters
from bridge.optimizer import optimizer_from_torch

TRAINED = GOLDEN / "trajectory" / "checkpoint_step_12.pt"


def content():
    return torch.load(TRAINED, weights_only=True)


def named(order, prefix=""):
    """The golden's optimizer state as torch writes it over named parameters in this order."""
    found = content()
    optimizer = found["optimizer_state_dict"]
    table = entries("MMRecModel", load_torch(TRAINED).config)
    names = [entry.key for entry in named_parameters(table)]
    order = order(range(len(names)))
    optimizer["state"] = {i: optimizer["state"][j] for i, j in enumerate(order)}
    (group,) = optimizer["param_groups"]
    group["param_names"] = [prefix + names[j] for j in order]
    group["params"] = list(range(len(order)))
    return found


def load(found, tmp_path):
    torch.save(found, tmp_path / "named.pt")
    return load_torch(tmp_path / "named.pt").optimizer_state


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net.model."])
@pytest.mark.parametrize(
    "order",
    [reversed, lambda numbers: np.random.default_rng(0).permutation(len(numbers)).tolist()],
)
def test_moments_go_to_the_parameter_of_their_name(order, prefix, tmp_path):
    expected = load_torch(TRAINED).optimizer_state
    found = load(named(lambda numbers: list(order(numbers)), prefix), tmp_path)
    for name in ("exp_avg", "exp_avg_sq"):
        moments, wanted = getattr(found, name), getattr(expected, name)
        assert moments.keys() == wanted.keys()
        for path, array in moments.items():
            np.testing.assert_array_equal(array, wanted[path])


def test_names_are_written_in_the_order_of_the_moments(tmp_path):
    torch.save(named(lambda numbers: list(reversed(numbers))), tmp_path / "named.pt")
    loaded = load_torch(tmp_path / "named.pt")
    save_torch(tmp_path / "again.pt", loaded.model, **loaded.training_state())
    written = torch.load(tmp_path / "again.pt", weights_only=True)["optimizer_state_dict"]
    names = written["param_groups"][0]["param_names"]
    tensors = content()["model_state_dict"]
    assert names == [name for name in tensors if name != "lm_head.weight"]
    original = content()["optimizer_state_dict"]["state"]
    for index in original:
        for key, values in original[index].items():
            assert torch.equal(written["state"][index][key], values)


def test_parameters_that_the_optimizer_is_not_over_have_no_moments(tmp_path):
    state = load(named(lambda numbers: list(numbers)[1:]), tmp_path)
    assert ("embedding", "embedding") not in state.exp_avg
    assert len(state.exp_avg) == 61


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda names: names.__setitem__(3, "wte.weight"), MismatchError, "1 unknown: wte.weight"),
        (
            lambda names: names.__setitem__(3, names[4]),
            MismatchError,
            "1 duplicate: blocks.0.W_k.bias",
        ),
        (lambda names: names.pop(), FormatError, "61 param_names for 62 parameters"),
        (
            lambda names: names.__setitem__(slice(0, 2), names[1::-1]),
            MismatchError,
            "exp_avg of 0 (blocks.0.W_q.weight) is [160, 32], not [32, 32]",
        ),
        (lambda names: names.__setitem__(3, 5), FormatError, "param_names"),
    ],
)
def test_names_that_do_not_fit_are_refused(change, kind, message, tmp_path):
    found = named(list)
    change(found["optimizer_state_dict"]["param_groups"][0]["param_names"])
    with pytest.raises(kind) as caught:
        load(found, tmp_path)
    assert message in str(caught.value)


def other(optimizer, **settings):
    """The state dict of another optimizer after one step over the golden's parameters."""
    parameters = [
        torch.nn.Parameter(tensor.clone())
        for name, tensor in content()["model_state_dict"].items()
        if name != "lm_head.weight"
    ]
    stepper = optimizer(parameters, **settings)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    stepper.step()
    return stepper.state_dict()


def foreign(remove=(), **settings):
    """An AdamW's state dict without some settings and with others."""
    found = content()["optimizer_state_dict"]
    (group,) = found["param_groups"]
    for key in remove:
        del group[key]
    group |= settings
    return found


SINCE_1_2 = ("maximize", "foreach", "capturable", "differentiable", "fused")
OTHERS = {
    "amsgrad": (lambda: other(torch.optim.AdamW, amsgrad=True), "amsgrad = True"),
    "transformers": (
        lambda: foreign([*SINCE_1_2, "amsgrad", "decoupled_weight_decay"], correct_bias=True),
        "the AdamW of transformers",
    ),
    "Yogi": (
        lambda: foreign([*SINCE_1_2, "amsgrad", "decoupled_weight_decay"]),
        "AdamW also has the settings amsgrad",
    ),
    "unknown": (
        lambda: foreign(warmth=3),
        "another optimizer, .* no setting warmth",
    ),
    "gaps": (lambda: foreign(["fused"]), "AdamW also has the settings fused"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_optimizers_are_refused_by_name(name, unread):
    make, message = OTHERS[name]
    table = entries("MMRecModel", load_torch(TRAINED).config)
    with pytest.raises(FormatError, match=message):
        optimizer_from_torch(unread(make()), table)


OF_TORCH = [
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if name not in ("Optimizer", "AdamW")
]


@pytest.mark.parametrize("name", OF_TORCH)
@pytest.mark.parametrize("stepped", [False, True])
def test_the_optimizers_of_torch_are_told_by_name(name, stepped, unread):
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    gradient = torch.ones(2, 2)
    parameter.grad = gradient.to_sparse() if name == "SparseAdam" else gradient
    settings = {"weight_decay": 0.1} if name == "Adam" else {}
    optimizer = getattr(torch.optim, name)([parameter], lr=0.1, **settings)
    if stepped:
        optimizer.step(*([lambda: torch.zeros(())] if name == "LBFGS" else []))
    # Before its first step Adamax may be an old RAdam.
    told = "another optimizer" if name == "Adamax" and not stepped else name
    table = entries("MMRecModel", load_torch(TRAINED).config)
    with pytest.raises(FormatError) as caught:
        optimizer_from_torch(unread(optimizer.state_dict()), table)
    assert re.search(
        rf"is of {told}\b.*; import the weights alone with --model-only$", str(caught.value)
    )


def test_a_setting_that_two_optimizers_have_names_neither(unread):
    table = entries("MMRecModel", load_torch(TRAINED).config)
    with pytest.raises(FormatError, match=r"is of another optimizer, .* no setting rho"):
        optimizer_from_torch(unread(foreign(rho=0.04)), table)  # Sophia's; Adadelta has it too


ADAM = ("amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused")
ADAMW = ("amsgrad", "foreach", "maximize", "capturable", "differentiable", "fused")


def before_2_6(order, weight_decay=0.1):
    """A state dict with the settings in the order in which a version of torch wrote them."""
    found = content()["optimizer_state_dict"]
    (group,) = found["param_groups"]
    keys = ["lr", "betas", "eps", "weight_decay", *order]
    if "initial_lr" not in order:
        keys.append("initial_lr")
    group["weight_decay"] = weight_decay
    found["param_groups"] = [{key: group[key] for key in (*keys, "params")}]
    return found


@pytest.mark.parametrize("kept", [4, 5, 6])  # of 1.12, 1.13 and 2.0 to 2.5
def test_the_order_of_the_settings_tells_adam(kept, unread):
    table = entries("MMRecModel", load_torch(TRAINED).config)
    for taken in (before_2_6(ADAMW[:kept]), before_2_6(ADAM[:kept], weight_decay=0)):
        assert len(optimizer_from_torch(unread(taken), table).exp_avg) == 62
    with pytest.raises(FormatError, match="is of Adam with a weight decay of"):
        optimizer_from_torch(unread(before_2_6(ADAM[:kept])), table)


@pytest.mark.parametrize(
    "settings",
    [ADAM[:1], ADAM[:2], ("amsgrad", "initial_lr", *ADAM[1:])],
    ids=["1.9", "1.11", "1.11, then 2.5"],
)
def test_where_nothing_tells_adam_there_is_a_warning(settings, unread):
    table = entries("MMRecModel", load_torch(TRAINED).config)
    with pytest.warns(FileWarning, match="taken for AdamW, with a weight decay of 0.1"):
        state = optimizer_from_torch(unread(before_2_6(settings)), table)
    assert len(state.exp_avg) == 62
    optimizer_from_torch(unread(before_2_6(settings, weight_decay=0)), table)


@pytest.mark.parametrize(
    "make",
    [
        lambda: foreign(name="all"),
        lambda: other(torch.optim.Adam),  # its weight decay is 0
        lambda: foreign(max_lr=1.0, min_lr=0.1),
        lambda: other(torch.optim.AdamW, capturable=False, foreach=True),
    ],
)
def test_the_adamw_of_any_version_is_taken(make, unread):
    table = entries("MMRecModel", load_torch(TRAINED).config)
    assert len(optimizer_from_torch(unread(make()), table).exp_avg) == 62


def test_groups_of_the_same_settings_are_one(unread):
    table = entries("MMRecModel", load_torch(TRAINED).config)
    state = foreign()
    (group,) = state["param_groups"]
    state["param_groups"] = [group | {"params": group["params"][:20], "name": "first"}]
    state["param_groups"].append(group | {"params": group["params"][20:], "name": "second"})
    with pytest.warns(FileWarning, match=r"2 parameter groups and no param_names: .* order"):
        assert len(optimizer_from_torch(unread(state), table).exp_avg) == 62
    state["param_groups"][1]["weight_decay"] = 0.0
    with pytest.raises(FormatError, match="2 parameter groups with different weight_decay, "):
        optimizer_from_torch(unread(state), table)
    state["param_groups"][0]["lr"] = float("nan")
    with pytest.raises(FormatError, match="no usable lr"):
        optimizer_from_torch(unread(state), table)
