"""With which settings a run may resume; test_base_run.py resumes real runs."""

import dataclasses

import pytest
import yaml

from train.run.resume import check_may_resume
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.system.errors import UserError


def test_runs_that_are_older_than_a_setting_resume(tmp_path):
    run = tmp_path / "checkpoints_base"
    run.mkdir()
    old = {"data_dir": "elsewhere", "training": {"sequence_length": 8, "steps": 9000}}
    (run / "config.yaml").write_text(yaml.safe_dump(old))
    config = Config(
        data_dir="here",
        run_dir=str(tmp_path),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(sequence_length=8, steps=9000),
    )
    check_may_resume(config, run, ())
    training = dataclasses.replace(config.training, packing="documents")
    config = dataclasses.replace(config, training=training)
    with pytest.raises(UserError, match=r"training.packing \(contiguous there, documents now\)"):
        check_may_resume(config, run, ())
