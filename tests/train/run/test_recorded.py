"""The record of a run: all of its parts, what changed between them, and damaged records."""

import dataclasses
import json
import os

import pytest

from train.run import recorded
from train.run.recorded import (
    Extension,
    begin_part,
    extensions,
    recorded_parts,
    recorded_settings,
)
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.system.errors import UserError

CONFIG = Config(
    data_dir="a",
    run_dir="b",
    optimizer=OptimizerConfig(learning_rate=0.01),
    training=TrainingConfig(steps=9000),
)


def test_every_part_is_recorded_and_every_change_is_said(tmp_path, capsys, monkeypatch):
    begin_part(CONFIG, tmp_path, 0, "float32")
    begin_part(CONFIG, tmp_path, 3, "float32")
    assert capsys.readouterr().out == ""
    here = recorded.environment()
    there = here | {"cores": here["cores"] + 2, "device": "NVIDIA H100"}
    there["packages"] = here["packages"] | {"jax": "99.1"}
    monkeypatch.setattr(recorded, "environment", lambda: there)
    prompts = ["a" * 1000]
    optimizer = dataclasses.replace(CONFIG.optimizer, learning_rate=0.001)
    training = dataclasses.replace(CONFIG.training, steps=9500)
    config = dataclasses.replace(CONFIG, prompts=prompts, optimizer=optimizer, training=training)
    begin_part(config, tmp_path, 9000, "bfloat16", Extension(9000, 9500, "restart"))
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" was ")[0] for line in said] == [
        f"changed: {key}"
        for key in (
            "prompts",
            "optimizer.learning_rate",
            "training.steps",
            "jax",
            "device",
            "cores",
            "precision",
        )
    ]
    assert "changed: optimizer.learning_rate was 0.01 and is 0.001 now" in said
    assert "changed: precision was float32 and is bfloat16 now" in said
    assert max(map(len, said)) < 100
    first, second, third = recorded_parts(tmp_path)
    assert (first["step"], second["step"], third["step"]) == (0, 3, 9000)
    assert first["started"] <= second["started"] <= third["started"]
    assert first["packages"] == here["packages"] and third["cores"] == here["cores"] + 2
    assert first["changed"] == second["changed"] == {}
    assert third["changed"] == {
        "prompts": [[], prompts],
        "optimizer.learning_rate": [0.01, 0.001],
        "training.steps": [9000, 9500],
    }
    assert recorded_settings(tmp_path)["training.steps"] == 9500
    assert extensions(tmp_path, 9500) == [(9000, 9500, "restart")]


def test_a_precision_is_said_once(tmp_path, capsys):
    begin_part(CONFIG, tmp_path, 0, "float32")
    training = dataclasses.replace(CONFIG.training, precision="bfloat16")
    begin_part(dataclasses.replace(CONFIG, training=training), tmp_path, 3, "bfloat16")
    said = "changed: training.precision was float32 and is bfloat16 now\n"
    assert capsys.readouterr().out == said


def test_the_only_record_of_an_older_run_is_its_first_part(tmp_path, capsys):
    begin_part(CONFIG, tmp_path, 0, "float32")
    (old,) = recorded_parts(tmp_path)
    for key in ("started", "step", "devices", "processes", "changed"):
        del old[key]
    (tmp_path / "environment.json").write_text(json.dumps(old | {"cores": 99}))
    begin_part(CONFIG, tmp_path, 3, "float32")
    assert capsys.readouterr().out.startswith("changed: cores was 99 and is ")
    assert [part.get("step") for part in recorded_parts(tmp_path)] == [None, 3]


def test_an_extension_holds_only_with_the_config(tmp_path, monkeypatch):
    """Who is killed between the two writes has not extended the run."""
    begin_part(CONFIG, tmp_path, 0, "float32")
    write = recorded.write_text

    def killed(path, text):
        if path.name == "config.yaml":
            raise KeyboardInterrupt
        write(path, text)

    training = dataclasses.replace(CONFIG.training, steps=9500)
    longer = dataclasses.replace(CONFIG, training=training)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recorded, "write_text", killed)
        begin_part(longer, tmp_path, 9000, "float32", Extension(9000, 9500, "stretch"))
    assert recorded_settings(tmp_path)["training.steps"] == 9000
    assert extensions(tmp_path, 9000) == []
    begin_part(longer, tmp_path, 9000, "float32", Extension(9000, 9500, "restart"))
    assert extensions(tmp_path, 9500)[-1] == (9000, 9500, "restart")


def test_a_new_folder_gets_its_config_first(tmp_path, monkeypatch):
    """Without it, the folder would be taken for somebody else's."""
    monkeypatch.setattr(recorded, "write_json", lambda *_: os.stat(tmp_path / "config.yaml"))
    begin_part(CONFIG, tmp_path, 0, "float32")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not the settings of a run"),
        ("[1, 2]", "not the settings of a run"),
        ("1: 2", "not the settings of a run"),
        ("a: !!python/object:x {}", "not the settings of a run: could not determine a const"),
        ("a: [b", "line 1: not valid YAML"),
        ("training: {steps: many}", "training.steps is 'many', not a whole number"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
         "more than 2,000 values"),
        ("[" * 3000, "nested too deep"),
    ],
)  # fmt: skip
def test_damaged_settings_are_one_line(tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        recorded_settings(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/config.yaml") and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "restore a copy, or remove it"),
        ("[" * 5000, "restore a copy, or remove it"),
        ("[1]", "does not list a run's parts: restore a copy, or remove it"),
        ('[{"schedule": "stretch"}]', "does not say how the run was extended: restore a copy"),
        ('[{"schedule": "stretch", "changed": {"training.steps": [1]}}]', "does not say how the"),
        ('[{"schedule": "x", "changed": {"training.steps": ["a", "b"]}}]', "does not say how the"),
    ],
)
def test_a_damaged_record_of_parts_is_one_line(tmp_path, content, message):
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(UserError, match=message):
        extensions(tmp_path, 9000)
