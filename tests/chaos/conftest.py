"""A prepared folder, and a run in it that nothing happens to."""

import pytest
from helpers import broken_runs, warm_python


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Sources, configs and prepared data."""
    folder = tmp_path_factory.mktemp("chaos")
    broken_runs.write_configs(folder)
    done = warm_python.run(folder, "train.prepare", "--config", "c.yaml")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def whole(folder):
    """The folder of a run that was never disturbed."""
    run = folder / "whole" / "checkpoints_base"
    done = broken_runs.started(folder, run, *broken_runs.BASE).wait()
    assert done.returncode == 0, done.stderr
    return run
