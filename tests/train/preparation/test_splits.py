"""Which split a group lies in (train/preparation/splits.py)."""

from collections import Counter
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from train.preparation.splits import choose_borders, count_group, kind_of, no_groups, shuffle_key
from train.system.errors import UserError


def divide(groups: dict[str, set[str]], *shares: float, seed: int = 0) -> dict[str, str]:
    """The split of each group; `groups` names the domains that it has."""
    histogram = no_groups()
    keys = {name: (kind_of(domains), shuffle_key(seed, name)) for name, domains in groups.items()}
    for kind, key in keys.values():
        count_group(histogram, kind, key)
    borders = choose_borders(histogram, *shares)
    return {name: borders.split(kind, key) for name, (kind, key) in keys.items()}


def grouped(text: set[int], code: set[int]) -> dict[str, set[str]]:
    return {
        str(group): {name for name, has in (("text", text), ("code", code)) if group in has}
        for group in text | code
    }


numbers = st.sets(st.integers(0, 9), min_size=1)


@example({1, 2, 3}, {4, 5, 6}, 0.999, 0.5, 0, Random(0))
@example({1, 2, 3}, {3, 4, 5}, 0.999, 0.999, 0, Random(0))
@example({1, 2, 3}, {2, 3, 4}, 0.001, 0.001, 0, Random(0))
@example({1, 2, 3}, {1, 2, 3}, 0.5, 0.999, 0, Random(0))
@given(
    numbers,
    numbers,
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.999),
    st.integers(-5, 5),
    st.randoms(),
)
def test_all_splits_have_both_domains(text, code, held_out, validation_share, seed, random):
    fractions = held_out * validation_share, held_out * (1 - validation_share)
    groups = grouped(text, code)
    if min(len(text), len(code)) < 3:
        with pytest.raises(UserError, match="at least 3 files"):
            divide(groups, *fractions, seed=seed)
        return
    splits = divide(groups, *fractions, seed=seed)
    assert len({(d, splits[name]) for name, domains in groups.items() for d in domains}) == 6
    shuffled = list(groups.items())
    random.shuffle(shuffled)
    assert divide(dict(shuffled), *fractions, seed=seed) == splits


def test_the_shares_are_exact_for_each_kind_and_follow_the_seed():
    groups = grouped(set(range(100)), set(range(50, 150)))
    splits = divide(groups, 0.2, 0.1)
    for kind in (range(50), range(50, 100), range(100, 150)):  # text, both, code
        counts = Counter(splits[str(group)] for group in kind)
        assert counts == {"train": 35, "validation": 10, "test": 5}
    assert divide(groups, 0.2, 0.1) == splits != divide(groups, 0.2, 0.1, seed=1)


def test_a_larger_test_split_takes_from_training_alone():
    groups = grouped(set(range(100)), set(range(50, 150)))
    small, large = (divide(groups, 0.2, share) for share in (0.1, 0.4))
    moved = {(small[group], large[group]) for group in small if small[group] != large[group]}
    assert moved == {("train", "test")}


def test_most_groups_stay_where_they_were_when_some_are_added():
    before = divide(grouped(set(range(1000)), set(range(1000))), 0.1, 0.1)
    after = divide(grouped(set(range(1100)), set(range(1100))), 0.1, 0.1)
    assert sum(before[name] != after[name] for name in before) < 50


def test_the_shares_of_many_groups_are_close():
    """So many that several share a range of hashes, which no border cuts."""
    groups = grouped(set(range(30_000)), set(range(3)))
    counts = Counter(divide(groups, 0.05, 0.15).values())
    assert abs(counts["validation"] - 1500) <= 3 and abs(counts["test"] - 4500) <= 3


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ({1, 2}, {1, 2, 3}, "text: .* files, found 2: add files to prepare.text or prepare.detect"),
        ({1, 2, 3}, {4}, "code: .* files, found 1: add files to prepare.code or prepare.detect"),
    ],
)
def test_too_few_files_are_named(text, code, message):
    with pytest.raises(UserError, match=message):
        divide(grouped(text, code), 0.1, 0.1)
