"""Curves of losses and pictures of margins, for reports and for comparisons of runs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from train.run.metrics import read_metrics
from train.run.recorded import STEPS, recorded_settings
from train.scoring.score import Margin
from train.scoring.scoreboard import as_label
from train.system.write import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSSES = {"loss": "training", "loss/text": "validation, text", "loss/code": "validation, code"}
"""The curves that a run can have in metrics.jsonl, and what they show."""

COLOURS = {"text": "C0", "code": "C1", "mixed": "C2"}

_HIDDEN = 0.2
"""The share of the tokens, from the start, whose losses may lie above the picture."""


class Curve(NamedTuple):
    """One run's line in the pictures.

    Attributes:
        name: what the line is called.
        run: the run's folder.
        start: the tokens before its first step, such as those of the base that it begins with.
    """

    name: str
    run: Path
    start: int = 0


def tokens_of_step(settings: Mapping[str, Any]) -> int:
    """The tokens of one optimizer step, padding included, of a run's recorded settings."""
    keys = ("batch_size", "sequence_length", "accumulation")
    return math.prod(int(settings.get(f"training.{key}", 1)) for key in keys)


def tokens_of_run(run: Path) -> int:
    """The tokens that a whole run trains on; raises UserError if its config cannot be read."""
    settings = recorded_settings(run)
    return int(settings.get(STEPS, 0)) * tokens_of_step(settings)


def draw_curves(
    axes: "Axes",
    curves: Sequence[Curve],
    loss: str,
    levels: Mapping[str, float] | None = None,
) -> bool:
    """Draws one loss of several runs over their tokens; returns whether any of them has it.

    Args:
        axes: where.
        curves: the runs.
        loss: a key of LOSSES.
        levels: losses that are drawn as dotted lines, by their names.

    Raises:
        UserError: a run's config cannot be read.
    """
    from matplotlib.ticker import EngFormatter  # imported only when there is something to draw

    drawn: list[tuple[float, float]] = []
    for index, curve in enumerate(curves):
        per_step = tokens_of_step(recorded_settings(curve.run))
        points = [
            (curve.start + record["step"] * per_step, record[loss])
            for record in read_metrics(curve.run)
            if math.isfinite(record.get(loss, math.nan))
        ]
        if points:
            drawn += points
            style = {"linewidth": 1} if loss == "loss" else {"marker": "o", "markersize": 3}
            axes.plot(
                *zip(*points, strict=True),
                color=f"C{index % 10}",
                label=as_label(curve.name),
                **style,
            )
    for name, level in (levels or {}).items():
        axes.axhline(level, linestyle=":", color="0.4", label=as_label(name))
    if drawn:
        axes.legend(fontsize="small")
        last = max(tokens for tokens, _ in drawn)
        seen = [value for tokens, value in drawn if tokens >= _HIDDEN * last]
        seen += (levels or {}).values()
        space = 0.05 * (max(seen) - min(seen)) or 0.1
        axes.set_ylim(min(seen) - space, max(seen) + space)
    axes.set(
        title=LOSSES[loss], xlabel="training tokens", ylabel="nats per token (lower is better)"
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    return bool(drawn)


def write_curves(path: Path, curves: Sequence[Curve]) -> bool:
    """Draws all losses of several runs on one picture, unless none of them has any.

    Args:
        path: of the PNG.
        curves: the runs.

    Returns:
        Whether it was written.

    Raises:
        UserError: a run's config cannot be read, or the path is a link.
        OSError: it cannot be written.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(15, 5), layout="constrained")
    panels = figure.subplots(1, len(LOSSES))
    drawn = [draw_curves(axes, curves, loss) for axes, loss in zip(panels, LOSSES, strict=True)]
    if any(drawn):
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=110)
    return any(drawn)


def draw_margins(axes: "Axes", rows: Mapping[str, Mapping[str, Margin]]) -> None:
    """Draws margins by row and domain, with twice their error; left of 0, the first is better."""
    for row, of_domain in enumerate(rows.values()):
        for place, (domain, margin) in enumerate(of_domain.items()):
            height = row + 0.22 * (place - (len(of_domain) - 1) / 2)
            axes.errorbar(
                margin.difference,
                height,
                xerr=2 * (margin.error or 0),
                fmt="o",
                markersize=5,
                capsize=3,
                color=COLOURS.get(domain, "C3"),
                label=domain if row == 0 else None,
            )
    axes.axvline(0, color="0.2", linewidth=1)
    labels = [as_label(row).replace(" against ", "\nagainst ") for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("difference in nats per token\n(left of 0, the first is better)")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 1 + 0.6 / len(rows)), ncols=3, frameon=False
    )
