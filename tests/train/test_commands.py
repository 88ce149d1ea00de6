"""The one command of an installed package (train/commands.py), outside the repository."""

import os
import subprocess
import sys
import tomllib

import pytest
from helpers.paths import ROOT
from helpers.wheels import installed_wheel

import mmrec as mmrec_in_python

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def mmrec(tmp_path_factory):
    """Runs the command of an installed wheel, in a folder that has a train.py of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    site = installed_wheel(folder)
    here = folder / "here"
    here.mkdir()
    (here / "train.py").write_text("raise SystemExit('not this one')")

    def run(*words, **variables):
        done = subprocess.run(
            [sys.executable, str(site / "bin" / "mmrec"), *words],
            cwd=here,
            env=os.environ | {"PYTHONPATH": str(site)} | variables,
            capture_output=True,
            encoding="utf-8",
        )
        return done.returncode, done.stdout, done.stderr

    run.folder = here
    return run


def test_it_lists_its_commands(mmrec):
    code, printed, _ = mmrec()
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("  ")] == [
        *("init", "prepare", "pipeline", "base", "expert", "fusion", "evaluate", "generate"),
        *("harness", "bridge", "completion"),
    ]


def test_it_says_its_version(mmrec):
    assert mmrec("--version") == (0, f"mmrec {VERSION}\n", "")
    assert mmrec_in_python.__version__ == VERSION


def test_a_config_is_written_once(mmrec):
    code, printed, _ = mmrec("init", "mine", "--config", "base")
    assert (code, printed.split(":")[0]) == (0, "written to mine/base.yaml")
    assert (mmrec.folder / "mine" / "base.yaml").read_bytes() == (
        ROOT / "configs" / "base.yaml"
    ).read_bytes()
    code, _, error = mmrec("init", "mine", "--config", "base")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: mine/base.yaml is there already")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("pipline",), "error: pipline is no command: did you mean pipeline?"),
        (("xyz",), "error: xyz is no command: expected one of init, prepare"),
        (("init", "a", "--config", "x"), "error: --config: expected one of base-22m, base, "),
        (("base", "--config", "base"), "error: "),  # there are no data
        (("bridge", "inspect", "x.pt"), "error: x.pt: cannot be read: No such file"),
        (("generate", "--checkpoint", "x"), "error: x: cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_one_line(mmrec, words, error):
    code, _, printed = mmrec(*words)
    assert (code, printed.count("\n"), printed[: len(error)]) == (2, 1, error)


def test_help_names_the_command(mmrec):
    code, printed, _ = mmrec("pipeline", "--help")
    assert (code, printed.split(" --config")[0]) == (0, "usage: mmrec pipeline")


def test_what_is_not_installed_is_named(mmrec):
    (mmrec.folder / "blocked").mkdir(exist_ok=True)
    (mmrec.folder / "blocked" / "sitecustomize.py").write_text(
        "import sys\nsys.modules['jsonargparse'] = None\n"
    )
    site = mmrec.folder.parent / "site"
    code, _, printed = mmrec("base", PYTHONPATH=f"{mmrec.folder / 'blocked'}:{site}")
    assert (code, printed) == (
        2,
        "error: mmrec base needs jsonargparse, which is not installed: "
        "pip install 'mmrec-jax[bridge,train]'\n",
    )
