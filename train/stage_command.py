"""What the commands that train one stage do: lock its folder, train, and report."""

from train.checkpoints.language_model import stage_folder
from train.reports.run_report import report
from train.run.run_folder import locked_runs
from train.run.session import open_session
from train.settings.config import Config
from train.stages.stage import Stage


def train_stage(config: Config, stage: Stage, *, resume: bool, overwrite: bool) -> None:
    """Trains a stage and reports on it.

    Args:
        config: the run's config.
        stage: what to train.
        resume, overwrite: see `open_session`.

    Raises:
        UserError: what `open_session` raises, or another command is at work on the folder.
    """
    with locked_runs(stage_folder(config, stage.name)):
        session = open_session(config, stage, resume=resume, overwrite=overwrite)
        session.train()
        report(session, config)
