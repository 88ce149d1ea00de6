"""Commands in locales that are not UTF-8: the same files, and no traceback."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from train.preparation.prepare_data import prepare
from train.settings.cli import parse_config

CONFIG = """
data_dir: daten/é
run_dir: läufe/中
prompts: ["café "]
prepare: {text: ["in/étext"], code: ["in/écode"]}
model: {vocab_size: 280, model_dim: 8, num_layers: 1, num_heads: 1, ffn_dim: 8}
optimizer: {warmup_steps: 1}
training: {steps: 2, batch_size: 2, sequence_length: 16, accumulation: 1}
"""
WORDS = ["the", "café", "naïve", "中文", "river", "stone", "über", "tree"]
ENCODINGS = {"de_DE": ("ISO-8859-1", "latin-1"), "zh_CN": ("GBK", "gbk")}
"""The codecs of Python by locale, and what localedef calls them."""


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """The folder of real locales, which no image has ready."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef to make locales with")
    for name, (charmap, _) in ENCODINGS.items():
        line = ["localedef", "-i", name, "-f", charmap, str(folder / name)]
        made = subprocess.run(line, capture_output=True)
        if made.returncode > 1:  # 1: it has warned
            pytest.skip(f"localedef cannot make {name}: {made.stderr.decode(errors='replace')}")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Files and folders with names in UTF-8, and one with a name that is no text."""
    folder = tmp_path_factory.mktemp("sources")
    words = random.Random(0)
    for name, blank in (("étext", " "), ("écode", " = ")):
        (folder / "in" / name).mkdir(parents=True)
        for index in range(9):
            text = blank.join(words.choices(WORDS, k=200))
            (folder / "in" / name / f"ü{index}").write_text(text, encoding="utf-8")
    Path(os.fsdecode(os.fsencode(folder / "in" / "étext") + b"/\xff\xfe")).touch()
    (folder / "c.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def run(folder, locales, name, module, *arguments):
    """What a command prints in a locale, after it has ended well."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    places = {"PYTHONPATH": str(ROOT), "LOCPATH": str(locales), "LC_ALL": name}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment | places,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode(ENCODINGS[name][1])


@pytest.mark.parametrize("name", ["de_DE", pytest.param("zh_CN", marks=pytest.mark.slow)])
def test_data_are_the_same_in_every_locale(tmp_path, locales, sources, name, monkeypatch):
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    printed = run(tmp_path, locales, name, "train.prepare", "--config", "c.yaml")
    assert "in/étext" in printed and r"empty: in/étext/\udcff\udcfe" in printed
    manifest = json.loads((tmp_path / "daten/é/manifest.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    prepare(parse_config(["--config", "c.yaml", "--data_dir", "utf8"], ""))
    same = json.loads(Path("utf8/manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"]["tokenizer.json"] == same["files"]["tokenizer.json"]
    assert manifest["files"]["mixed/train/tokens.npy"] == same["files"]["mixed/train/tokens.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODINGS)
def test_all_commands_work_in_a_real_locale(tmp_path, locales, sources, name, monkeypatch):
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    prepare(parse_config(["--config", "c.yaml"], ""))
    printed = run(tmp_path, locales, name, "train.base", "--config", "c.yaml")
    checkpoints = tmp_path / "läufe/中/checkpoints_base"
    shown = "中" if name == "zh_CN" else "?"
    assert printed.endswith(f"/{shown}/checkpoints_base/report.json\n")
    report = json.loads((checkpoints / "report.json").read_text(encoding="utf-8"))
    assert list(report["samples"]) == ["café "]

    for prompt in (b"caf\xc3\xa9", "café".encode(ENCODINGS[name][1])):
        options = ["--checkpoint", "läufe/中/checkpoints_base", "--length", "3", "--prompt", prompt]
        assert run(tmp_path, locales, name, "mmrec_jax.generate", *options).startswith("café")
    path = "läufe/中/checkpoints_base/base_model_step_2.pt"
    assert "MMRecModel" in run(tmp_path, locales, name, "bridge", "inspect", path)
