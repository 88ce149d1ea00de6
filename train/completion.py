"""`mmrec completion SHELL`: prints what completes commands, options and settings in a shell."""

import argparse
from collections.abc import Callable
from typing import Any

import shtab

import bridge
from train import base, evaluate, expert, fusion, harness, init, prepare
from train.commands import COMMANDS
from train.generation import command as generate
from train.pipeline import __main__ as pipeline
from train.system.command_line import exit_after, parse_options

PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "init": init.build_parser,
    "prepare": prepare.COMMAND.parser,
    "pipeline": pipeline.COMMAND.parser,
    "base": base.COMMAND.parser,
    "expert": expert.COMMAND.parser,
    "fusion": fusion.COMMAND.parser,
    "evaluate": evaluate.COMMAND.parser,
    "generate": generate.build_parser,
    "harness": harness.build_parser,
    "bridge": bridge.build_parser,
    "completion": lambda: build_parser(),
}
"""What makes the parser of each command."""

_EXACTLY: dict[str, Any] = {"add_help": False, "allow_abbrev": False}


def whole_parser() -> argparse.ArgumentParser:
    """One parser that has the words of all commands; it knows their options, and no types."""
    whole = argparse.ArgumentParser(prog="mmrec", allow_abbrev=False)
    whole.add_argument("--version", action="version", help="print the version")
    commands = whole.add_subparsers()
    for name, (_, purpose) in COMMANDS.items():
        _copy(PARSERS[name](), commands.add_parser(name, help=purpose, **_EXACTLY))
    return whole


def _copy(source: argparse.ArgumentParser, target: argparse.ArgumentParser) -> None:
    """Adds the words of a parser to another one, without what they do."""
    for action in source._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            commands = target.add_subparsers()
            helps = {each.dest: each.help for each in action._choices_actions}
            for name, parser in action.choices.items():
                _copy(parser, commands.add_parser(name, help=helps.get(name), **_EXACTLY))
            continue
        names = [name for name in action.option_strings if not name.endswith("+")]
        help_text = action.help and action.help.replace("%", "%%")
        if action.nargs == 0:
            target.add_argument(*names, action="store_true", help=help_text)
            continue
        choices = list(action.choices or ())
        if isinstance(action.metavar, str) and action.metavar.startswith("{"):
            choices = action.metavar.strip("{}").split(",")  # as jsonargparse writes a setting's
        added = target.add_argument(
            *(names or [action.dest]), choices=choices or None, help=help_text
        )
        if not choices and not isinstance(action.default, int | float):
            added.complete = shtab.FILE  # type: ignore[attr-defined]


def build_parser() -> argparse.ArgumentParser:
    """The parser of its command line."""
    parser = argparse.ArgumentParser(
        prog="mmrec completion",
        description="Print what completes these commands in a shell; bash reads it from "
        "~/.local/share/bash-completion/completions/mmrec, zsh from a file _mmrec in its fpath.",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="whose")
    return parser


if __name__ == "__main__":

    def command() -> None:
        """What the command line asks for."""
        print(shtab.complete(whole_parser(), parse_options(build_parser()).shell))

    exit_after(command)
