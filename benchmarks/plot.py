"""The picture of a benchmark run: training, memory and generation, as far as measured."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def plot(document: dict[str, Any], path: Path) -> bool:
    """Draws the parts that were measured; returns whether there are any."""
    panels: dict[str, dict[str, float]] = {}
    if "training" in document:
        panels["trained tokens/s"] = document["training"]["tokens_per_second"]
    if "memory" in document:
        policies = {k: v for k, v in document["memory"].items() if k != "measured on"}
        panels["peak memory (GB), 50.8 M, 8 x 2048"] = {
            f"{name}, {row['tokens_per_second']:.0f} tokens/s": row["peak_bytes"] / 1e9
            for name, row in policies.items()
        }
    if "generation" in document:
        values = panels["generated tokens/s, all sequences"] = {}
        for name in ("batch 1", "batch 16"):
            row = document["generation"][name]
            count = int(name.split()[1])
            values[f"twin, {name}"] = count / row["twin"]
            values[f"ours, {name}"] = count / row["seconds"]
    if not panels:
        return False
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 4), layout="constrained", squeeze=False
    )
    for axis, (title, bars) in zip(axes[0], panels.items(), strict=True):
        _bars(axis, bars, title)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return True


def _bars(axis: Any, values: dict[str, float], title: str) -> None:
    bars = axis.barh(list(values), list(values.values()))
    axis.bar_label(bars, fmt="%.4g", padding=2)
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.set_title(title)
