"""`python -m train.base --config C`: trains the base model; `--resume` goes on with it."""

import jsonargparse

from train import cli
from train.config import Config
from train.report import report
from train.session import Session


def main(config: Config, *, resume: bool, overwrite: bool) -> None:
    """Trains the base model and reports on it; see Session for what is raised."""
    session = Session(config, "base", "base_model", resume=resume, overwrite=overwrite)
    session.train()
    report(session, config)


def _add_flags(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on from the newest saved state")
    parser.add_argument("--overwrite", action="store_true", help="delete the run that is there")


if __name__ == "__main__":
    cli.run(main, "Train the base model on prepared data.", _add_flags)
