"""`python -m train.fusion --config C`: joins both experts and trains the parts that join them."""

from train.reports.run_report import report
from train.run.session import open_session
from train.settings import cli
from train.settings.config import Config
from train.stages.fusion import FusionStage


def main(config: Config, *, resume: bool, overwrite: bool) -> None:
    """Trains the fusion layer and reports on it; see open_session for what is raised."""
    session = open_session(config, FusionStage(config), resume=resume, overwrite=overwrite)
    session.train()
    report(session, config)


if __name__ == "__main__":
    cli.run(main, "Train the fusion of a text and a code expert.", cli.add_run_flags)
