"""`mmrec init FOLDER`: writes one of the project's configs there, with its comments."""

import argparse
from pathlib import Path

from train.settings.packaged import packaged
from train.system.command_line import exit_after, parse_options
from train.system.errors import UserError
from train.system.terminal import console


def main(folder: Path, name: str) -> None:
    """Writes a config into a folder, which is made if need be.

    Args:
        folder: where.
        name: of the config.

    Raises:
        UserError: there is no such config, or it is in the folder already.
        OSError: the file cannot be written.
    """
    configs = packaged()
    if name not in configs:
        raise UserError(f"--config: expected one of {', '.join(configs)}, not {name}")
    text, path = configs[name].read_text(encoding="utf-8"), folder / f"{name}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} is there already: edit it, or name another folder") from None
    command = "pipeline" if "\nstages:" in text else "base"
    console.print(f"written to {path}: edit it, then run: mmrec {command} --config {path}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of its command line."""
    parser = argparse.ArgumentParser(
        prog="mmrec init", description="Write a config to begin with.", allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--config", default="demo", metavar="NAME", help="which (%(default)s)")
    return parser


if __name__ == "__main__":

    def command() -> None:
        """What the command line asks for."""
        options = parse_options(build_parser())
        main(options.folder, options.config)

    exit_after(command)
