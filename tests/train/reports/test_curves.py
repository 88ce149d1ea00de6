"""What the pictures of losses and margins show."""

import json

import matplotlib.figure
import numpy as np
import pytest
import yaml

from train.reports.curves import Curve, draw_curves, draw_margins, tokens_of_run, write_curves
from train.scoring.score import Margin


def write_run(run, losses, batch_size=4):
    run.mkdir()
    training = {"steps": len(losses), "batch_size": batch_size, "sequence_length": 8}
    (run / "config.yaml").write_text(yaml.safe_dump({"training": training | {"accumulation": 2}}))
    records = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def test_runs_of_other_batch_sizes_are_compared_by_tokens(tmp_path):
    small, large = write_run(tmp_path / "_a", [5, 4, 3]), write_run(tmp_path / "b", [4, 2], 8)
    assert tokens_of_run(small) == 192
    axes = matplotlib.figure.Figure().subplots()
    assert draw_curves(axes, [Curve("_$a", small), Curve("b", large, 1000)], "loss")
    lines = [line.get_xydata() for line in axes.get_lines()]
    np.testing.assert_array_equal(lines[0], [(64, 5), (128, 4), (192, 3)])
    np.testing.assert_array_equal(lines[1], [(1128, 4), (1256, 2)])
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == [r" _\$a", "b"]


def test_the_first_losses_do_not_flatten_the_others(tmp_path):
    run = write_run(tmp_path / "a", [900, 90, *np.linspace(4, 3, 98).tolist()])
    axes = matplotlib.figure.Figure().subplots()
    draw_curves(axes, [Curve("a", run)], "loss", {"5-gram": 2.5})
    low, high = axes.get_ylim()
    assert low < 2.5 and 3.8 < high < 4


def test_what_has_no_losses_has_no_picture(tmp_path):
    run = write_run(tmp_path / "a", [float("nan")])
    assert not write_curves(tmp_path / "curves.png", [Curve("a", run)])
    assert not write_curves(tmp_path / "curves.png", [])
    assert not (tmp_path / "curves.png").exists()
    (tmp_path / "b").mkdir()
    assert write_curves(tmp_path / "curves.png", [Curve("b", write_run(tmp_path / "c", [2, 1]))])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_margins_lie_about_zero_with_their_errors():
    axes = matplotlib.figure.Figure().subplots()
    rows = {"a against b": {"text": Margin(-0.2, 0.05), "code": Margin(0.1, None)}}
    draw_margins(axes, rows)
    (text, _, (bar,)), (code, _, _) = axes.containers
    assert text.get_xdata() == [-0.2] and code.get_xdata() == [0.1]
    np.testing.assert_allclose(bar.get_segments()[0][:, 0], [-0.3, -0.1])
    low, high = axes.get_xlim()
    assert low < 0 < high
    assert pytest.approx(0) == axes.get_lines()[-1].get_xdata()[0]
