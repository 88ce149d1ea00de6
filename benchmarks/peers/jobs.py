"""The jobs: which model on which corpus, how it trains, and what is measured of it."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from benchmarks.peers import corpora, models, recall, training
from benchmarks.peers.training import Plan, parameter_count, windows
from train.scoring.kneser_ney import KneserNey
from train.system.errors import UserError

CPU_TIMES = "cpu-times"
COUNTED = "counted"
NANOGPT = "nanogpt"
EQUAL_TIME = "equal time"
SIZE_OF_ABLATIONS = "0.5 M"
LEARNING_RATES = {"0.5 M": (2e-3, 4e-3, 8e-3, 1.6e-2), "3 M": (1e-3, 2e-3, 4e-3, 8e-3)}
LONGER = 4
"""How many times as long as in training the sequences of the second test are."""


class Job(NamedTuple):
    """One model on one corpus; `at` is "equal tokens" or EQUAL_TIME."""

    corpus: str
    size: str
    model: str
    at: str = "equal tokens"

    @property
    def name(self) -> str:
        """The name of its result."""
        return "-".join(self if self.at == EQUAL_TIME else self[:3]).replace(" ", "_")


def all_jobs() -> dict[str, Job]:
    """Every job by name, in an order in which each finds the results that it needs."""
    peers = [(size, model) for size, of_size in models.SIZES.items() for model in of_size]
    ablations = [(SIZE_OF_ABLATIONS, name) for name in models.ABLATIONS]
    jobs = [Job(corpus, *each) for each in (*peers, *ablations) for corpus in corpora.CORPORA]
    jobs += [
        Job(corpus, *each, EQUAL_TIME)
        for each in peers
        for corpus in corpora.CORPORA
        if each[1] != "MM-Rec"
    ]
    return {job.name: job for job in jobs}


def plan_of(job: Job, results: Path) -> Plan:
    """How a job trains: with equal CPU time, as many steps as fit in that of MM-Rec's."""
    plan = Plan(learning_rates=LEARNING_RATES[job.size])
    if job.at != EQUAL_TIME:
        return plan
    seconds = read(results, CPU_TIMES)[job.size]
    rate = read(results, job._replace(at="").name)["learning_rate"]
    steps = round(plan.steps * seconds["MM-Rec"] / seconds[job.model])
    return dataclasses.replace(plan, learning_rates=(rate,), steps=steps)


def run(job: Job, plan: Plan) -> dict[str, Any]:
    """Trains a model with all rates and seeds, and scores the best rate's on the test split."""
    corpus = corpora.load(job.corpus)
    build = models.build(job.model, job.size, corpora.VOCAB_SIZE)
    begun = time.monotonic()
    rows = windows(corpus.tokens["train"], plan.length)
    state, losses = training.train(*training.arguments(build, rows, plan))
    seconds = time.monotonic() - begun
    held_out = windows(corpus.tokens["validation"], plan.length)
    validation = training.token_losses(build, state, held_out).mean((1, 2))
    by_rate = plan.by_rate(validation)
    rate, chosen = plan.best(validation)
    state = jax.tree.map(lambda leaf: leaf[chosen], state)
    test = corpus.tokens["test"]
    return {
        "parameters": parameter_count(build),
        "steps": plan.steps,
        "seconds": seconds,
        "device": jax.devices()[0].device_kind,
        "training_loss": losses[-50:].mean(0).tolist(),
        "validation_loss": dict(zip(map(str, plan.learning_rates), by_rate.tolist(), strict=True)),
        "learning_rate": rate,
        "test": {
            str(length): _scores(build, state, test, corpus.token_bytes, length)
            for length in (plan.length, LONGER * plan.length)
        },
    }


def _scores(
    build: models.Build,
    state: Any,
    tokens: corpora.Tokens,
    token_bytes: npt.NDArray[np.int32],
    length: int,
) -> dict[str, Any]:
    losses = training.token_losses(build, state, windows(tokens, length))
    predicted = tokens[1 : 1 + losses[0].size]
    bits = losses.sum((1, 2), dtype=np.float64) / math.log(2)
    return {
        "bits_per_byte": (bits / token_bytes[predicted].sum()).tolist(),
        "nats_by_position": _by_position(losses.mean((0, 1))),
    }


def _by_position(losses: npt.NDArray[np.float32]) -> dict[str, float]:
    """The mean of losses [T] from each power of two to the next, by the first place."""
    starts = [0, *(2**power for power in range(len(losses).bit_length() - 1))]
    bounds = zip(starts, [*starts[1:], len(losses)], strict=True)
    return {str(start): float(losses[start:end].mean()) for start, end in bounds}


def counted_scores() -> dict[str, dict[str, Any]]:
    """Bits a byte by corpus of what is only counted: a 5-gram, with its seconds, and xz."""
    found = {}
    for name in corpora.CORPORA:
        corpus = corpora.load(name)
        begun = time.monotonic()
        model = KneserNey(corpus.tokens["train"], len(corpus.token_bytes), 5)
        seconds = time.monotonic() - begun
        test = corpus.tokens["test"]
        rows = windows(test, Plan.length)
        bits = model.losses(rows[:, :-1], rows[:, 1:]).sum() / math.log(2)
        size = corpus.token_bytes[test[1 : 1 + rows[:, 1:].size]].sum()
        found[name] = {
            "5-gram": bits / size,
            "5-gram seconds": seconds,
            "xz": corpora.xz_bits_per_byte(name),
        }
    return found


def cpu_seconds() -> dict[str, dict[str, float]]:
    """Seconds of a training step of one run by size and model, the least of a few, on the CPU."""
    corpus = corpora.load(next(iter(corpora.CORPORA)))
    plan = Plan(learning_rates=(1e-3,), seeds=(0,), steps=4)
    rows = windows(corpus.tokens["train"], plan.length)
    found: dict[str, dict[str, float]] = {size: {} for size in models.SIZES}
    for size, model in [(size, model) for size, of in models.SIZES.items() for model in of]:
        with jax.default_device(jax.devices("cpu")[0]):
            build = models.build(model, size, corpora.VOCAB_SIZE)
            given, times = training.arguments(build, rows, plan), []
            for _ in range(4):  # the first compiles
                begun = time.monotonic()
                training.train(*given)
                times.append((time.monotonic() - begun) / plan.steps)
        found[size][model] = min(times)
    return found


def nanogpt_loss() -> dict[str, float]:
    """The validation loss of nanoGPT's setting for a CPU, in nats a character.

    Its README reports 1.88 on tiny Shakespeare, another excerpt of as many characters. So the loop
    and the GPT here learn as well as those that others trust.
    """
    corpus = corpora.characters(1_115_394)
    build = functools.partial(
        models.Peer, models.Attention, len(corpus.token_bytes), 128, 4, 344, dropout=0.0
    )
    plan = Plan(learning_rates=(1e-3,), seeds=(0,), steps=2000, batch=12, length=64)
    rows = windows(corpus.tokens["train"], plan.length)
    state, _ = training.train(*training.arguments(build, rows, plan))
    losses = training.token_losses(build, state, windows(corpus.tokens["validation"], plan.length))
    return {"parameters": parameter_count(build), "nats a character": float(losses.mean())}


def read(results: Path, name: str) -> Any:
    """A result of a name.

    Raises:
        UserError: it is not there.
    """
    path = results / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path} is missing: run what makes it first") from None


MEASURES: dict[str, Callable[[], Any]] = {
    COUNTED: counted_scores,
    CPU_TIMES: cpu_seconds,
    NANOGPT: nanogpt_loss,
    **recall.MEASURES,
}
"""What is measured once, beside the jobs, by the name of its result."""
