"""`python -m train.prepare --config C`: makes a tokenizer and token files from text and code.

What it does is in train/preparation: prepare_data.py, and the steps in run_steps.py.
"""

import argparse

from train.preparation.prepare_data import prepare
from train.settings import cli


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help="write nothing and exit with 1 if any document is rejected",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the tables and write nothing")


if __name__ == "__main__":
    cli.run(prepare, "Makes a tokenizer and token files from text and code.", _add_flags)
