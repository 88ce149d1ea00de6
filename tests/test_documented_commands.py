"""Every command in README.md and docs/ exists, and has the options that it is shown with.

The commands of the project are read by their own parsers, with the configs that they name. Those
that take no time are run. Programs of others are in a list: any other command fails.
"""

import contextlib
import io
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.paths import GOLDEN, ROOT

from bridge.__main__ import main as bridge_main
from train import base, completion, evaluate, expert, fusion, init, prepare
from train.commands import COMMANDS
from train.pipeline import __main__ as pipeline
from train.settings.cli import parse_command
from train.system.errors import UserError

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

OURS = ("python", "mmrec", "make", "pip")
OTHERS = ("source", "jupyter", "lm_eval")
"""Programs that are named as they are: nothing of ours is in them."""

PLACEHOLDERS = {"COMMAND": "inspect", "SHELL": "bash", "train.X": "train.base", "C": "my.yaml"}
"""What stands for any of several words, and one of them; other words in capitals are files."""

WITH_CONFIG = {
    "prepare": prepare.COMMAND,
    "pipeline": pipeline.COMMAND,
    "base": base.COMMAND,
    "expert": expert.COMMAND,
    "fusion": fusion.COMMAND,
    "evaluate": evaluate.COMMAND,
}
MINE = {"expert": "expert-text", "fusion": "fusion", "pipeline": "demo"}
"""The config of the project that stands for my.yaml, where it is not "base"."""


class Shown(NamedTuple):
    """A command on a page: where, its words, and the output below it if there is a prompt."""

    place: str
    words: tuple[str, ...]
    output: str | None = None


def blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """The code blocks of a page: their first line's number, language and lines."""
    language: str | None = None
    begin, lines = 0, []
    for number, line in enumerate([*text.splitlines(), "."], 1):
        fence = re.match(r"\s*```(\w*)", line)
        if language is None and line.startswith("    "):
            begin, lines = begin if lines else number, [*lines, line.strip()]
        elif fence and language is None:
            language, begin, lines = fence[1], number + 1, []
        elif fence or (language is None and lines):
            yield begin, language or "", lines
            language, lines = None, []
        elif language is not None:
            lines.append(line)


def commands_in(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """The commands of a block; one goes over several lines by a backslash or an open quote."""
    text = ""
    for line in lines:
        text += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(text, comments=True)
        except ValueError:
            text += "\n"
            continue
        text = ""
        if words:
            yield tuple(words)
    assert not text, f"{text!r} does not end"


def is_command(line: str) -> bool:
    program = line.split(" ")[0]
    return program in (*OURS, *OTHERS) or (shutil.which(program) is not None and " = " not in line)


def shown_on(page: Path) -> Iterator[Shown]:
    name, text = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")
    for number, language, lines in blocks(text):
        place = f"{name}:{number}"
        if lines[0].startswith("$ "):
            yield Shown(place, tuple(shlex.split(lines[0][2:])), "\n".join(lines[1:]))
        elif language == "bash" or (not language and is_command(lines[0])):
            yield from (Shown(place, words) for words in commands_in(lines))
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if span.split(" ")[0] in OURS and " " in span:
            yield Shown(name, tuple(shlex.split(span)))


SHOWN = list(dict.fromkeys(shown for page in PAGES for shown in shown_on(page)))


def told(words: tuple[str, ...]) -> list[str]:
    """The words with one of those that each placeholder stands for."""
    return [PLACEHOLDERS.get(word, word) for word in words]


@pytest.fixture(scope="module")
def whole():
    return completion.whole_parser()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user's files are: my.yaml, original.pt, and the project's configs."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(GOLDEN / "base" / "checkpoint.pt", folder / "original.pt")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def check_ours(whole, name, rest, folder):
    """Reads a command of the project as it would: with its config, if it names one."""
    if name == "inspect":  # `mmrec COMMAND`
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            whole.parse_args([name, *rest])
    except SystemExit as stopped:
        # In a sentence, a command may be named without what it needs.
        assert stopped.code == 0 or "arguments are required" in said.getvalue(), said.getvalue()
    if name in WITH_CONFIG and "--config" in rest:
        config = ROOT / "configs" / f"{MINE.get(name, 'base')}.yaml"
        for mine in ("my.yaml", "my/demo.yaml"):
            (folder / mine).parent.mkdir(exist_ok=True)
            shutil.copy(config, folder / mine)
        command = WITH_CONFIG[name]
        parse_command(rest, "", command.kind, command.add_flags, check=command.check)


def check(words, whole, folder):
    program, *rest = words
    if program == "srun":
        program, *rest = rest[rest.index("python") :]
    if program == "mmrec":
        check_ours(whole, rest[0], rest[1:], folder)
    elif program == "python" and rest[0] == "-m":
        names = {module: name for name, (module, _) in COMMANDS.items()}
        if rest[1] in names:
            check_ours(whole, names[rest[1]], rest[2:], folder)
        else:
            source = ROOT.joinpath(*rest[1].split("."))
            file = source / "__main__.py" if source.is_dir() else source.with_suffix(".py")
            options = [word for word in rest[2:] if word.startswith("--")]
            assert all(option in file.read_text(encoding="utf-8") for option in options)
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
    elif program == "make":
        targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert set(rest) <= {*targets, ".venv"}
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        extras = re.findall(r"\.\[([\w,]+)\]", " ".join(rest))
        assert {name for each in extras for name in each.split(",")} <= {
            *project["optional-dependencies"]
        }
    else:
        assert program in OTHERS, f"what is {program}?"


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown.place} {shown.words[:3]}")
def test_a_documented_command_exists(shown, whole, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for word in shown.words:
        if word.startswith(("configs/", "notebooks/", "docs/", "tests/")):
            assert (ROOT / word).exists(), word
    if shown.output is None:
        check(told(shown.words), whole, folder)
        return
    module, rest = shown.words[2], list(shown.words[3:])
    assert module == "train.base"
    shutil.copy(ROOT / "configs" / "base.yaml", folder / "my.yaml")
    with pytest.raises(SystemExit):
        base.COMMAND.run(rest)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).strip() == shown.output


def test_there_are_commands_on_the_pages():
    programs = [shown.words[0] for shown in SHOWN]
    assert len(SHOWN) > 70 and {*OURS, *OTHERS, "srun"} <= {*programs, "source"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("docker", "run"), "what is docker"),
        (("make", "tets"), "tets"),
        (("mmrec", "base", "--training.step=3"), "unrecognized arguments: --training.step=3"),
        (("mmrec", "bse"), "invalid choice: 'bse'"),
        (("python", "-m", "bridge", "inspct", "a"), "invalid choice: 'inspct'"),
        (("python", "-m", "train.pipeline", "--config", "configs/base.yaml"), "one stage's config"),
        (("python", "-m", "benchmarks.run", "--onyl"), "assert False"),
        (("pip", "install", ".[nothing]"), "nothing"),
    ],
)
def test_what_is_no_command_is_told(words, error, whole, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises((AssertionError, UserError), match=re.escape(error)):
        check(words, whole, folder)


def test_commands_that_take_no_time_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    in_readme = [shown.words for shown in SHOWN if shown.place.startswith("README.md:")]
    of_bridge = [words[3:] for words in in_readme if words[:3] == ("python", "-m", "bridge")]
    assert [words[0] for words in of_bridge] == ["inspect", "from-torch", "to-torch", "verify"]
    for words in of_bridge:
        assert bridge_main(words) == 0
    assert "A and B are the same" in capsys.readouterr().out
    ((_, _, mine),) = {shown.words for shown in SHOWN if shown.words[:2] == ("mmrec", "init")} - {
        ("mmrec", "init", "FOLDER")
    }
    init.main(Path(mine) / "new", init.build_parser().parse_args([mine]).config)
    assert Path(mine, "new", "demo.yaml").is_file()
