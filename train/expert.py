"""`python -m train.expert --config C`: trains an expert, starting from the base."""

from train.reports.run_report import report
from train.run.session import open_session
from train.settings import cli
from train.settings.config import Config
from train.stages.expert import ExpertStage


def main(config: Config, *, resume: bool, overwrite: bool) -> None:
    """Trains the expert of training.domain and reports on it; raises what `open_session` raises."""
    session = open_session(config, ExpertStage(config), resume=resume, overwrite=overwrite)
    session.train()
    report(session, config)


if __name__ == "__main__":
    cli.run(main, "Train an expert, starting from the base model.", cli.add_run_flags)
