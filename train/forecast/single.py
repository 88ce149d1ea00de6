"""`--plan` of the commands that train one stage: what the run will take, report included."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import train
from train.checkpoints.language_model import stage_folder
from train.forecast.figures import Forecast, print_forecast
from train.forecast.training import SCORED, batches_of, measure
from train.reports.run_report import report
from train.run.header import print_header
from train.run.memory import device_peak_bytes, peak_bytes
from train.settings.config import Config
from train.stages.stage import Stage
from train.system import processes
from train.system.allocator import keep_freed_memory
from train.system.errors import ResumableError, UserError
from train.system.terminal import console


def plan_stage(config: Config, stage: Stage) -> None:
    """Prints what training a stage will take, and writes nothing into its folder.

    Raises:
        UserError: the run could not begin, or there is no room for its miniature.
    """
    keep_freed_memory()
    run = stage_folder(config, stage.name)
    print_header(config, stage, run)
    with miniature_folder() as folder:
        measured = measure(config, stage, folder / run.name, train.BEGUN)
        begun = time.monotonic()
        report(measured.session, config, SCORED)
        seconds = time.monotonic() - begun
        for windows in measured.session.data.splits.values():
            batches = batches_of(windows, config.training)
            batches -= batches_of(windows, config.training, SCORED)
            seconds += batches * measured.score_seconds
        disk = measured.disk()
    forecast = Forecast(
        measured.seconds | {"report": seconds}, peak_bytes(), device_peak_bytes(), disk
    )
    print_forecast(forecast, Path(config.run_dir))


@contextlib.contextmanager
def miniature_folder() -> Iterator[Path]:
    """A folder that is thrown away; nothing is printed meanwhile.

    Raises:
        UserError: there are several processes, or no room for a state in the folder.
    """
    if processes.count() > 1:
        raise UserError("--plan is for one process: leave out distributed.coordinator")
    was_quiet = console.quiet
    with tempfile.TemporaryDirectory(prefix="mmrec-plan-") as folder:
        console.quiet = True
        try:
            yield Path(folder)
        except ResumableError as error:
            raise UserError(
                f"--plan writes a state to {folder}: {error.args[0]}, or set TMPDIR to a folder "
                "with room"
            ) from error
        finally:
            console.quiet = was_quiet
