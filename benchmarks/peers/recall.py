"""Text that asks for recall: windows whose second half repeats the first one, token by token.

A model that recalls what it has read `DISTANCE` tokens before knows every token of the second half.
"""

import functools
from typing import Any

import numpy as np

from benchmarks.peers import corpora, models, training
from benchmarks.peers.training import Plan, windows

DISTANCE = 512
WAYS: dict[str, dict[str, int]] = {
    "MM-Rec": {},
    "memory every 64": {"chunk_size": 64},
    "cut every 64": {"cut": 64},
}
"""How MM-Rec runs, as `models.MMRec` has it."""
MODELS = (*WAYS, "LSTM", "GPT")
SIZE = "0.5 M"
PLAN = Plan(learning_rates=(4e-3, 8e-3), batch=8, length=2 * DISTANCE)


def repeating(tokens: corpora.Tokens) -> corpora.Tokens:
    """Windows [count, 2 DISTANCE + 1], each of DISTANCE tokens that come again."""
    halves = windows(tokens, DISTANCE)[:, :-1]
    return np.concatenate([halves, halves, halves[:, :1]], axis=1)


def measure(name: str) -> dict[str, Any]:
    """Nats per token of the test split, of the first and the second half, with the best rate."""
    corpus = corpora.load("brown")
    build = _build(name)
    rows = {split: repeating(tokens) for split, tokens in corpus.tokens.items()}
    state, _ = training.train(*training.arguments(build, rows["train"], PLAN))
    losses = {
        split: training.token_losses(build, state, rows[split]) for split in ("validation", "test")
    }
    rate, chosen = PLAN.best(_again(losses["validation"]).mean((1, 2), dtype=np.float64))
    test = losses["test"][chosen]
    return {
        "learning_rate": rate,
        "first": test[..., : DISTANCE - 1].mean((1, 2), dtype=np.float64).tolist(),
        "again": _again(test).mean((1, 2), dtype=np.float64).tolist(),
    }


def _again(losses: Any) -> Any:
    """The losses of the tokens that the model has seen in the place before."""
    return losses[..., DISTANCE:]


def _build(name: str) -> models.Build:
    if name not in WAYS:
        return models.build(name, SIZE, corpora.VOCAB_SIZE)
    config = models.config_of(corpora.VOCAB_SIZE, *models.SIZES[SIZE]["MM-Rec"])
    return functools.partial(models.MMRec, config, **WAYS[name])


def result_name(name: str) -> str:
    """The name of a model's result."""
    return f"recall-{name}".replace(" ", "_")


MEASURES = {result_name(name): functools.partial(measure, name) for name in MODELS}
