"""`python -m train.prepare --config C`: makes a tokenizer and token files from text and code.

What it does is in train/preparation: prepare_data.py, and the steps in run_steps.py.
"""

import argparse

from train.preparation.prepare_data import prepare
from train.settings import cli
from train.settings.command_help import PREPARING


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help="write nothing and exit with 1 if any document is rejected",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the tables and write nothing")


COMMAND = cli.Command(
    prepare,
    "Make a tokenizer and token files from text and code.",
    _add_flags,
    everyday=("data_dir", *PREPARING, "prepare.validation_fraction", "prepare.test_fraction"),
)

if __name__ == "__main__":
    COMMAND.run()
