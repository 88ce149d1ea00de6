"""Early warnings, and that a sound run has none."""

import random

import pytest

from train.run.watch import Watch


def values(step, loss=None, largest=1.5, decay=0.25):
    noise = random.Random(step).gauss(0, 0.1)
    return {"loss": 3 + noise if loss is None else loss, "max_state": largest, "mean_decay": decay}


def looked_at(steps, **of_step):
    """The warnings of a run, by step; `of_step` has other values of some steps."""
    watch = Watch([])
    found = {}
    for step in range(1, steps + 1):
        changed = {name: each[step] for name, each in of_step.items() if step in each}
        found[step] = watch.look(step, values(step, **changed))
    return {step: warnings for step, warnings in found.items() if warnings}


def test_a_sound_run_has_none():
    falling = {step: 8 / step**0.3 for step in range(1, 401)}
    assert looked_at(400, loss=falling, largest={step: 1 + step / 100 for step in range(401)}) == {}


@pytest.mark.parametrize(
    ("name", "of_step", "expected", "said"),
    [
        ("loss", {60: 4.0, 61: 5.0}, [60], "the loss is 4.0000, and 2.9"),
        ("loss", {5: 40.0}, [], ""),  # nothing to compare with
        ("largest", {s: 1.5 * 1.2 ** (s - 30) for s in range(30, 60)}, [43, 56], "largest |h| is"),
        ("decay", {40: 0.995, 41: 0.999, 60: 0.995}, [40, 60], "the mean decay is 0.9950"),
    ],
)
def test_what_is_warned_of_and_how_often(name, of_step, expected, said):
    found = looked_at(80, **{name: of_step})
    assert list(found) == expected
    for step, (warning,) in found.items():
        assert warning.startswith(f"warning: step {step}: ")
    assert said in str(found.values())


def test_a_run_that_goes_on_is_compared_with_its_beginning():
    records = [{"step": step, **values(step)} for step in range(1, 30)]
    watch = Watch([*records, {"step": 30, "loss/text": 3.0}, {"step": 30, "max_state": 1.0}])
    assert len(watch.look(31, values(31, largest=16.0))) == 1
