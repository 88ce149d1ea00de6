"""The commands that only look: inspect and verify."""

import argparse
import dataclasses

from bridge.commands import printing
from bridge.commands.loading import load
from bridge.comparison import compare
from bridge.inspection import inspect


def describe(options: argparse.Namespace) -> int:
    """Runs `inspect`; returns 1 if the checkpoint has problems."""
    inspection = inspect(
        options.IN,
        num_heads=options.num_heads,
        model_only=options.model_only,
        entry=options.entry,
    )
    if options.json:
        printing.print_json(inspection.to_json())
    else:
        printing.print_inspection(inspection)
    return 1 if inspection.problems else 0


def verify(options: argparse.Namespace) -> int:
    """Runs `verify`; returns 1 if the checkpoints differ."""
    a, b = (load(path, options, quiet=options.json) for path in (options.A, options.B))
    if options.model_only:
        a, b = (dataclasses.replace(side, avg_loss=0.0) for side in (a, b))
    comparison = compare(a, b, options.seed, options.tolerance)
    agrees = comparison.agrees(options.tolerance)
    if options.json:
        verdict = {"agrees": agrees, "tolerance": options.tolerance}
        printing.print_json(verdict | comparison.to_json())
    else:
        printing.print_comparison(comparison, options.tolerance)
    return 0 if agrees else 1
