"""`python -m benchmarks.peers`: MM-Rec and its peers on two corpora, at two sizes.

Every result is a file in runs/peers/, so after an interruption the same command goes on. `--only`
names the jobs of one process, so that several can share the work. `--time` measures the CPU time of
a training step instead.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.peers import corpora, models
from benchmarks.peers.training import Plan, Run, parameter_count
from train.system.write import write_json

RESULTS = Path("runs/peers")
SIZE_OF_ABLATIONS = "0.5 M"
LONGER = 4
"""How many times as long as in training the sequences of the second test are."""


def jobs() -> dict[str, tuple[str, str, str]]:
    """Corpus, size and model of every job, by the name of its result."""
    return {
        f"{corpus}-{size}-{name}".replace(" ", "_"): (corpus, size, name)
        for corpus in corpora.CORPORA
        for size, of_size in models.SIZES.items()
        for name in (*of_size, *(models.ABLATIONS if size == SIZE_OF_ABLATIONS else ()))
    }


def run(corpus_name: str, size: str, name: str, plan: Plan) -> dict[str, Any]:
    """Trains a model with all rates and seeds, and scores the best rate's on the test split."""
    corpus = corpora.load(corpus_name)
    build = models.build(name, size, corpora.VOCAB_SIZE)
    begun = time.monotonic()
    run = Run(build, corpus, plan)
    losses = run.train()
    seconds = time.monotonic() - begun
    every = list(range(len(plan.runs)))
    validation = run.token_losses(corpus.tokens["validation"], plan.length, every).mean((1, 2))
    by_rate = validation.reshape(len(plan.learning_rates), len(plan.seeds)).mean(1)
    best = int(np.argmin(by_rate))
    chosen = [best * len(plan.seeds) + number for number in range(len(plan.seeds))]
    test = corpus.tokens["test"]
    tests = {
        str(length): run.token_losses(test, length, chosen)
        for length in (plan.length, LONGER * plan.length)
    }
    return {
        "parameters": parameter_count(build),
        "seconds": seconds,
        "device": jax.devices()[0].device_kind,
        "training_loss": [float(loss) for loss in losses[-50:].mean(0)],
        "validation_by_rate": {
            str(rate): float(loss) for rate, loss in zip(plan.learning_rates, by_rate, strict=True)
        },
        "learning_rate": plan.learning_rates[best],
        "test": {
            length: {
                "bits_per_byte": [
                    bits_per_byte(of_seed, test, corpus.token_bytes) for of_seed in found
                ],
                "nats_by_position": found.mean((0, 1)).tolist(),
            }
            for length, found in tests.items()
        },
    }


def bits_per_byte(losses: Any, tokens: Any, token_bytes: Any) -> float:
    """Of the losses [windows, length] of a split's first tokens, which were predicted in order."""
    size = token_bytes[tokens[1 : 1 + losses.size]].sum()
    return float(losses.sum() / math.log(2) / size)


def step_seconds(size: str, name: str, corpus_name: str) -> float:
    """The time of a training step of one run, the least of a few."""
    plan = Plan(learning_rates=(1e-3,), seeds=(0,), steps=8)
    run = Run(models.build(name, size, corpora.VOCAB_SIZE), corpora.load(corpus_name), plan)
    times = []
    for _ in range(3):
        begun = time.monotonic()
        run.train()
        times.append((time.monotonic() - begun) / plan.steps)
    return min(times)


def main() -> None:
    """Runs what is not done yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--only", nargs="+", choices=jobs(), default=list(jobs()), metavar="JOB")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for job in arguments.only:
        path = arguments.results / f"{job}.json"
        if path.exists():
            continue
        with models.changed(jobs()[job][2]):
            found = run(*jobs()[job], Plan(steps=arguments.steps))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        print(job, json.dumps(found["validation_by_rate"]), found["test"]["256"]["bits_per_byte"])


if __name__ == "__main__":
    main()
