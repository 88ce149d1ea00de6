"""A run's metrics over time: metrics.jsonl, TensorBoard events, and the loss plot."""

import contextlib
import json
import os
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge import in_words
from train.run.tracker import NO_TRACKER, Tracker
from train.system.terminal import console
from train.system.write import replacing, write_text

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends records to metrics.jsonl and TensorBoard, and draws the plot.

    What cannot be written ends no run, which may have no other fault than a full disk. Lines of
    metrics.jsonl wait until they can be written. TensorBoard's file may end with half an event, so
    it stays as it is, and the next start begins another.
    """

    def __init__(self, run: Path, step: int, tracker: str = NO_TRACKER) -> None:
        """Opens a run's metrics, and drops records after `step`, since those steps come again.

        Args:
            run: the run's folder.
            step: the last step that has been made.
            tracker: gets the records too, see training.tracker.
        """
        kept = [record for record in read_metrics(run) if record["step"] <= step]
        write_text(run / METRICS, "".join(map(_line, kept)))
        self._file = (run / METRICS).open("ab", buffering=0)
        self._run, self._first = run, step + 1
        self._waiting = b""
        self._events: _Events | None = None
        self._troubled: set[str] = set()
        self._tracker = Tracker(tracker, run)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Adds a record: numbers by name; names of validation losses are `loss/DOMAIN`."""
        self._waiting += _line({"step": step, **values}).encode()
        self._write_waiting()
        self._tracker.add(step, values)
        self.open_events()
        if self._events is not None and "tensorboard" not in self._troubled:
            with self._trying("tensorboard"):
                self._events.add(step, values)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Adds texts by name, to TensorBoard alone: metrics.jsonl has numbers."""
        self.open_events()
        if self._events is not None and "tensorboard" not in self._troubled:
            with self._trying("tensorboard"):
                self._events.add_texts(step, texts)

    def open_events(self) -> None:
        """Opens the TensorBoard file now, which takes a second, and not with the first `write`."""
        if self._events is None and "tensorboard" not in self._troubled:
            with self._trying("tensorboard"):
                self._events = _Events(self._run / "tensorboard", self._first)

    def sync(self) -> None:
        """Makes sure that what was written survives a crash of the machine."""
        self._write_waiting()
        with self._trying(METRICS):
            os.fsync(self._file.fileno())

    def plot(self) -> None:
        """Draws loss.png, see `plot_losses`."""
        with self._trying("loss.png"):
            plot_losses(self._run)

    def _write_waiting(self) -> None:
        with self._trying(METRICS):
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]

    @contextlib.contextmanager
    def _trying(self, name: str) -> Iterator[None]:
        """Prints that a file cannot be written, and goes on; the next time, nothing is printed."""
        try:
            yield
        except OSError as error:
            error.filename = str(self._run / name)
            if name not in self._troubled:
                self._troubled.add(name)
                console.print(f"warning: {in_words(error)}; training goes on")
        else:
            self._troubled.discard(name)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._write_waiting()
        self._file.close()
        self._tracker.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()


class NoMetrics(MetricsWriter):
    """Writes nothing, for all processes but the first."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Nothing."""

    def open_events(self) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def plot(self) -> None:
        """Nothing."""

    def __enter__(self) -> "NoMetrics":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Events:
    """A file of TensorBoard's events, which has at once what is written.

    tensorboardX's own writer has a queue and a thread, and a process that dies loses what is there.
    """

    def __init__(self, folder: Path, first: int) -> None:
        """A new file; TensorBoard leaves out what older ones have of step `first` and later."""
        # Imported only now, as it brings torch along: the first step need not wait for that.
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        folder.mkdir(exist_ok=True)
        self._scalar, self._text, self._event = summary.scalar, summary.text, event_pb2.Event
        suffix = f".{time.time_ns()}"  # the name has seconds only
        # Absolute: a relative path that begins with "gs:" or "s3:" would be a cloud's.
        self._file = event_file_writer.EventsWriter(str(folder.absolute() / "events"), suffix)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(first, session_log=start)
        self._file.flush()

    def add(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self._write(step, summary=self._scalar(name, value))
        self._file.flush()

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            # TensorBoard takes it for Markdown, in which indented lines are shown as they are.
            shown = textwrap.indent(text, "    ", lambda line: True)
            self._write(step, summary=self._text(name, shown))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._event(step=step, wall_time=time.time(), **content))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run, without damaged lines, such as one that a killed run left cut off."""
    path = run / METRICS
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if _is_record(record):
                records.append(record)
    return records


def _is_record(record: Any) -> bool:
    """Whether it is what `MetricsWriter.write` writes."""
    return (
        isinstance(record, dict)
        and type(record.get("step")) is int
        and all(type(value) in (int, float) for value in record.values())
    )


def plot_losses(run: Path, levels: dict[str, float] | None = None) -> Path:
    """Draws loss.png from metrics.jsonl and returns its path.

    Args:
        run: the run's folder.
        levels: losses drawn as horizontal lines, by names such as "5-gram, code".
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
    if axes.has_data():  # or matplotlib warns of a legend of nothing
        axes.legend()
    path = run / "loss.png"
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


def _colour(domain: str) -> str:
    """What a domain is drawn with, whatever else a plot shows."""
    return {"text": "C0", "code": "C1"}.get(domain, "C2")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
