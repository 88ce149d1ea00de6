"""The picture of a benchmark run: what is there of training, memory and generation."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def plot(document: dict[str, Any], path: Path) -> None:
    """Draws the parts that were measured."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    if "training" in document:
        _bars(axes[0], document["training"]["tokens_per_second"], "trained tokens/s")
    if "memory" in document:
        policies = {k: v for k, v in document["memory"].items() if k != "environment"}
        values = {
            f"{name}, {row['tokens_per_second']:.0f} tokens/s": row["peak_bytes"] / 1e9
            for name, row in policies.items()
        }
        _bars(axes[1], values, "peak memory (GB), 50.8 M, 8 x 2048")
    if "generation" in document:
        values = {}
        for name in ("batch 1", "batch 16"):
            row = document["generation"][name]
            count = int(name.split()[1])
            values[f"twin, {name}"] = count / row["twin"]
            values[f"ours, {name}"] = count / row["seconds"]
        _bars(axes[2], values, "generated tokens/s, all sequences")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _bars(axis: Any, values: dict[str, float], title: str) -> None:
    bars = axis.barh(list(values), list(values.values()))
    axis.bar_label(bars, fmt="%.4g", padding=2)
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.set_title(title)
