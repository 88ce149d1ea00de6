"""Real runs of the project's command lines, and small sources for them to work on."""

import os
import random
import subprocess
import sys

from helpers import warm_python
from helpers.paths import ROOT


def command(module, *arguments):
    """The command line, and the environment to run it in."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    return line, os.environ | {"PYTHONPATH": str(ROOT)}


def run_anew(folder, module, *arguments, code=0):
    """Runs a command in a Python of its own, with all that happens as it starts."""
    line, environment = command(module, *arguments)
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def run(folder, module, *arguments, code=0):
    """Runs a command in a process of its own, in which the libraries are imported already."""
    done = warm_python.run(folder, module, *map(str, arguments))
    assert done.returncode == code, done.stderr
    return done


def error(done):
    """The one line that a command which failed printed."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_sources(folder):
    """raw/text and raw/code, ten small files each."""
    words = random.Random(0)
    for domain, stem, suffix in (
        ("text", "the cat sat on a mat and saw {} ", "txt"),
        ("code", "def f{0}(x):\n    return x + {0}\n", "py"),
    ):
        (folder / "raw" / domain).mkdir(parents=True)
        for i in range(10):
            text = "".join(stem.format(words.randrange(1000)) for _ in range(60))
            (folder / "raw" / domain / f"{i}.{suffix}").write_text(text)
