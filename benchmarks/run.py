"""`python -m benchmarks.run`: training's speed and conversion's, as ratios.

Compile time and steps of the 22.4 M model at two depths, on random tokens; and the conversion of a
large checkpoint beside torch's own load and save. Prints tables and writes build/benchmarks.json.
Everything is measured in this one run, so that only the ratios carry from machine to machine.
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

from benchmarks import conversion
from train.cli import parse_config
from train.config import Config
from train.run_folder import environment
from train.stages import initial_model
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


def _deeper(console: rich.console.Console) -> dict[str, dict[str, float]]:
    """Training at 12 and 24 layers, and the ratio."""
    base = parse_config(["--config", "configs/base-22m.yaml"], "")
    results: dict[str, dict[str, float]] = {}
    for layers in (12, 24):
        console.print(
            f"{layers} layers: compiling and {REPEATS} steps of {BATCH} x {TOKENS} tokens"
        )
        model = dataclasses.replace(base.model, num_layers=layers)
        results[f"{layers} layers"] = training(dataclasses.replace(base, model=model))
    shallow, deep = results["12 layers"], results["24 layers"]
    results["24 / 12"] = {key: deep[key] / shallow[key] for key in deep}
    table = rich.table.Table("", "compile (s)", "step (s)", "tokens/s")
    for name, row in results.items():
        table.add_row(name, *(f"{row[key]:.2f}" for key in row))
    console.print(table)
    return results


def _conversion(console: rich.console.Console, folder: Path) -> dict[str, dict[str, float]]:
    """A large checkpoint through the bridge and through torch, and the ratio of their times."""
    console.print(f"converting a checkpoint, {conversion.ROUNDS} rounds of torch and the bridge")
    results = conversion.measure(folder)
    table = rich.table.Table("", "load (s)", "save (s)", "both (s)", "times torch's", "peak / file")
    for name in ("torch", "bridge", "safetensors", "orbax"):
        row = results[name]
        row["times_torch"] = row["seconds"] / results["torch"]["seconds"]
        keys = ("load_seconds", "save_seconds", "seconds", "times_torch", "peak_over_file")
        table.add_row(name, *(f"{row[key]:.2f}" for key in keys))
    console.print(table)
    return results


def main() -> None:
    """Measures, prints and writes."""
    console = rich.console.Console()
    build = Path("build")
    build.mkdir(exist_ok=True)
    document = {
        "environment": environment(),
        "conversion": _conversion(console, build / "conversion"),
        "training": _deeper(console),
    }
    path = build / "benchmarks.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
