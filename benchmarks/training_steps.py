"""`python -m benchmarks.training_steps`: trains a model for some steps, and prints time and memory.

It is a separate process because the peak memory of a process never falls. The options are those of
the config. It prints one line of JSON.
"""

import json
import sys
import time

import jax
import numpy as np

from train.data.batches import batch_of
from train.run.memory import peak_bytes
from train.settings.cli import parse_config
from train.stages.base import initial_model
from train.step.trainer import Trainer
from train.system.allocator import keep_freed_memory

REPEATS = 5


def main(argv: list[str]) -> None:
    """Makes a step of several micro-batches, and times each gradient and the update."""
    keep_freed_memory()
    config = parse_config(argv, "")
    batch, length = config.training.batch_size, config.training.sequence_length
    model = initial_model(config)
    trainer = Trainer(config, model)
    state = trainer.initial_state(model)
    shape = (batch, length + 1)
    rows = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, np.int32)
    tokens = batch_of(rows)
    start = time.perf_counter()
    gradient = trainer.gradient.lower(state, tokens, 0).compile()
    compiled = time.perf_counter() - start
    total, _ = gradient(state, tokens, 0)
    seconds = []
    for index in range(REPEATS):
        start = time.perf_counter()
        grads, _ = jax.block_until_ready(gradient(state, tokens, index))
        seconds.append(time.perf_counter() - start)
        total = trainer.add(total, grads)
    updates = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(trainer.update(state, total))
        updates.append(time.perf_counter() - start)
    result = {
        "gradient_seconds": min(seconds),
        "update_seconds": min(updates[1:]),
        "compile_seconds": compiled,
        "tokens": batch * length,
        "precision": trainer.precision,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
