"""Text that asks for recall: names that a model has seen 512 tokens before.

Windows of the Brown corpus, in which eight pairs of a sign and a name take the place of words. Each
pair stands in the first half of the window and once more in the second, `DISTANCE` tokens later.
There the sign says which name comes next, and nothing else does.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers import corpora, models, training
from benchmarks.peers.training import Plan, windows

LENGTH, DISTANCE = 1024, 512
PAIRS, NAMES = 8, 64
WAYS: dict[str, dict[str, int]] = {
    "MM-Rec": {},
    "memory every 64": {"chunk_size": 64},
    "cut every 64": {"cut": 64},
    "memory every 256": {"chunk_size": 256},
    "cut every 256": {"cut": 256},
}
"""How MM-Rec runs, as `models.MMRec` has it."""
MODELS = (*WAYS, "LSTM", "GPT")
SIZE = "0.5 M"
PLAN = Plan(learning_rates=(4e-3, 8e-3), batch=8, length=LENGTH)
COPIES = 8
"""How many windows with other names each window of the corpus becomes, in training."""


def with_names(
    rows: corpora.Tokens, vocab_size: int, seed: int
) -> tuple[corpora.Tokens, npt.NDArray[np.intp]]:
    """Windows [count, LENGTH + 1] with pairs, and where the second names are [count, PAIRS].

    Signs and names have ids of their own, after those of the corpus.
    """
    rng, rows = np.random.default_rng(seed), rows.copy()
    slots = np.arange(0, DISTANCE - 2, 2)
    first = np.stack([rng.choice(slots, PAIRS, replace=False) for _ in rows])
    signs = vocab_size + np.arange(PAIRS)
    names = vocab_size + PAIRS + rng.integers(NAMES, size=first.shape)
    for start in (first, first + DISTANCE):
        np.put_along_axis(rows, start, np.broadcast_to(signs, start.shape), axis=1)
        np.put_along_axis(rows, start + 1, names, axis=1)
    return rows, first + DISTANCE + 1


def measure(name: str) -> dict[str, Any]:
    """Nats per recalled name and per other token of the test split, with the best rate."""
    corpus = corpora.load("brown")
    vocab_size = len(corpus.token_bytes)
    build = _build(name, vocab_size + PAIRS + NAMES)
    rows = {
        split: with_names(windows(tokens, LENGTH).repeat(copies, axis=0), vocab_size, number)
        for number, (split, tokens, copies) in enumerate(
            (split, corpus.tokens[split], COPIES if split == "train" else 1)
            for split in corpora.SPLITS
        )
    }
    state, _ = training.train(*training.arguments(build, rows["train"][0], PLAN))
    scores = {split: _scores(build, state, *rows[split]) for split in ("validation", "test")}
    rate, chosen = PLAN.best(scores["validation"]["name"])
    return {
        "learning_rate": rate,
        **{what: losses[chosen].tolist() for what, losses in scores["test"].items()},
    }


def _build(name: str, vocab_size: int) -> models.Build:
    if name not in WAYS:
        return models.build(name, SIZE, vocab_size)
    config = models.config_of(vocab_size, *models.SIZES[SIZE]["MM-Rec"])
    return functools.partial(models.MMRec, config, **WAYS[name])


def _scores(
    build: models.Build, state: Any, rows: corpora.Tokens, places: npt.NDArray[np.intp]
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean losses of every run [runs], of the second names and of all other tokens."""
    losses = training.token_losses(build, state, rows)
    asked = np.zeros(losses.shape[1:], bool)
    np.put_along_axis(asked, places - 1, True, axis=1)
    return {
        "name": losses[:, asked].mean(1, dtype=np.float64),
        "other": losses[:, ~asked].mean(1, dtype=np.float64),
    }


def result_name(name: str) -> str:
    """The name of a model's result."""
    return f"recall-{name}".replace(" ", "_")


MEASURES = {result_name(name): functools.partial(measure, name) for name in MODELS}
