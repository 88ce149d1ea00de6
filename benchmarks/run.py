"""`python -m benchmarks.run`: compile time and training speed of the 22.4 M model, as ratios.

Prints a table and writes build/benchmarks.json. Everything is measured in this one run, on random
tokens, so that only the ratios carry from machine to machine.
"""

import dataclasses
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import rich.console
import rich.table

from train.cli import parse_config
from train.config import Config
from train.run_folder import environment
from train.session import initial_model
from train.step import Trainer

BATCH, TOKENS, REPEATS = 8, 512, 5


def training(config: Config) -> dict[str, float]:
    """Compile time of one training step, and its speed."""
    model = initial_model(config)
    trainer = Trainer(config, model)
    state = trainer.initial_state(model)
    vocab_size = config.model.vocab_size
    tokens = np.random.default_rng(0).integers(0, vocab_size, (BATCH, TOKENS + 1), np.int32)
    start = time.perf_counter()
    trainer.gradient.lower(state, tokens, 0).compile()
    trainer.update.lower(state, state.params).compile()
    compiled = time.perf_counter() - start

    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        grads, _ = trainer.gradient(state, tokens, 0)
        state, _ = jax.block_until_ready(trainer.update(state, grads))
        seconds.append(time.perf_counter() - start)
    return {
        "compile_seconds": compiled,
        "step_seconds": statistics.median(seconds[1:]),
        "tokens_per_second": BATCH * TOKENS / statistics.median(seconds[1:]),
    }


def main() -> None:
    """Measures, prints and writes."""
    console = rich.console.Console()
    base = parse_config(["--config", "configs/base-22m.yaml"], "")
    results: dict[str, dict[str, float]] = {}
    for layers in (12, 24):
        console.print(
            f"{layers} layers: compiling and {REPEATS} steps of {BATCH} x {TOKENS} tokens"
        )
        model = dataclasses.replace(base.model, num_layers=layers)
        results[f"{layers} layers"] = training(dataclasses.replace(base, model=model))

    table = rich.table.Table("", "compile (s)", "step (s)", "tokens/s")
    for name, row in results.items():
        table.add_row(name, *(f"{row[key]:.2f}" for key in row))
    shallow, deep = results["12 layers"], results["24 layers"]
    ratios = {key: deep[key] / shallow[key] for key in deep}
    table.add_row("24 / 12", *(f"{ratio:.2f}" for ratio in ratios.values()))
    console.print(table)
    path = Path("build/benchmarks.json")
    path.parent.mkdir(exist_ok=True)
    document = {"environment": environment(), "training": results, "deep_over_shallow": ratios}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
