"""AdamW's and the schedule's state, both ways, against torch itself."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN
from helpers.small_models import SMALL
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from bridge import (
    BridgeError,
    FileWarning,
    FormatError,
    MismatchError,
    OptimizerState,
    SchedulerState,
    adamw_hyperparameters,
    inspect,
    load_partial,
    load_torch,
    save_torch,
)
from bridge.keys import entries, named_parameters
from bridge.optimizer import optimizer_from_torch, optimizer_to_torch
from bridge.schedule import scheduler_from_torch, scheduler_to_torch
from bridge.weights import model_from_tensors

TRAJECTORY = GOLDEN / "trajectory"
REMEDY = "; import the weights alone with --model-only"
CONFIG = dataclasses.replace(SMALL, use_dpg=True, dpg_rank=5)


def golden(step):
    return torch.load(TRAJECTORY / f"checkpoint_step_{step}.pt", weights_only=True)


def adamw(parameters, base_lr=3e-3, warmup=6, total=24, min_lr=0.0, start_factor=0.1, bare=False):
    optimizer = torch.optim.AdamW(parameters, lr=base_lr, weight_decay=0.1)
    if bare:
        return optimizer, CosineAnnealingLR(optimizer, T_max=total, eta_min=min_lr)
    first = LinearLR(optimizer, start_factor=start_factor, total_iters=warmup)
    second = CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=min_lr)
    return optimizer, SequentialLR(optimizer, [first, second], milestones=[warmup])


def train(module, optimizer, schedule, steps, seed, unused=()):
    """Steps with random gradients; `unused` parameters get none."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if name in unused else noise
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("base_lr", [3e-3, 3e-4])
@pytest.mark.parametrize(
    ("share", "start_factor", "bare"),
    [(0.0, 0.1, False), (0.1, 0.1, False), (0.05, 0.01, False), (0.1, 0.1, True), (0, 0.1, True)],
)
@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [
        (6, 24, [0, 1, 3, 5, 6, 7, 12, 23, 24, 25, 40]),
        (0, 10, [0, 1, 9, 10, 11]),
        (1, 9, [0, 1, 2, 8]),
        (37, 1000, [36, 37, 38, 999, 1000]),
        (9, 4, [3, 8, 9, 10]),
    ],
)
def test_the_schedules_state_is_torchs_after_as_many_steps(
    base_lr, share, start_factor, bare, warmup, total, steps
):
    parameter = torch.nn.Parameter(torch.zeros(2))
    min_lr = share * base_lr
    optimizer, schedule = adamw([parameter], base_lr, warmup, total, min_lr, start_factor, bare)
    for step in range(max(steps) + 1):
        if step in steps:
            state = SchedulerState(
                base_lr=base_lr,
                warmup_steps=0 if bare else warmup,
                total_steps=total,
                step=step,
                min_lr=min_lr,
                start_factor=start_factor,
                form="CosineAnnealingLR" if bare else "SequentialLR",
            )
            assert scheduler_to_torch(state) == schedule.state_dict()
            assert scheduler_from_torch(schedule.state_dict()) == state
            assert state.learning_rate() == optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def test_the_golden_schedules_are_read():
    for step in (0, 12, 24):
        loaded = load_torch(TRAJECTORY / f"checkpoint_step_{step}.pt")
        assert loaded.scheduler_state == SchedulerState(
            base_lr=3e-3, warmup_steps=6, total_steps=24, step=step
        )
        assert (loaded.step, loaded.optimizer_state.step) == (step, step)


@pytest.mark.parametrize("step", [4_999, 50_000, 99_999])
def test_a_long_schedule_is_within_tolerance_of_its_counters(step):
    """torch accumulates rounding errors; reading must not take them for contradictions."""
    state = SchedulerState(base_lr=3e-4, warmup_steps=5000, total_steps=100_000, step=step)
    assert scheduler_from_torch(scheduler_to_torch(state)) == state


def wrong_schedule(**changes):
    state = golden(12)["scheduler_state_dict"]
    for key, value in changes.items():
        where, _, name = key.partition("__")
        part = {"all": state, "first": state["_schedulers"][0], "second": state["_schedulers"][1]}
        part[where][name] = value
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "not of a SequentialLR"),
        (3, "not of a SequentialLR"),
        ({"last_epoch": 3, "_step_count": 4}, "not of a SequentialLR"),
        (wrong_schedule(first__start_factor=1.5), "starts from 1.5 times its rate"),
        (wrong_schedule(first__end_factor=0.9), "end_factor 0.9, not 1.0"),
        (wrong_schedule(first__start_factor="a"), "rates that are not numbers"),
        (wrong_schedule(second__eta_min=1e-3), "has the rate 0.00225 after 12 steps"),
        (wrong_schedule(second__eta_min=1e-2), "lowest rate is 0.01: it must lie between 0 and"),
        (wrong_schedule(second__eta_min=None), "rates that are not numbers"),
        (wrong_schedule(second__eta_min=float("nan")), "has the rate nan"),
        (wrong_schedule(first__total_iters=7), "total_iters 7, not 6"),
        (wrong_schedule(second__base_lrs=[3e-3, 4e-3]), "not of a SequentialLR"),
        (wrong_schedule(first__base_lrs=[4e-3]), "base_lrs"),
        (wrong_schedule(all__last_epoch=13), "has the rate 0.00225 after 13 steps"),
        (wrong_schedule(all___last_lr=[float("nan")]), "has the rate nan"),
        (wrong_schedule(second__last_epoch=7), "7 instead of 6"),
        (wrong_schedule(second__T_max=0), "all are warm-up"),
        (wrong_schedule(all__last_epoch=-1), "step is -1"),
        (wrong_schedule(all__last_epoch=12.0), "last_epoch 12.0, not a whole number"),
    ],
)
def test_other_schedules_are_refused(state, message):
    with pytest.raises(FormatError, match=f"{message}.*{REMEDY}"):
        scheduler_from_torch(state)


def test_a_schedule_over_groups_of_one_rate_is_as_over_one():
    expected = scheduler_from_torch(golden(12)["scheduler_state_dict"])
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(2))]} for _ in range(2)]
    optimizer, schedule = adamw(parameters)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    assert len(schedule.state_dict()["_last_lr"]) == 2
    assert scheduler_from_torch(schedule.state_dict()) == expected


def test_the_moments_lie_under_their_parameters_in_the_jax_layout():
    loaded = load_torch(TRAJECTORY / "checkpoint_step_12.pt")
    names = list(golden(12)["model_state_dict"])
    state = golden(12)["optimizer_state_dict"]["state"]
    for name, path, transpose in [
        ("embedding.weight", ("embedding", "embedding"), False),
        ("blocks.1.mdi.W_g.weight", ("blocks", 1, "mdi", "W_g", "kernel"), True),
        ("blocks.0.ffn.3.weight", ("blocks", 0, "ffn", "linear_out", "kernel"), True),
        ("norm.weight", ("norm", "scale"), False),
    ]:
        for moment in ("exp_avg", "exp_avg_sq"):
            tensor = state[names.index(name)][moment].numpy()
            array = getattr(loaded.optimizer_state, moment)[path]
            assert np.array_equal(np.asarray(array), tensor.T if transpose else tensor)
    assert len(loaded.optimizer_state.exp_avg) == 62


def test_an_export_resumes_in_torch_as_if_never_interrupted(skeleton, unread, tmp_path):
    table = entries("MMRecModel", CONFIG)
    untrained = set(CONFIG.untrained_modules)
    unused = {entry.key for entry in named_parameters(table) if untrained & set(entry.path)}
    assert len(unused) == 2 * (2 + 8)
    module = skeleton("MMRecModel", CONFIG)
    optimizer, schedule = adamw(module.parameters())
    train(module, optimizer, schedule, 5, seed=1, unused=unused)
    state = optimizer_from_torch(unread(optimizer.state_dict()), table)
    assert len(state.exp_avg) == len(list(module.parameters())) - len(unused)
    save_torch(
        tmp_path / "export.pt",
        model_from_tensors("MMRecModel", CONFIG, unread(module.state_dict())),
        optimizer_state=state,
        scheduler_state=scheduler_from_torch(schedule.state_dict()),
    )

    content = torch.load(tmp_path / "export.pt", weights_only=True)
    resumed = skeleton("MMRecModel", CONFIG, seed=9)
    resumed_optimizer, resumed_schedule = adamw(resumed.parameters(), base_lr=1.0)
    resumed.load_state_dict(content["model_state_dict"], strict=True)
    resumed_optimizer.load_state_dict(content["optimizer_state_dict"])
    resumed_schedule.load_state_dict(content["scheduler_state_dict"])

    train(module, optimizer, schedule, 7, seed=2, unused=unused)
    train(resumed, resumed_optimizer, resumed_schedule, 7, seed=2, unused=unused)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert resumed_schedule.state_dict() == schedule.state_dict()
    groups = [each.state_dict()["param_groups"] for each in (optimizer, resumed_optimizer)]
    assert groups[0] == groups[1]


def test_before_the_first_step_torch_has_no_state():
    table = entries("MMRecModel", CONFIG)
    zeros = {
        entry.path: np.zeros(entry.shape[::-1] if entry.transpose else entry.shape, np.float32)
        for entry in named_parameters(table)
    }
    hyperparameters = adamw_hyperparameters(
        learning_rate=3e-4,
        initial_learning_rate=3e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.1,
    )
    state = OptimizerState(step=0, exp_avg=zeros, exp_avg_sq=zeros, hyperparameters=hyperparameters)
    written = optimizer_to_torch(state, table)
    assert written["state"] == {}
    assert len(written["param_groups"][0]["params"]) == len(zeros)


def test_our_hyperparameters_are_the_goldens():
    (group,) = golden(0)["optimizer_state_dict"]["param_groups"]
    del group["params"]
    schedule = SchedulerState(base_lr=3e-3, warmup_steps=6, total_steps=24, step=0)
    ours = adamw_hyperparameters(
        learning_rate=schedule.learning_rate(),
        initial_learning_rate=3e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.1,
    )
    assert list(ours.items()) == list(group.items())


def test_every_wrong_moment_is_listed(tmp_path):
    content = golden(12)
    state = content["optimizer_state_dict"]["state"]
    # Swapped, of one shape: nothing can tell. Of two shapes: torch itself would not.
    state[0], state[1] = state[1], state[0]
    del state[7]["exp_avg_sq"]
    state[62] = state[5]
    state[9]["exp_avg"] = state[9]["exp_avg"].double()
    state[11]["step"] = torch.tensor(1.5)
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(MismatchError, match=r"wrong\.pt: the optimizer state") as caught:
        load_torch(tmp_path / "wrong.pt")
    assert caught.value.problems == {
        "incomplete": ["7 (blocks.0.W_z.weight) lacks exp_avg_sq"],
        "unexpected": ["index 62"],
        "misshapen": [
            "exp_avg of 0 (embedding.weight) is [32, 32], not [160, 32]",
            "exp_avg_sq of 0 (embedding.weight) is [32, 32], not [160, 32]",
            "exp_avg of 1 (blocks.0.W_q.weight) is [160, 32], not [32, 32]",
            "exp_avg_sq of 1 (blocks.0.W_q.weight) is [160, 32], not [32, 32]",
        ],
        "of the wrong type": [
            "exp_avg of 9 (blocks.0.W_g.weight)",
            "step of 11 (blocks.0.norm1.weight)",
        ],
    }


def wrong_optimizer(change):
    content = golden(12)["optimizer_state_dict"]
    change(content["param_groups"][0], content)
    return content


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (3, "not what torch's optimizers write"),
        ({"state": {}, "param_groups": []}, "not what torch's optimizers write"),
        (wrong_optimizer(lambda g, c: c["param_groups"].append(g)), "numbers its parameters"),
        (wrong_optimizer(lambda g, c: g["params"].pop()), "over 61 parameters, where the model"),
        (wrong_optimizer(lambda g, c: g["params"].reverse()), "numbers its parameters"),
        (wrong_optimizer(lambda g, c: g.update(amsgrad=True)), "amsgrad = True"),
        (wrong_optimizer(lambda g, c: g.update(maximize=True)), "maximize = True"),
        (
            wrong_optimizer(lambda g, c: g.update(decoupled_weight_decay=False)),
            "of Adam with a weight decay of 0.1",
        ),
        (wrong_optimizer(lambda g, c: g.pop("betas")), "no usable betas"),
        (wrong_optimizer(lambda g, c: g.update(lr="fast")), "no usable lr"),
        (wrong_optimizer(lambda g, c: g.update(lr=float("nan"))), "no usable lr"),
        (
            wrong_optimizer(lambda g, c: c["state"][3].update(step=torch.tensor(11.0))),
            r"different steps: 12 at 0 \(embedding.weight\), 11 at 3 \(blocks.0.W_k.weight\)",
        ),
    ],
)
def test_other_optimizers_are_refused(state, message, unread):
    config = load_torch(TRAJECTORY / "checkpoint_step_0.pt").config
    with pytest.raises(FormatError, match=f"{message}.*{REMEDY}"):
        optimizer_from_torch(unread(state), entries("MMRecModel", config))


def test_moments_that_are_not_the_models_are_not_written(tmp_path):
    loaded = load_torch(TRAJECTORY / "checkpoint_step_12.pt")
    state = loaded.optimizer_state
    state.exp_avg["norm", "bias"] = np.zeros(32, np.float32)
    state.exp_avg_sq["norm", "bias"] = np.zeros(32, np.float32)
    state.exp_avg["blocks", 0, "ffn", "linear_in", "kernel"] = np.zeros((80, 32), np.float32)
    del state.exp_avg_sq["norm", "scale"]
    with pytest.raises(MismatchError) as caught:
        save_torch(tmp_path / "a.pt", loaded.model, optimizer_state=state)
    assert caught.value.problems == {
        "without a pair": ["('norm', 'scale')"],
        "unexpected": ["('norm', 'bias')", "('norm', 'bias')"],
        "misshapen": ["('blocks', 0, 'ffn', 'linear_in', 'kernel') is (80, 32), not (32, 80)"],
    }
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_is_not_the_schedules_is_not_written(tmp_path):
    loaded = load_torch(TRAJECTORY / "checkpoint_step_12.pt")
    schedule = SchedulerState(base_lr=3e-3, warmup_steps=6, total_steps=24, step=13)
    with pytest.raises(BridgeError, match=r"the optimizer's lr is 0\.00225"):
        save_torch(
            tmp_path / "a.pt",
            loaded.model,
            optimizer_state=loaded.optimizer_state,
            scheduler_state=schedule,
        )


@pytest.mark.parametrize("load", [load_torch, lambda path: load_partial(path)[0]])
def test_a_rate_that_is_not_the_schedules_is_replaced_by_it(load, tmp_path):
    content = golden(12)
    content["optimizer_state_dict"]["param_groups"][0]["lr"] = 0.5
    torch.save(content, tmp_path / "a.pt")
    message = r"lr is 0\.5, but .* 12 steps is 0\.00225.*: training continues with the schedule's"
    with pytest.warns(FileWarning, match=message):
        loaded = load(tmp_path / "a.pt")
    assert loaded.optimizer_state.hyperparameters["lr"] == loaded.scheduler_state.learning_rate()
    assert len(loaded.optimizer_state.exp_avg) == 62
    found = inspect(tmp_path / "a.pt")
    assert not found.problems
    (warning,) = found.warnings
    assert "training continues with the schedule's" in warning


def test_an_impossible_schedule_is_refused():
    with pytest.raises(FormatError, match="all are warm-up"):
        SchedulerState(base_lr=1e-3, warmup_steps=9, total_steps=9, step=0)
    with pytest.raises(FormatError, match="step is -1"):
        SchedulerState(base_lr=1e-3, warmup_steps=1, total_steps=9, step=-1)
    with pytest.raises(FormatError, match="a cosine alone and has 1 steps of warm-up"):
        SchedulerState(
            base_lr=1e-3, warmup_steps=1, total_steps=9, step=2, form="CosineAnnealingLR"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SchedulerState(base_lr=1e-3, warmup_steps=3, total_steps=9, step=5).learning_rate()
