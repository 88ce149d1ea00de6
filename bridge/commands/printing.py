"""Prints reports as tables that are readable on a terminal and in a file."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bridge.comparison import KINDS, Comparison
from bridge.errors import SHOWN, counted, listed
from bridge.inspection import Inspection
from bridge.partial import LoadReport

_PARTS = 12


def printable(text: str) -> str:
    """The text without control characters, since some of it comes from files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: float) -> str:
    """Bytes in a suitable unit."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


def left_out(entries: Mapping[str, str]) -> str:
    """The entries of a file that are not taken over, and what they are."""
    return printable(listed([f"{name} ({what})" for name, what in entries.items()]))


def print_json(content: Any) -> None:
    """Prints plain data as JSON, with inf and nan, which JSON does not have, as strings."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): finite(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return value if not isinstance(value, float) or math.isfinite(value) else str(value)

    print(json.dumps(finite(content), indent=1, allow_nan=False))


def print_inspection(inspection: Inspection) -> None:
    """Prints the description of a file, one fact per line."""
    table = Table.grid(padding=(0, 2))
    for label, text in _described(inspection):
        table.add_row(label, printable(text))
    _print(table)


def print_load_report(report: LoadReport) -> None:
    """Prints what happened to the tensors: the first of each kind, and how many were loaded."""
    table = Table(box=box.SIMPLE)
    for column in ("state", "tensor", "shape in the file", "shape in the model"):
        table.add_column(column)

    dtypes = {name: f" {dtype}" for name, dtype in report.wrong_type}

    def add(state: str, names: Sequence[str]) -> None:
        for name in names[:SHOWN]:
            shapes = (shapes.get(name) for shapes in (report.in_file, report.in_model))
            found, wanted = ("" if shape is None else str(list(shape)) for shape in shapes)
            table.add_row(state, name, f"{found}{dtypes.get(name, '')}", wanted)
        if names[SHOWN:]:
            table.add_row(state, f"and {len(names) - SHOWN:,} more")

    tied = " (the tied head counted once)" if report.tensors < len(report.in_model) else ""
    tensors = f"{report.tensors_loaded} of the model's {report.tensors} tensors{tied}"
    values = f"{report.values_loaded:,} of {report.values:,} values"
    table.add_row("loaded", f"{tensors}, {values}")
    add("implied", report.implied)
    add("missing", report.missing)
    add("unexpected", report.unexpected)
    add("misshapen", [item.name for item in report.misshapen])
    add("of the wrong type", list(dtypes))
    add("of wrong values", report.wrong_values)
    add("duplicate", report.duplicates)
    _print(table)


def print_comparison(comparison: Comparison, tolerance: float) -> None:
    """Prints the tensors that differ most, one line for each kind of tensor, and the result."""
    worst = [item for item in comparison.tensors if item.difference > 0][:SHOWN]
    if worst:
        table = Table(box=box.SIMPLE)
        table.add_column("largest difference", justify="right")
        table.add_column("of")
        table.add_column("tensor")
        for item in worst:
            table.add_row(f"{item.difference:.3g}", item.kind, item.name)
        _print(table)
    lines = Table.grid(padding=(0, 2))
    for label, text in _compared(comparison):
        lines.add_row(label, printable(text))
    _print(lines)
    verdict = "A and B are the same" if comparison.agrees(tolerance) else "A and B differ"
    print(f"{verdict}, tolerance {tolerance:g}")


def _print(table: Table) -> None:
    for column in table.columns:
        column.overflow = "fold"
    # What is no terminal has no width to keep to, and no name may be cut.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _some(names: Sequence[str]) -> str:
    return f"{len(names)}: {listed(names)}"


def _first(lines: Sequence[str]) -> Iterator[str]:
    """As many lines as a screen has room for, and how many more there are."""
    yield from lines[:SHOWN]
    if lines[SHOWN:]:
        yield f"and {len(lines) - SHOWN:,} more"


def _described(inspection: Inspection) -> Iterator[tuple[str, str]]:
    yield "file", f"{inspection.path} ({inspection.format}, {size(inspection.size)})"
    yield "model", inspection.model_class or "unknown"
    if inspection.dimensions:
        unknown = "unknown, as no shape shows it"
        dimensions = {
            key: unknown if value is None else value for key, value in inspection.dimensions.items()
        }
        yield "dimensions", ", ".join(f"{key} {value}" for key, value in dimensions.items())
    yield "variants", ", ".join(inspection.variants) or "none"
    if inspection.reminder:
        yield "", inspection.reminder
    yield "parameters", f"{inspection.total:,}"
    width = len(f"{inspection.total:,}")
    parts = list(inspection.parameters.items())
    for part, count in parts[:_PARTS]:
        yield f"  {part}", f"{count:{width},}"
    if parts[_PARTS:]:
        rest = sum(count for _, count in parts[_PARTS:])
        yield f"  {len(parts) - _PARTS} more", f"{rest:{width},}"
    if inspection.tied:
        yield "  lm_head", "tied to the embedding"
    if inspection.buffers:
        yield "buffers", f"{inspection.buffers:,} values that are not trained"
    yield (
        "dtypes",
        ", ".join(
            f"{dtype} ({counted(share.tensors, 'tensor')}, {counted(share.values, 'value')})"
            for dtype, share in inspection.dtypes.items()
        ),
    )
    optimizer, schedule = inspection.optimizer, inspection.schedule
    if optimizer is None:
        yield "optimizer", "none"
    else:
        moments = f"moments of {optimizer.moments} of {optimizer.parameters} parameters"
        settings = ", ".join(f"{name} {value}" for name, value in optimizer.settings.items())
        yield "optimizer", f"AdamW, {moments}, {settings}"
    if schedule is None:
        yield "schedule", "none"
        yield "trained", f"{inspection.step:,} steps"
    else:
        length = f"warm-up {schedule.warmup_steps:,}, {schedule.total_steps:,} steps in all"
        lowest = f", lowest {schedule.min_lr}" if schedule.min_lr else ""
        alone = "cosine alone, " if schedule.form == "CosineAnnealingLR" else ""
        yield "schedule", f"{alone}peak {schedule.base_lr}{lowest}, {length}"
        share = "" if inspection.trained is None else f" ({inspection.trained:.1%})"
        last = schedule.ends_at(inspection.step)
        yield "trained", f"{inspection.step:,} of {last:,} steps{share}"
    if inspection.stated_step is not None:
        yield (
            "",
            f"by its optimizer, which counts; the file's counter says {inspection.stated_step:,}",
        )
    yield "avg_loss", f"{inspection.avg_loss:.6g}"
    if inspection.wrappers:
        yield "names", f"without {', '.join(inspection.wrappers)}"
    if inspection.left_out:
        yield "not taken", left_out(inspection.left_out)
    for warning in inspection.warnings:
        yield "warning", warning
    for kind, items in inspection.problems.items():
        for index, item in enumerate(_first(items)):
            yield "" if index else f"{len(items)} {kind}", item


def _compared(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        tensors = comparison.of_kind(kind)
        if tensors:
            difference = tensors[0].difference
            yield kind, f"{counted(len(tensors), 'tensor')}, largest difference {difference:.3g}"
    for name, difference in comparison.outputs.items():
        yield name, f"largest difference {difference:.3g}"
    if not comparison.outputs:
        yield "outputs", "not compared: the models are of different classes or shapes"
    for label, names in (
        ("only in A", comparison.only_in_a),
        ("only in B", comparison.only_in_b),
        ("misshapen", comparison.misshapen),
    ):
        if names:
            yield label, _some(names)
    others = [
        f"{item.name} ({' in A, '.join(item.dtypes)} in B)" for item in comparison.other_dtypes
    ]
    if others:
        yield "other dtypes", _some(others)
    for line in _first(comparison.different):
        yield "different", line
    if not comparison.different:
        yield "all else", "the same: config, step, loss, optimizer's settings and schedule"
