"""`mmrec COMMAND`: every command of the project by one name, wherever it is installed.

`mmrec base` is `python -m train.base`, and so on.
"""

import runpy
import sys
from importlib import metadata

from bridge import closest, use_utf8
from train.system.interrupt import end_at_once

COMMANDS = {
    "init": ("train.init", "write a config to begin with"),
    "prepare": ("train.prepare", "make a tokenizer and token files from text and code"),
    "pipeline": ("train.pipeline", "run every stage, from documents to the report"),
    "base": ("train.base", "train the base model"),
    "expert": ("train.expert", "train an expert from the base"),
    "fusion": ("train.fusion", "train the fusion of two experts"),
    "evaluate": ("train.evaluate", "compare trained models"),
    "generate": ("mmrec_jax.generate", "continue prompts with a trained model"),
    "harness": ("train.harness", "write held-out documents as tasks for lm-evaluation-harness"),
    "bridge": ("bridge", "convert, describe and compare checkpoints"),
    "completion": ("train.completion", "print what completes these commands in a shell"),
}
"""The module and the purpose of each."""

_OURS = ("mmrec_jax", "bridge", "train")


def main() -> None:
    """Runs the command that the command line names, as if it were started by itself."""
    end_at_once()
    use_utf8()
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        _print_help()
        return
    if name == "--version":
        print(f"mmrec {metadata.version('mmrec-jax')}")
        return
    if name not in COMMANDS:
        meant = closest(name, COMMANDS)
        hint = f"did you mean {meant}?" if meant else f"expected one of {', '.join(COMMANDS)}"
        sys.exit(_error(f"{name} is no command: {hint}"))
    sys.argv = [f"mmrec {name}", *rest]
    try:
        runpy.run_module(COMMANDS[name][0], run_name="__main__")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OURS:
            raise
        what = f"mmrec {name} needs {missing}, which is not installed"
        sys.exit(_error(f"{what}: pip install 'mmrec-jax[bridge,train]'"))


def _error(message: str) -> int:
    """Prints an error line; returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return 2


def _print_help() -> None:
    print("usage: mmrec COMMAND ...\n\ncommands; each has a --help of its own:")
    for name, (_, purpose) in COMMANDS.items():
        print(f"  {name:12}{purpose}")
    print("\nmmrec --version prints the version.")
