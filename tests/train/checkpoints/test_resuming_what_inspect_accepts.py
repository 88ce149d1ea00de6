"""What `inspect` has nothing against can be imported, and training resumes from it."""

import copy
import math
import warnings

import pytest
import torch
from helpers.paths import GOLDEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bridge
from bridge.commands.next_steps import training_settings
from train.checkpoints.fit import check_model, check_training
from train.checkpoints.state import state_of
from train.settings.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from train.step.schedule import origin_of
from train.step.trainer import Trainer

TRAINED = torch.load(GOLDEN / "trajectory" / "checkpoint_step_12.pt", weights_only=True)

VALUES = [
    None, True, 0, 1, -1, 6, 7, 11, 13, 24, 25, 10**9, 2**70, 0.0, 0.1, 0.5, 1.0, 1.5, -0.1, 3e-3,
    12.0, 1e-8, 1e31, math.nan, math.inf, "", "adamw", [], [0.1], (), (0.9, 0.999), (0.9, 1.0), {},
    {"a": 1}, torch.tensor(12.0), torch.tensor(11.0), torch.tensor(math.nan), torch.ones(3),
    torch.ones(32, 32), torch.ones(32, 32).double(), torch.tensor(3),
]  # fmt: skip


def places(value, path=()):
    """The paths to everything in a training state."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        yield from places(item, (*path, key))


PLACES = [
    path
    for path in places({key: TRAINED[key] for key in TRAINED if key != "model_state_dict"})
    # Of 62 parameters' moments, those of three.
    if path[:2] != ("optimizer_state_dict", "state") or len(path) < 3 or path[2] in (0, 1, 61)
]


DELETED = "deleted"

SECTIONS = [("optimizer_state_dict", "param_groups"), ("optimizer_state_dict", "state")] + [
    (key,) for key in TRAINED if key not in ("model_state_dict", "optimizer_state_dict")
]


def nearby(value):
    """Values of the same type, which are more often accepted."""
    if isinstance(value, torch.Tensor):
        return [value.clone(), value.to(torch.bfloat16), value.half(), -value, value * 0]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return [value, not value, None]
    if isinstance(value, int | float):
        return [value, value + 1, value - 1, float(value), value * 2, value / 2]
    if isinstance(value, dict):
        return [dict(reversed(value.items())), dict(list(value.items())[:-1]), {**value, "new": 1}]
    return [type(value)(reversed(value)), value[:-1], list(value), tuple(value)]


def at(content, path):
    """What lies at a path; DELETED where nothing does any more."""
    for key in path:
        try:
            content = content[key] if isinstance(content, dict | list | tuple) else DELETED
        except (KeyError, IndexError, TypeError):
            return DELETED
    return content


@st.composite
def changes(draw):
    """What to change: paths, and the values to put there."""
    found = []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        section = draw(st.sampled_from(SECTIONS))
        path = draw(st.sampled_from([p for p in PLACES if p[: len(section)] == section]))
        pool = draw(st.sampled_from([[DELETED], *[VALUES, nearby(at(TRAINED, path))] * 3]))
        found.append((path, draw(st.sampled_from(pool))))
    return found


def changed(found):
    content = copy.deepcopy(TRAINED)
    for path, value in found:
        target = at(content, path[:-1])
        if not isinstance(target, dict | list) or at(content, path) is DELETED:
            continue  # another change took it away
        if value is DELETED:
            del target[path[-1]]
        else:
            target[path[-1]] = copy.deepcopy(value)
    return content


def resume(path):
    """What `from-torch` and then `--resume`, with the settings that it prints, do with a file."""
    loaded = bridge.load(path)
    stated = training_settings(loaded)
    sections = {"optimizer": OptimizerConfig, "training": TrainingConfig, "model": ModelConfig}
    made = {
        name: section(**{k: v for k, v in stated.get(name, {}).items() if k != "mem_dim"})
        for name, section in sections.items()
    }
    if "training" not in stated:
        made["optimizer"] = OptimizerConfig(**stated.get("optimizer", {}), warmup_steps=1)
    config = Config(data_dir="d", run_dir="r", **made)
    check_training(config, loaded)
    check_model(config.model, loaded.model, "")
    return state_of(Trainer(config, loaded.model, None, origin_of(loaded)), loaded)


def check(found, tmp_path):
    torch.save(changed(found), tmp_path / "x.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bridge.FileWarning)
        try:
            problems = bridge.inspect(tmp_path / "x.pt").problems
        except bridge.BridgeError:
            return
        if not problems:
            resume(tmp_path / "x.pt")


UNHURRIED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


def test_the_golden_training_state_is_resumed(tmp_path):
    torch.save(TRAINED, tmp_path / "x.pt")
    assert not bridge.inspect(tmp_path / "x.pt").problems
    assert int(resume(tmp_path / "x.pt").step) == 12


@settings(UNHURRIED, max_examples=40)
@given(found=changes())
def test_a_mutated_training_state(found, tmp_path):
    check(found, tmp_path)


@pytest.mark.slow
@settings(UNHURRIED, max_examples=500)
@given(found=changes())
def test_many_mutated_training_states(found, tmp_path):
    check(found, tmp_path)
