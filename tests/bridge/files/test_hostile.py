"""A corpus of hostile files: each gives one clear line, executes nothing and writes nothing.

Those that would take memory or time are loaded in a process that has little of both.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from helpers.hostile_bombs import BOMBS
from helpers.hostile_safetensors import SAFETENSORS_FILES
from helpers.hostile_torch import FUSION, TORCH_FILES
from helpers.paths import ROOT

from bridge import (
    BridgeError,
    NonFiniteWarning,
    load_safetensors,
    load_torch,
    save_safetensors,
)


def built(build, path):
    build(path)
    return path


def files_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("suffix", "name"),
    [(".pt", name) for name in TORCH_FILES]
    + [(".safetensors", name) for name in SAFETENSORS_FILES],
)
def test_a_hostile_file_gives_one_line(suffix, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load, corpus = {
        ".pt": (load_torch, TORCH_FILES),
        ".safetensors": (load_safetensors, SAFETENSORS_FILES),
    }[suffix]
    build, kind, message = corpus[name]
    path = pathlib.Path(f"hostile{suffix}")
    build(path)
    before = files_in(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < 500
    assert files_in(tmp_path) == before
    assert not pathlib.Path("executed").exists()


def test_the_corpus_would_execute(tmp_path, monkeypatch):
    """That nothing is executed means something only if it would be."""
    monkeypatch.chdir(tmp_path)
    build, _, _ = TORCH_FILES["system"]
    torch.load(built(build, tmp_path / "a.pt"), weights_only=False)
    assert (tmp_path / "executed").exists()


def run_python(code, *arguments, timeout=280):
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
def test_bombs_take_little_memory_and_time(tmp_path):
    for name, (build, _) in BOMBS.items():
        build(tmp_path / name)
    before = files_in(tmp_path)
    code = """
        import json, pathlib, re, resource, sys, time
        import bridge

        def megabytes(entry):
            (line,) = (line for line in open("/proc/self/status") if line.startswith(entry))
            return int(line.split()[1]) // 1024

        done = set()
        bridge.load_torch(sys.argv[2])
        # What goes wrong here must not take the machine along.
        in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**31, in_use + 2**31))
        paths = sorted(pathlib.Path(sys.argv[1]).iterdir())
        # The second time for the weights alone, whatever the metadata are.
        metadata = re.compile("dict|key|nest|obj|doub|in it")
        of_metadata = [path for path in paths if metadata.match(path.name)]
        for path in [*paths, *of_metadata]:
            options = {"model_only": path in done}
            done.add(path)
            load = bridge.load_torch if path.suffix == ".pt" else bridge.load_safetensors
            open("/proc/self/clear_refs", "w").write("5")  # the peak is that from here on
            start, before = time.process_time(), megabytes("VmRSS")
            try:
                load(path, **options)
                outcome = "loaded"
            except bridge.BridgeError as error:
                outcome = str(error)
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            seconds = time.process_time() - start
            measured = [seconds, megabytes("VmHWM") - before]
            print(json.dumps([path.name, options["model_only"], outcome, *measured]))
    """
    found = [json.loads(line) for line in run_python(code, tmp_path, FUSION).splitlines()]
    assert sorted(name for name, model_only, *_ in found if not model_only) == sorted(BOMBS)
    assert len(found) > len(BOMBS) + 9
    for _, _, outcome, seconds, megabytes in found:
        print(f"{seconds:.2f} s, {megabytes} MB: {outcome.removeprefix(str(tmp_path))}")
    for name, model_only, outcome, seconds, megabytes in found:
        assert outcome.startswith(f"{tmp_path / name}: "), outcome
        assert model_only or re.search(BOMBS[name][1], outcome), outcome
        assert len(outcome) < 500
        assert megabytes < 400, name
        assert seconds < 20, name
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_that_are_nan_are_loaded_with_a_warning(suffix, tmp_path):
    path = not_finite(tmp_path / f"nan{suffix}")
    load = load_torch if suffix == ".pt" else load_safetensors
    with pytest.warns(NonFiniteWarning, match=r"fusion_proj.bias \(2 of \d+ values\)$"):
        loaded = load(path)
    bias = np.asarray(loaded.model.fusion_proj.bias[...])
    assert np.isnan(bias[0])
    assert np.isinf(bias[1])


def not_finite(path):
    content = torch.load(FUSION, weights_only=True)
    content["model_state_dict"]["fusion_proj.bias"][:2] = torch.tensor([torch.nan, torch.inf])
    torch.save(content, path.with_suffix(".pt"))
    if path.suffix == ".safetensors":
        with pytest.warns(NonFiniteWarning):
            model = load_torch(path.with_suffix(".pt")).model
        save_safetensors(path, model)
    return path


def test_the_command_line_refuses_every_file(tmp_path):
    (tmp_path / "in").mkdir()
    for suffix, corpus in ((".pt", TORCH_FILES), (".safetensors", SAFETENSORS_FILES)):
        for name, (build, *_) in corpus.items():
            build(tmp_path / "in" / f"{name.replace('/', ' ')}{suffix}")
    before = files_in(tmp_path / "in")
    missing = [pathlib.Path("missing.pt"), pathlib.Path("missing.safetensors")]
    code = """
        import contextlib, io, json, os, pathlib, sys
        from bridge.__main__ import main

        os.chdir(sys.argv[1])
        for name in sys.argv[2:]:
            out, error = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                code = main(["from-torch", f"in/{name}", "out"])
            print(json.dumps([name, code, error.getvalue()]))
    """
    lines = run_python(code, tmp_path, *before, *missing).splitlines()
    assert len(lines) == len(TORCH_FILES) + len(SAFETENSORS_FILES)
    for name, exit_code, error in map(json.loads, lines):
        assert exit_code == 2, name
        assert error.startswith(f"error: in/{name}: "), error
        assert error.endswith("\n"), name
        assert error[:-1].isprintable(), name
    assert files_in(tmp_path) == [
        pathlib.Path("in"),
        *(pathlib.Path("in") / path for path in before),
    ]


def bridge(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bridge", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("suffix", "name", "command"),
    [
        (".pt", "system", ["from-torch", "IN", "out"]),
        (".pt", "name with escape sequences", ["inspect", "IN"]),
        (".safetensors", "bit in the values", ["from-torch", "IN", "out"]),
    ],
)
def test_a_process_ends_with_one_line_and_code_2(suffix, name, command, tmp_path):
    corpus = TORCH_FILES if suffix == ".pt" else SAFETENSORS_FILES
    build, _, message = corpus[name]
    path = built(build, tmp_path / f"hostile{suffix}")
    code, error = bridge(tmp_path, *(path.name if part == "IN" else part for part in command))
    assert code == 2
    assert re.fullmatch(rf"error: {path.name}: [^\n]*({message})[^\n]*\n", error), error
    assert files_in(tmp_path) == [pathlib.Path(path.name)]


def test_a_process_warns_of_nan_and_goes_on(tmp_path):
    not_finite(tmp_path / "nan.pt")
    code, error = bridge(tmp_path, "from-torch", "nan.pt", "out")
    assert code == 0
    assert re.fullmatch(r"warning: nan.pt: .*fusion_proj.bias \(2 of \d+ values\)\n", error), error
    assert (tmp_path / "out").is_dir()


def test_every_kind_of_error_is_met():
    kinds = {
        kind for _, kind, _ in (TORCH_FILES | SAFETENSORS_FILES).values() if type(kind) is type
    }
    assert kinds == {
        error for error in BridgeError.__subclasses__() if error.__name__ != "UnwritableFileError"
    }
