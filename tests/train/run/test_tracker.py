"""Metrics beside metrics.jsonl: what trackio and wandb get, and that they end no run."""

import sys
from types import SimpleNamespace

import pytest

from train.run.metrics import MetricsWriter, read_metrics
from train.run.tracker import check_tracker
from train.system.errors import UserError


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "mine" / "checkpoints_base"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 3\ntraining: {steps: 12}\n")
    (folder / "environment.json").write_text('[{"started": "2026-01-02T03:04:05+00:00"}]')
    return folder


def fake(monkeypatch, name, fails=()):
    """A tracker's module that keeps what it is called with."""
    calls = []

    def function(what):
        def called(*arguments, **options):
            calls.append((what, arguments, options))
            if what in fails:
                raise ConnectionError(f"no {what}")

        return called

    module = SimpleNamespace(**{what: function(what) for what in ("init", "log", "finish")})
    monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.mark.parametrize(("name", "more"), [("trackio", set()), ("wandb", {"id"})])
def test_a_tracker_gets_what_the_metrics_get(run, monkeypatch, name, more):
    calls = fake(monkeypatch, name)
    with MetricsWriter(run, 0, name) as metrics:
        metrics.write(1, {"loss": 2.0})
        metrics.write(2, {"loss/text": 3.0})
    (init, _, options), *rest = calls
    assert init == "init" and set(options) == {"project", "name", "config", "resume"} | more
    assert options["project"] == "mine" and options["name"] == "base-20260102T030405"
    assert options["config"] == {"seed": 3, "training.steps": 12}
    assert rest == [
        ("log", ({"loss": 2.0},), {"step": 1}),
        ("log", ({"loss/text": 3.0},), {"step": 2}),
        ("finish", (), {}),
    ]


@pytest.mark.parametrize(("fails", "asked"), [("init", 1), ("log", 2), ("finish", 4)])
def test_a_tracker_that_fails_is_said_once_and_ends_nothing(run, monkeypatch, capsys, fails, asked):
    calls = fake(monkeypatch, "wandb", {fails})
    with MetricsWriter(run, 0, "wandb") as metrics:
        for step in (1, 2):
            metrics.write(step, {"loss": 2.0})
    assert len(calls) == asked
    assert [record["step"] for record in read_metrics(run)] == [1, 2]
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert warning == (
        f"warning: training.tracker: wandb failed (ConnectionError: no {fails}); training goes on "
        "without it"
    )


def test_a_tracker_that_is_not_installed_is_an_error_before_the_run(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^training\.tracker: wandb is not installed: pip install"):
        check_tracker("wandb")
    check_tracker("none")
