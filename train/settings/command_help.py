"""The help of the commands that take a config: on one screen, or with every setting."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

import jsonargparse

from train.settings.paths import PATHS

EVERYDAY = (
    "data_dir",
    "run_dir",
    "seed",
    "model.model_dim",
    "model.num_layers",
    "model.ffn_dim",
    "training.steps",
    "training.batch_size",
    "training.sequence_length",
    "training.accumulation",
    "training.precision",
    "training.validate_every",
    "training.checkpoint_every",
    "optimizer.learning_rate",
    "optimizer.warmup_steps",
)
"""The settings of a training run that people change most."""

PREPARING = (
    "prepare.text",
    "prepare.code",
    "prepare.detect",
    "prepare.python_library",
    "prepare.tokenizer",
    "model.vocab_size",
)
"""The settings of a preparation that people change most."""


class _Help(argparse._HelpAction):
    """Prints a help and exits."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, shown: Sequence[str] | None, help: str
    ) -> None:
        """`shown` names the settings to show; None shows all of them."""
        super().__init__(option_strings, argparse.SUPPRESS, help=help)
        self._shown = shown

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(parser.format_help() if self._shown is None else _on_one_screen(parser, self._shown))
        parser.exit()


def add_help(parser: jsonargparse.ArgumentParser, everyday: Sequence[str]) -> None:
    """Adds --help, which shows these settings alone, and --help-all, which shows every one."""
    parser.add_argument("-h", "--help", action=_Help, shown=everyday, help="show this page")
    parser.add_argument("--help-all", action=_Help, shown=None, help="show all settings")


def _on_one_screen(parser: argparse.ArgumentParser, shown: Sequence[str]) -> str:
    """The help with the command's flags and a few settings, each described by its first sentence.

    Raises:
        KeyError: the parser has no such setting.
    """
    listed = {
        action.dest if action.dest != argparse.SUPPRESS else action.option_strings[-1]: action
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    }
    settings = {name for name, action in listed.items() if hasattr(action, "_typehint")}
    short = argparse.ArgumentParser(
        prog=parser.prog,
        usage=parser.usage,
        description=parser.description,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
        add_help=False,
    )
    flags = short.add_argument_group("options")
    for name in [name for name in listed if name not in settings and name != "print_config"]:
        _describe(flags, listed[name], str(listed[name].help))
    few = short.add_argument_group(
        f"settings that people change most, of {len(settings)}; --help-all shows all of them"
    )
    for name in shown:
        text = re.split(r"[.;] |\.$", str(listed[name].help), maxsplit=1)[0]
        default = listed[name].default
        _describe(few, listed[name], text if default in (None, []) else f"{text} ({default})")
    return short.format_help()


def _describe(group: argparse._ArgumentGroup, action: argparse.Action, text: str) -> None:
    """Adds a line that describes an option of another parser."""
    names = [name for name in action.option_strings if not name.endswith("+")]
    if action.nargs == 0:
        group.add_argument(*names, action="store_true", help=text)
        return
    metavar = action.metavar
    if metavar is None or metavar == "[ITEM,...]":
        kinds = {int: "N", float: "N", list: "TEXT"}
        metavar = "PATH" if action.dest in PATHS else kinds.get(type(action.default), "X")
    group.add_argument(*names, metavar=metavar, help=text.replace("%", "%%"))
