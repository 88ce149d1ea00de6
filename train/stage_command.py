"""What the commands that train one stage do: lock its folder, train, and report."""

import contextlib
import dataclasses
import re
from pathlib import Path

from bridge import BridgeError, compare, load_orbax, load_torch, state_folder
from train.checkpoints.language_model import stage_folder
from train.checkpoints.run_states import is_whole
from train.forecast.single import plan_stage
from train.reports.run_report import report, reported
from train.run.recorded import RESTART, STRETCH
from train.run.resume import Added, Plan, check_fits, check_may_resume
from train.run.run_folder import locked_runs
from train.run.session import NO_STEPS, open_session
from train.settings.config import Config, DistributedConfig
from train.stages.stage import Stage
from train.system import processes
from train.system.errors import UserError
from train.system.terminal import console


def train_stage(
    config: Config,
    stage: Stage,
    *,
    resume: bool,
    overwrite: bool,
    plan: bool = False,
    skip_steps: str | None = None,
    extend: str | None = None,
    schedule: str | None = None,
) -> None:
    """Trains a stage and reports on it; says so where both are done already.

    Args:
        config: the run's config.
        stage: what to train.
        resume, overwrite: see `open_session`.
        plan: prints what the run will take, and trains nothing.
        skip_steps: the steps whose data are left out, as "N-M" or "N"; with `resume` alone.
        extend: so many steps are added to those of the run; with `resume` alone.
        schedule: what becomes of its schedule then, "stretch" (the default) or "restart".

    Raises:
        UserError: what `open_session` raises, a flag is wrong, or another command is at work on the
            folder.
    """
    left_out, added = steps_of(skip_steps), added_steps(extend, schedule)
    for flag, value in (("--skip-steps", left_out), ("--extend", added)):
        if value and not resume:
            raise UserError(f"{flag} is for a run that goes on: give --resume too, or leave it out")
    if plan and resume:
        raise UserError("--plan is of a run from its start: leave out --resume")
    processes.start(**vars(config.distributed))
    if plan:
        plan_stage(config, stage)
        return
    run = stage_folder(config, stage.name)
    lock = locked_runs(run)
    with contextlib.ExitStack() as stack, processes.together():
        everywhere = dataclasses.replace(config, distributed=DistributedConfig())
        flags = (resume, overwrite, left_out, added)
        processes.check_same({"configs": repr(everywhere), "flags": repr(flags)})
        processes.by_first(lambda: stack.enter_context(lock))
        if resume and not overwrite and added is None:
            recorded = check_may_resume(config, run, stage.sections)
            steps = recorded.config.training.steps
            complete = [_is_complete(run, stage, recorded)]
            if processes.gathered(complete)[0, 0]:  # as the first process sees it
                console.print(
                    f"the run in {run} is complete, with all of its {steps} steps: to train it "
                    "further, give --resume --extend STEPS"
                )
                return
        session = open_session(
            config, stage, resume=resume, overwrite=overwrite, left_out=left_out, added=added
        )
        session.train()
        report(session, config)


def _is_complete(run: Path, stage: Stage, plan: Plan) -> bool:
    """Whether a run has made all its steps, and saved them and its report.

    Raises:
        UserError: its last state is not of this run, or the .pt file of that step does not hold the
            same.
    """
    steps = plan.config.training.steps
    state, file = state_folder(run, steps), run / stage.file(steps)
    if not (is_whole(state, steps) and file.is_file() and reported(run, steps)):
        return False
    try:
        saved = load_orbax(state)
        same = compare(saved, load_torch(file), outputs=False).agrees()
    except BridgeError as error:
        raise UserError(f"{error}; remove it, and --resume writes it again") from error
    if not same:
        raise UserError(
            f"{state} and {file} differ, so one of them is not of this run: move that one away, "
            "and --resume writes it again"
        )
    check_fits(plan, run, state, saved)
    return True


def added_steps(extend: str | None, schedule: str | None) -> Added | None:
    """What --extend and --schedule ask for; raises UserError if they are wrong."""
    if extend is None:
        if schedule is not None:
            raise UserError("--schedule is for --extend STEPS: give it too, or leave it out")
        return None
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", extend):
        raise UserError(f"--extend: expected a number of steps, such as 5000, not {extend}")
    if schedule not in (None, STRETCH, RESTART):
        raise UserError(f"--schedule: expected {STRETCH} or {RESTART}, not {schedule}")
    return Added(int(extend), schedule or STRETCH)


def steps_of(text: str | None) -> range:
    """The steps that --skip-steps names, as "N-M" or "N"; raises UserError if it names none."""
    if text is None:
        return NO_STEPS
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text)
    steps = range(int(found[1]), int(found[2] or found[1]) + 1) if found else NO_STEPS
    if not steps or not steps[0]:
        raise UserError(f"--skip-steps: expected steps as N-M, such as 120-122, not {text}")
    return steps
