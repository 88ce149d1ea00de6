"""A thousand malformed configs and run folders: one line each, within seconds.

They go through each command's own main in this process, so that so many can be tried. Only the
training steps are left out. A few go through real processes, without anything left out.
"""

import json
import os
import shutil
import time
import traceback

import pytest
import yaml
from helpers import warm_python
from helpers.broken_runs import BASE, CONFIG, OPTIMIZER, STAGES, STEPS, TRAINING, one_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bridge.__main__
from bridge import describe_files
from train import base, evaluate, expert, fusion, prepare, stage_command
from train.pipeline import __main__ as pipeline
from train.run import session

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

CONFIGS, FOLDERS = 600, 400

LONGEST, HANGING = 5.0, 60.0
"""Seconds of this process, and of the clock: on a machine with other work, one takes many."""

MANY = {
    "database": None,
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "print_blob": False,
}

TRAIN = {
    "train.base": base.COMMAND,
    "train.expert": expert.COMMAND,
    "train.fusion": fusion.COMMAND,
    "train.evaluate": evaluate.COMMAND,
    "train.prepare": prepare.COMMAND,
    "train.pipeline": pipeline.COMMAND,
}


def call(words):
    """Runs a command in this process, to its exit code."""
    module, *arguments = words
    if module == "bridge":
        return bridge.__main__.main(arguments)
    return TRAIN[module].run(arguments)


def judged(words, capsys, codes):
    """What is wrong with how a command ends in this process; None if nothing is."""
    began = time.process_time(), time.monotonic()
    try:
        code = call(words)
    except SystemExit as stopped:
        code = stopped.code
    except BaseException as error:
        capsys.readouterr()
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error!s:.200} ({where.filename}:{where.lineno})"
    seconds, waited = time.process_time() - began[0], time.monotonic() - began[1]
    printed = capsys.readouterr().err
    if seconds > LONGEST or waited > HANGING:
        return f"{seconds:.1f} s, {waited:.1f} s by the clock"
    if code not in codes:
        return f"exit code {code}: {printed[:300]}"
    if code == 2 and (len(printed.splitlines()) != 1 or not printed.startswith("error: ")):
        return f"not one line: {printed[:500]}"
    return None


# Configs

WHOLE = yaml.safe_load(CONFIG) | yaml.safe_load(OPTIMIZER)
WHOLE |= {"data_dir": "none", "training": yaml.safe_load(f"{{steps: {STEPS}, {TRAINING}}}")}
WHOLE |= {
    "evaluate": {"checkpoints": ["none.pt"], "split": "test"},
    "expert": {"freeze_blocks": 1, "slow_rate": 0.5},
    "fusion": {"text_expert": "none", "trainable": ["fusion"]},
    "base_model": "none",
}
WHOLE["prepare"] |= {"engine": {"workers": 1, "kind": "local"}, "seed": 3}
PIPED = yaml.safe_load(CONFIG + STAGES) | {"data_dir": "none"}

SCALARS = st.one_of(
    st.none(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, -0.0]),
    st.floats(),
    st.text("abz09 _-:{}[]#'\"\\\0\x1b\u00e9\u4e2d\U0001f600\n\t", max_size=12),
    st.sampled_from(["null", "1e9", "0x1f", "~nobody", "*a", "&a", "!!python/name:os", "mixed"]),
    st.dates(),
    st.binary(max_size=3),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abst", max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(node, path=()):
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def change(config, path, how, value):
    """Changes one place of a config: another value, another name, none, or a further key."""
    *above, key = path
    node = config
    for name in above:
        node = node[name]
        if not isinstance(node, dict):
            return
    if key not in node or path == ("prepare", "python_library"):
        return
    if how == "value":
        node[key] = value
    elif how == "remove":
        del node[key]
    elif how == "rename":
        node[f"{value!s:.9}" if value else f"{key}x"] = node.pop(key)
    elif how == "wrap":
        node[key] = [node[key]]
    else:
        node[f"{key}_{how}"] = value


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(("value",) * 5 + ("remove", "rename", "wrap", "add")),
        VALUES,
    ),
    min_size=1,
    max_size=3,
)
BYTES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(
            [
                b"",
                b":",
                b"\t",
                b"\xff",
                b"\0",
                b"- ",
                b"&a ",
                b"*a",
                b"{",
                b"]",
                b"\n",
                b"  ",
                b"%",
                b"!!set ",
                b"\xef\xbb\xbf",
                b"? ",
                b"| ",
                b"'",
                b"---\n",
                b"<<: ",
            ]
        ),
        st.integers(0, 6),
    ),
    max_size=3,
)
OPTIONS = st.lists(
    st.sampled_from(
        ["--resume", "--overwrite", "--seed", "-1", "--training.steps=x", "--model", "x.yaml", "--",
         "--optimizer.learning_rate", "nan", "--prompts+=a", "--config", "\udcff", "",
         "--skip-steps"]
    ),
    max_size=2,
)  # fmt: skip


def malformed(config, changes, edits):
    config = json.loads(json.dumps(config))
    for number, how, value in changes:
        paths = list(places(config))
        change(config, paths[number % len(paths)], how, value) if paths else None
    content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    for place, inserted, removed in edits:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + removed :]
    return content


def test_configs(tmp_path, monkeypatch, capsys, figure):
    monkeypatch.chdir(tmp_path)
    wrong, seconds = {}, []

    @settings(max_examples=CONFIGS, **MANY)
    @given(st.sampled_from(list(TRAIN)), CHANGES, BYTES, OPTIONS)
    def tried(module, changes, edits, options):
        content = malformed(PIPED if module == "train.pipeline" else WHOLE, changes, edits)
        (tmp_path / "c.yaml").write_bytes(content)
        began = time.process_time()
        found = judged([module, "--config", "c.yaml", *options], capsys, (2,))
        seconds.append(time.process_time() - began)
        if found:
            wrong.setdefault(found[-60:], (found, module, options, content))

    tried()
    figure(
        f"malformed configs: {len(seconds) - len(wrong)} of {len(seconds)} end with one line, the "
        f"longest in {max(seconds):.1f} s"
    )
    assert not wrong, "\n\n".join(map(str, wrong.values()))


# Run folders

JUNK = st.sampled_from(
    [b"", b"\0", b"{}", b"[]", b"null", b"5", b'"a"', b"{", b"\xff\xfe", b"PK\3\4", b"[1, {}]\n",
     b'{"step": "a"}\n', b'{"loss": 1}\n', b"a: b\n", b"- a\n",
     b'{"format": "mmrec-jax checkpoint"}',
     b"[" * 3000, b"9" * 5000, b"NaN", b'{"step": NaN, "loss": null}\n', b"\n\n",
     b'{"step": 1e400}']
)  # fmt: skip
NAMES = st.sampled_from(
    ["state/11", "state/abc", "state/010", "state/-1", "state/12.partial", "state/\u0663",
     "state/9999999999999999999999", "base_model_step_99.pt", "base_model_step_\u0663.pt",
     "base_model_step_0010.pt", "base_model_step_.pt", "text_expert_step_4.pt", "x", "state",
     ".config.yaml.0123abcd.tmp", "tensorboard", "tensorboard/x", "metrics.jsonl", "config.yaml",
     "tokenizer.json", "environment.json", "report.json", "loss.png", "caf\udce9",
     "state/10/arrays/x", f"base_model_step_{'9' * 5000}.pt"[:200]]
)  # fmt: skip
KINDS = st.sampled_from(
    [
        "content",
        "content",
        "content",
        "json",
        "json",
        "json",
        "folder",
        "link",
        "pipe",
        "remove",
        "flip",
        "cut",
        "new",
        "new",
        "swap",
    ]
)
DAMAGES = st.lists(
    st.tuples(KINDS, st.integers(0, 10**6), JUNK, NAMES, VALUES, st.floats(0, 1)),
    min_size=1,
    max_size=3,
)


def clear(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def damage(run, kind, number, junk, name, value, share):
    """Does one thing to a run's folder."""
    listed = sorted(run.rglob("*"))
    if not listed:
        return
    path = listed[number % len(listed)]
    if kind == "new":
        path = run / name
        if not path.parent.is_dir():
            return
        clear(path)
        path.mkdir() if number % 3 == 0 else path.write_bytes(junk)
        return
    if kind == "json":
        texts = ("*.json", "*.jsonl", "config.yaml")
        listed = sorted(path for text in texts for path in run.rglob(text) if path.is_file())
        if not listed:
            return
        path = listed[number % len(listed)]
        edit(path, number, value)
        state = path.parent
        if path.name == "checkpoint.json" and (state / "manifest.json").is_file() and number % 5:
            (state / "manifest.json").unlink()  # as a program writes it that signs what it forges
            (state / "manifest.json").write_text(json.dumps(describe_files(state)))
    elif kind in ("content", "flip", "cut"):
        if not path.is_file():
            return
        content = bytearray(path.read_bytes())
        if kind == "content":
            content = junk
        elif kind == "cut":
            content = content[: int(share * len(content))]
        elif content:
            content[min(int(share * len(content)), len(content) - 1)] ^= 1 << number % 8
        path.write_bytes(content)
    elif kind == "swap":
        other = listed[(number // 7) % len(listed)]
        if path.is_file() and other.is_file() and not path.samefile(other):
            shutil.copy(other, path)
    else:
        clear(path)
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/proc/self" if number % 2 else "nowhere")
        elif kind == "pipe":
            os.mkfifo(path)


def edit(path, number, value):
    """Changes one value of a JSON or YAML file."""
    text = path.read_text(errors="replace")
    try:
        content = (
            [json.loads(line) for line in text.splitlines()]
            if path.suffix == ".jsonl"
            else yaml.safe_load(text)
        )
    except (ValueError, yaml.YAMLError):
        return
    node, steps = content, number
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key, steps = keys[steps % len(keys)], steps // max(len(keys), 1)
        if not (isinstance(node[key], dict | list) and node[key]) or steps % 4 == 3:
            node[key] = value
            break
        node = node[key]
    with_text = {"default": str}
    if path.suffix == ".jsonl" and isinstance(content, list):
        path.write_text("".join(json.dumps(r, **with_text) + "\n" for r in content))
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(content), errors="replace")
    else:
        path.write_text(json.dumps(content, **with_text))


LINES = {
    "resumed": ((*BASE, "--run_dir", "RUNS", "--resume"), (0, 2)),
    "overwritten": ((*BASE, "--run_dir", "RUNS", "--overwrite"), (0, 2)),
    "begun": ((*BASE, "--run_dir", "RUNS"), (0, 2)),
    "inspected": (("bridge", "inspect", "RUN"), (0, 1, 2)),
    "converted": (("bridge", "to-torch", "RUN", "x.pt"), (0, 2)),
    "converted from": (("bridge", "from-torch", "PT", "y"), (0, 2)),
    "verified": (("bridge", "verify", "RUN", "RUN"), (0, 2)),
}  # fmt: skip
COMMANDS = st.sampled_from(["resumed"] * 8 + list(LINES))


def test_run_folders(folder, whole, tmp_path, monkeypatch, capsys, figure):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(stage_command, "report", lambda *_: None)
    monkeypatch.setattr(session, "train", lambda *_: None)
    wrong, seconds = {}, []
    run = tmp_path / "runs" / "checkpoints_base"

    @settings(max_examples=FOLDERS, **MANY)
    @given(COMMANDS, DAMAGES)
    def tried(how, damages):
        for name in ("runs", "y"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / "x.pt").unlink(missing_ok=True)
        shutil.copytree(whole, run)
        for each in damages:
            damage(run, *each)
        words, codes = LINES[how]
        replaced = {
            "RUNS": run.parent,
            "RUN": run,
            "PT": run / f"base_model_step_{STEPS}.pt",
            "x.pt": tmp_path / "x.pt",
            "y": tmp_path / "y",
        }
        began = time.process_time()
        found = judged([str(replaced.get(word, word)) for word in words], capsys, codes)
        seconds.append(time.process_time() - began)
        if found:
            wrong.setdefault(found[-60:], (found, how, damages))

    tried()
    figure(
        f"malformed run folders: {len(seconds) - len(wrong)} of {len(seconds)} end with one line "
        f"or as if nothing were wrong, the longest in {max(seconds):.1f} s"
    )
    assert not wrong, "\n\n".join(map(str, wrong.values()))


def test_some_of_them_in_real_processes(folder, whole, tmp_path, figure):
    """One fault in each file, through the real commands, training and report included."""
    wrong, tried, longest = [], 0, 0.0
    run = tmp_path / "runs" / "checkpoints_base"
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*.*")) if path.is_file()]
    for junk in (b"", b"[]\n", b"\xff{"):
        for file in files[::3]:
            shutil.rmtree(run.parent, ignore_errors=True)
            shutil.copytree(whole, run)
            (run / file).write_bytes(junk)
            began = time.monotonic()
            done = warm_python.run(folder, *BASE, "--run_dir", str(run.parent), "--resume")
            tried += 1
            if done.returncode:
                longest = max(longest, time.monotonic() - began)
            if done.stderr and (found := one_line(done, (0, 2))):
                wrong.append(f"{file} {junk}: {found}")
    figure(
        f"malformed run folders, real processes: {tried - len(wrong)} of {tried}, the longest "
        f"error after {longest:.1f} s"
    )
    assert not wrong, "\n".join(wrong)
