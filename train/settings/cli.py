"""The command line that every `python -m train.X` shares: a config file, overrides, clear errors.

The `--config` file is read first. Options such as `--model.num_layers` override it, even if they
come before `--config`. A wrong setting prints one error line that says where it is, and the command
exits with code 2.
"""

import argparse
import dataclasses
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jsonargparse
import yaml

import bridge
from train.settings.command_help import EVERYDAY, add_help
from train.settings.config import Config
from train.settings.packaged import config_path
from train.settings.paths import with_home
from train.settings.words import check_words, with_single_values
from train.settings.yaml_keys import (
    is_list,
    key_lines,
    read_config,
    setting_names,
    take_single_values,
)
from train.system.command_line import exit_after, one_line, option_names, without_value
from train.system.errors import UserError

AddFlags = Callable[[jsonargparse.ArgumentParser], None]

Settings = TypeVar("Settings")


def parse_config(argv: Sequence[str], description: str) -> Config:
    """The config that a command line asks for.

    Args:
        argv: the arguments after the program's name.
        description: what the command does, for `--help`.

    Raises:
        UserError: the config file, a key or a value is wrong.
        SystemExit: `--help` or `--print_config` was asked for and is printed.
    """
    return parse_command(argv, description, Config)[0]


def parse_command(
    argv: Sequence[str],
    description: str,
    kind: type[Settings],
    add_flags: AddFlags | None = None,
    everyday: Sequence[str] = EVERYDAY,
    check: Callable[[Settings], object] | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """The config, and the values of the command's own flags, by name.

    Args:
        argv: the arguments after the program's name.
        description: what the command does, for `--help`.
        kind: the config's class.
        add_flags: adds the command's own flags to the parser, such as `--resume`.
        everyday: the settings that `--help` shows; `--help-all` shows all.
        check: raises a UserError that begins with a key where the command cannot use a value.

    Raises:
        UserError: the config file, a key or a value is wrong.
        SystemExit: `--help` or `--print_config` was asked for and is printed.
    """
    parser = build_parser(description, kind, add_flags, everyday)
    names = option_names(parser)
    argv = bridge.with_own_dashes(argv, names)
    # jsonargparse applies options in order: --config would undo an override before it.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", action="append", default=[])
    try:
        given, rest = first.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError("--config needs the path of a YAML file") from error
    if len(given.config) > 1:
        raise UserError(f"--config is given {len(given.config)} times: name one file")
    path = config_path(os.path.expanduser(given.config[0])) if given.config else None
    check_words(rest, names, has_config=path is not None)
    options = {re.split(r"[=+]", word)[0][2:] for word in rest if word.startswith("--")}
    for name in dict(_sections(kind)).keys() & options:
        raise UserError(f"--{name} takes no value of its own: set its keys, such as --{name}.key")
    lines: dict[str, int] = {}
    file_option = []
    if path is not None:
        node = read_config(path)
        lines = key_lines(node, path, kind)
        take_single_values(node, kind)
        # jsonargparse would read the file in the locale's encoding: it gets the text, in ASCII.
        file_option = [f"--config={yaml.serialize(node, Dumper=yaml.SafeDumper)}"]
    rest = with_single_values(
        rest, {key for key in setting_names(kind) if is_list(_hint(kind, key))}
    )
    try:
        values = parser.parse_args([*file_option, *rest])
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        in_file = file_option and _fails_alike(parser, file_option, error)
        places, origin = (lines, path) if in_file else ({}, "command line")
        raise UserError(_describe(error, kind, places, path, str(origin), names)) from error
    assert path is not None  # --config is required

    arguments = vars(values)
    settings: dict[str, Any] = {key: arguments.pop(key) for key in typing.get_type_hints(kind)}
    del arguments["config"]

    def place(key: str) -> str:
        if any(option == key or option.startswith(f"{key}.") for option in options):
            return "command line"
        return f"{path} line {lines[key]}" if key in lines else path

    config = _built(kind, settings, "", place)
    try:
        if check is not None:
            check(config)
    except UserError as error:
        raise UserError(f"{place(re.split('[: ]', str(error))[0])}: {error}") from error
    return config, arguments


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that takes a config.

    Attributes:
        main: called as `main(config, **flags)`.
        description: what the command does, for `--help`.
        add_flags: adds the command's own flags to the parser, such as `--resume`.
        kind: the config's class.
        everyday: the settings that `--help` shows; `--help-all` shows all.
        check: see `parse_command`.
    """

    main: Callable[..., None]
    description: str
    add_flags: AddFlags | None = None
    kind: type[Any] = Config
    everyday: Sequence[str] = EVERYDAY
    check: Callable[[Any], object] | None = None

    def parser(self) -> jsonargparse.ArgumentParser:
        """The parser of its command line."""
        return build_parser(self.description, self.kind, self.add_flags, self.everyday)

    def run(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Runs it, and exits as `exit_after` does.

        Args:
            argv: the arguments; None is the process's own.
        """

        def command() -> None:
            words = sys.argv[1:] if argv is None else argv
            config, flags = parse_command(
                words, self.description, self.kind, self.add_flags, self.everyday, self.check
            )
            self.main(config, **flags)

        exit_after(command)


def add_run_flags(parser: jsonargparse.ArgumentParser) -> None:
    """The flags of every command that trains one stage."""
    parser.add_argument("--resume", action="store_true", help="resume from the newest saved state")
    parser.add_argument("--overwrite", action="store_true", help="delete the old run first")
    parser.add_argument(
        "--plan", action="store_true", help="say what time, memory and disk it takes, and stop"
    )
    parser.add_argument(
        "--skip-steps",
        metavar="N-M",
        help="with --resume: leave out the data of steps N to M, which an error named",
    )
    parser.add_argument(
        "--extend", metavar="STEPS", help="with --resume: make so many steps more than the run has"
    )
    parser.add_argument(
        "--schedule",
        metavar="stretch|restart",
        help="with --extend: the cosine goes on to the new last step (stretch, the default), or a "
        "new warm-up and cosine begin (restart)",
    )


def build_parser(
    description: str,
    kind: type[Any],
    add_flags: AddFlags | None = None,
    everyday: Sequence[str] = EVERYDAY,
) -> jsonargparse.ArgumentParser:
    """The parser of a command that takes a config; the arguments are those of `parse_command`."""
    program = getattr(sys.modules["__main__"], "__spec__", None)
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m {program.name.removesuffix('.__main__')}" if program else None,
        description=description,
        usage="%(prog)s --config FILE [--section.key VALUE ...]",
        exit_on_error=False,
        allow_abbrev=False,
        add_help=False,
    )
    add_help(parser, everyday)
    parser.add_argument(
        "--config",
        action="config",
        required=True,
        metavar="FILE",
        help="YAML file with the settings below, or one of the project's by its name, such as "
        f"{'base' if kind is Config else 'demo'}; options override it.",
    )
    if add_flags is not None:
        add_flags(parser)
    parser.add_class_arguments(kind, as_group=False)
    sections = dict(_sections(kind))
    for action in parser._actions:
        if action.dest in sections:  # `--model FILE` would escape the checks of key_lines
            action.help = argparse.SUPPRESS
    return parser


def _sections(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, type[Any]]]:
    """The dataclasses in a dataclass, at any depth, by their dotted keys."""
    for name, hint in typing.get_type_hints(kind).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield prefix + name, hint
            yield from _sections(hint, f"{prefix}{name}.")


def _built(
    kind: type[Settings], values: Mapping[str, Any], prefix: str, place: Callable[[str], str]
) -> Settings:
    """A config of parsed values; sections are built first, so that each error can say where."""
    sections = {
        name: _built(section, vars(values[name]), f"{prefix}{name}.", place)
        for name, section in _sections(kind)
        if "." not in name and values[name] is not None
    }
    values = dict(values) | sections
    for name, value in values.items():
        key = prefix + name
        try:
            values[name] = with_home(key, value)
        except ValueError as error:
            raise UserError(f"{place(key)}: {key}: {error}") from error
    _refuse_nulls(values, kind, prefix, place)
    try:
        return kind(**values)
    except ValueError as error:
        message = f"{prefix}{error}"
        raise UserError(f"{place(message.split()[0])}: {message}") from error


def _fails_alike(
    parser: jsonargparse.ArgumentParser, argv: Sequence[str], error: Exception
) -> bool:
    """Whether these arguments alone already give the error."""
    try:
        parser.parse_args(argv)
    except (argparse.ArgumentError, TypeError, ValueError) as other:
        return str(other) == str(error)
    return False


def _refuse_nulls(
    values: dict[str, Any], kind: type, prefix: str, place: Callable[[str], str]
) -> None:
    """Refuses null where the type does not allow it; jsonargparse allows it everywhere."""
    for name, hint in typing.get_type_hints(kind).items():
        if values[name] is None and type(None) not in typing.get_args(hint):
            key = prefix + name
            raise UserError(f"{place(key)}: {key}: expected {bridge.type_in_words(hint)}, not null")


def _describe(
    error: Exception,
    kind: type[Any],
    lines: dict[str, int],
    path: str | None,
    origin: str,
    names: Sequence[str],
) -> str:
    """jsonargparse's message in one line, with the place of the key and readable types."""
    message = one_line(str(error)).replace('in "<unicode string>", ', "")
    wrong = re.search(r'Parser key "([\w.]+)":.* (?:Got|Given) value: ?(.*)', message)
    if wrong:
        key, value = wrong[1], "null" if wrong[2] == "None" else wrong[2]
        line = f" line {lines[key]}" if key in lines else ""
        expected = bridge.type_in_words(_hint(kind, key))
        return f"{origin}{line}: {key}: expected {expected}, not {value}"
    missing = re.search(r"arguments are required: (.*)", message)
    if missing:
        if path is None:
            return "--config FILE is required: the YAML file of the settings, see --help"
        return f"{path}: {missing[1]} must be set there or by an option"
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown:
        return bridge.unknown_argument(unknown[1], names)
    return without_value(message) or f"{origin}: {message}"


def _hint(kind: type[Any], key: str) -> Any:
    hint: Any = kind
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name)
    return hint
