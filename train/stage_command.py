"""What the commands that train one stage do: lock its folder, train, and report."""

import re

from train.checkpoints.language_model import stage_folder
from train.reports.run_report import report
from train.run.run_folder import locked_runs
from train.run.session import NO_STEPS, open_session
from train.settings.config import Config
from train.stages.stage import Stage
from train.system.errors import UserError


def train_stage(
    config: Config, stage: Stage, *, resume: bool, overwrite: bool, skip_steps: str | None = None
) -> None:
    """Trains a stage and reports on it.

    Args:
        config: the run's config.
        stage: what to train.
        resume, overwrite: see `open_session`.
        skip_steps: the steps whose data are left out, as "N-M" or "N"; with `resume` alone.

    Raises:
        UserError: what `open_session` raises, skip_steps is wrong, or another command is at work
            on the folder.
    """
    left_out = steps_of(skip_steps)
    if left_out and not resume:
        raise UserError(
            "--skip-steps is for a run that goes on: give --resume too, or leave it out"
        )
    with locked_runs(stage_folder(config, stage.name)):
        session = open_session(config, stage, resume=resume, overwrite=overwrite, left_out=left_out)
        session.train()
        report(session, config)


def steps_of(text: str | None) -> range:
    """The steps that --skip-steps names, as "N-M" or "N"; raises UserError if it names none."""
    if text is None:
        return NO_STEPS
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    steps = range(int(found[1]), int(found[2] or found[1]) + 1) if found else NO_STEPS
    if not steps or not steps[0]:
        raise UserError(f"--skip-steps: expected steps as N-M, such as 120-122, not {text}")
    return steps
