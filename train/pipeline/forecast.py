"""`--plan` of a pipeline: all its stages in miniature, and what is made of them."""

import dataclasses
import time
from pathlib import Path

import train
from train.checkpoints.language_model import stage_folder
from train.data.batches import Windows
from train.data.token_files import DOMAINS
from train.forecast.figures import Forecast, print_forecast
from train.forecast.single import miniature_folder
from train.forecast.training import SCORED, batches_of, measure, size_of
from train.pipeline.export import EXPORT, export
from train.pipeline.report import report
from train.pipeline.samples import sample
from train.pipeline.scores import evaluate
from train.run.header import print_header
from train.run.memory import device_peak_bytes, peak_bytes
from train.settings.pipeline_config import PipelineConfig
from train.stages.all_stages import STAGES
from train.system.allocator import keep_freed_memory

_SCORED_TIMES = {"fusion": 3}
"""How many models the scores have of a stage, counted in the time of one: the fusion also with each
expert alone, which takes half, and at step 0."""


def plan_pipeline(pipeline: PipelineConfig) -> None:
    """Prints what all stages will take, those that are complete too; writes nothing into run_dir.

    Raises:
        UserError: the data are not prepared, a stage could not begin, or there is no room.
    """
    keep_freed_memory()
    for name, kind in STAGES.items():
        config = pipeline.stage(name)
        print_header(config, kind(config), stage_folder(config, name))
    with miniature_folder() as folder:
        forecast = _forecast(pipeline, folder)
    print_forecast(forecast, Path(pipeline.run_dir))


def _forecast(pipeline: PipelineConfig, folder: Path) -> Forecast:
    batches = min(filter(None, (pipeline.evaluate.batches, SCORED)))
    settings = dataclasses.replace(pipeline.evaluate, batches=batches)
    small = dataclasses.replace(pipeline, run_dir=str(folder), evaluate=settings)
    seconds: dict[str, float] = {}
    disk: dict[str, int] = {}
    begun, scoring = train.BEGUN, 0.0
    for name, kind in STAGES.items():
        config = small.stage(name)
        measured = measure(config, kind(config), stage_folder(config, name), begun)
        seconds[name] = sum(measured.seconds.values())
        disk[name] = sum(measured.disk().values())
        scoring += _more_batches(pipeline, name) * measured.score_seconds
        del measured  # as in the real run, the next stage finds its memory free
        begun = time.monotonic()
    evaluate(small)
    begun, seconds["evaluate"] = time.monotonic(), time.monotonic() - begun + scoring
    sample(small)
    begun, seconds["samples"] = time.monotonic(), time.monotonic() - begun
    export(small)
    report(small)
    seconds["export and report"] = time.monotonic() - begun
    disk["export"] = size_of(folder / EXPORT)
    disk["all else"] = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Forecast(seconds, peak_bytes(), device_peak_bytes(), disk)


def _more_batches(pipeline: PipelineConfig, name: str) -> int:
    """How many batches more the scores have of a stage's models than the miniature's scores."""
    config, settings = pipeline.stage("fusion"), pipeline.evaluate
    more = 0
    for domain in DOMAINS:
        windows = Windows(config.data_dir, domain, settings.split, config.training.sequence_length)
        more += batches_of(windows, config.training, settings.batches)
        more -= batches_of(windows, config.training, SCORED)
    return _SCORED_TIMES.get(name, 1) * max(more, 0)
