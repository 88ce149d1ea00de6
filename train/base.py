"""`python -m train.base --config C`: trains the base model, or resumes with `--resume`."""

from train.reports.run_report import report
from train.run.session import open_session
from train.settings import cli
from train.settings.config import Config
from train.stages.base import BaseStage


def main(config: Config, *, resume: bool, overwrite: bool) -> None:
    """Trains the base model and reports on it; see `open_session` for what is raised."""
    session = open_session(config, BaseStage(config), resume=resume, overwrite=overwrite)
    session.train()
    report(session, config)


if __name__ == "__main__":
    cli.run(main, "Train the base model on prepared data.", cli.add_run_flags)
