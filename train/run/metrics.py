"""A run's metrics over time: metrics.jsonl, TensorBoard events, and the loss plot."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from bridge import replacing_file
from train.system.write import write_text

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends records to metrics.jsonl and TensorBoard; a reader only ever finds whole lines."""

    def __init__(self, run: Path, step: int) -> None:
        """Opens a run's metrics, and drops records after `step`, since those steps come again."""
        kept = [record for record in read_metrics(run) if record["step"] <= step]
        write_text(run / METRICS, "".join(map(_line, kept)))
        self._file = (run / METRICS).open("a", encoding="utf-8")
        self._run, self._first = run, step + 1

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Adds a record: numbers by name; names of validation losses are `loss/DOMAIN`."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def open_events(self) -> None:
        """Opens the TensorBoard file now, which takes a second, and not with the first `write`."""
        _ = self._events

    @functools.cached_property
    def _events(self) -> Any:
        # Imported only now, because it imports torch: the first step need not wait for that.
        import tensorboardX

        return tensorboardX.SummaryWriter(
            str(self._run / "tensorboard"), purge_step=self._first, write_to_disk=True
        )

    def sync(self) -> None:
        """Makes sure that what was written survives a crash of the machine."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if "_events" in self.__dict__:
            self._events.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run, without an unfinished line that a killed run may leave."""
    path = run / METRICS
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def plot_losses(run: Path, levels: dict[str, float] | None = None) -> Path:
    """Draws loss.png from metrics.jsonl and returns its path.

    Args:
        run: the run's folder.
        levels: losses drawn as horizontal lines, by names such as "bigram, code".
    """
    import matplotlib.figure  # imported only when there is something to draw

    records = read_metrics(run)
    figure = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in sorted({name for record in records for name in record if name.startswith("loss")}):
        points = [(record["step"], record[name]) for record in records if name in record]
        domain = name.removeprefix("loss/")
        label = f"validation, {domain}"
        style: dict[str, Any] = {"marker": "o", "ms": 3, "color": _colour(domain)}
        if name == "loss":
            label, style = "training", {"linewidth": 1, "color": "0.6"}
        axes.plot(*zip(*points, strict=True), label=label, **style)
    for name, loss in (levels or {}).items():
        axes.axhline(loss, linestyle=":", label=name, color=_colour(name.rpartition(", ")[2]))
    axes.set(xlabel="optimizer step", ylabel="nats per token (lower is better)")
    axes.grid(alpha=0.3)
    axes.legend()
    path = run / "loss.png"
    with replacing_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


def _colour(domain: str) -> str:
    """What a domain is drawn with, whatever else a plot shows."""
    return {"text": "C0", "code": "C1"}.get(domain, "C2")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
