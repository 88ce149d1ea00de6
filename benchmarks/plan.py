"""`python -m benchmarks.plan`: what `train.base --plan` says, over what then happens.

Three small models, whose runs take about a minute each on two cores, on the Python library. Prints
a table of ratios, which should lie between 0.85 and 1.15, and writes build/plan.json.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rich.table

from benchmarks.process import measured_on
from benchmarks.start import prepared
from train.forecast.training import size_of
from train.system.terminal import console, print_table

SIZES: dict[str, dict[str, int]] = {
    "32 channels, 4 layers, 64 x 128": {
        "model.model_dim": 32,
        "model.num_layers": 4,
        "model.ffn_dim": 128,
        "training.steps": 400,
        "training.batch_size": 64,
        "training.sequence_length": 128,
    },
    "128 channels, 6 layers, 16 x 256": {
        "model.model_dim": 128,
        "model.num_layers": 6,
        "model.ffn_dim": 512,
        "training.steps": 80,
        "training.batch_size": 16,
        "training.sequence_length": 256,
    },
    "256 channels, 8 layers, 2 x 8 x 256": {
        "model.model_dim": 256,
        "model.num_layers": 8,
        "model.ffn_dim": 1024,
        "training.steps": 24,
        "training.batch_size": 8,
        "training.sequence_length": 256,
        "training.accumulation": 2,
    },
}
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def measure(config: Path, settings: dict[str, int]) -> dict[str, dict[str, float]]:
    """Seconds, bytes of memory and bytes on disk, as planned and as they were."""
    steps = settings["training.steps"]
    often = {"optimizer.warmup_steps": 1, "training.validate_every": steps // 4}
    often["training.checkpoint_every"] = steps // 4
    options = [f"--{key}={value}" for key, value in (settings | often).items()]
    line = [sys.executable, "-m", "train.base", "--config", str(config), *options]
    printed, _, _ = _run([*line, "--plan"])
    seconds, memory, disk = (
        re.search(rf"plan {what} +([^:(]+?)(?: at most|:|$)", printed, re.MULTILINE)
        for what in ("time", "memory", "disk")
    )
    assert seconds and memory and disk, printed
    planned = {
        "time": sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+)([dhms])", seconds[1])),
        "memory": _megabytes(memory[1]),
        "disk": _megabytes(disk[1]),
    }
    _, taken, peak = _run([*line, "--overwrite"])
    on_disk = size_of(config.with_name("run") / "checkpoints_base")
    return {"planned": planned, "real": {"time": taken, "memory": peak, "disk": on_disk}}


def _megabytes(text: str) -> float:
    return float(text.removesuffix(" MB").replace(",", "")) * 1e6


def _run(line: list[str]) -> tuple[str, float, float]:
    """What a command prints, its seconds, and its peak memory in bytes."""
    with tempfile.TemporaryFile("w+b") as printed:
        begun = time.perf_counter()
        actions = [(os.POSIX_SPAWN_DUP2, printed.fileno(), 1)]
        process = os.posix_spawn(line[0], line, os.environ, file_actions=actions)
        _, status, used = os.wait4(process, 0)
        seconds = time.perf_counter() - begun
        printed.seek(0)
        text = printed.read().decode()
    if status:
        raise RuntimeError(f"{' '.join(line)} failed: {text}")
    return text, seconds, used.ru_maxrss * 1024


def main() -> None:
    """Measures all sizes."""
    results: dict[str, Any] = {"measured on": measured_on()}
    table = rich.table.Table("size", "", "planned", "real", "ratio", title="--plan")
    with tempfile.TemporaryDirectory() as name:
        config = prepared("configs/demo.yaml", Path(name))
        for size, settings in SIZES.items():
            found = results[size] = measure(config, settings)
            for what, unit in (("time", 1), ("memory", 1e6), ("disk", 1e6)):
                planned, real = found["planned"][what], found["real"][what]
                numbers = f"{planned / unit:,.1f}", f"{real / unit:,.1f}", f"{planned / real:.2f}"
                table.add_row(size if what == "time" else "", what, *numbers)
                console.print(size, what, *numbers)
    print_table(table)
    path = Path("build") / "plan.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
