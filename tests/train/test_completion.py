"""What completes the commands in a shell (train/completion.py), in a real one."""

import subprocess

import pytest
import shtab

from train import completion
from train.commands import COMMANDS


@pytest.fixture(scope="module")
def script():
    return shtab.complete(completion.whole_parser(), "bash")


def test_every_command_is_completed():
    assert list(completion.PARSERS) == list(COMMANDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pipe"], ["pipeline"]),
        (["--ver"], ["--version"]),
        (["base", "--training.st"], ["--training.start_from", "--training.steps"]),
        (["base", "--training.domain", "c"], ["code"]),
        (["base", "--resu"], ["--resume"]),
        (["pipeline", "--stages.fusion.training.ste"], ["--stages.fusion.training.steps"]),
        (["generate", "--top"], ["--top_k", "--top_p"]),
        (["bridge", "to-t"], ["to-torch"]),
        (["bridge", "inspect", "--js"], ["--json"]),
        (["completion", "zs"], ["zsh"]),
        (["base", "--config", "conf"], ["configs"]),
    ],
)
def test_words_are_completed(script, words, expected, tmp_path):
    (tmp_path / "configs").mkdir()
    line = f"COMP_WORDS=(mmrec {' '.join(words)}); COMP_CWORD={len(words)}; _shtab_mmrec"
    program = f'{script}\n{line}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash"], input=program, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (expected, "")
