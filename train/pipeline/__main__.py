"""`python -m train.pipeline --config C`: every stage, from documents to the report.

A stage is skipped if its result is complete and its settings and inputs are the same. An
interrupted stage is resumed. run_dir/pipeline.json records which stages are complete.
"""

import jsonargparse

from bridge import is_intact, stage_folder
from train.pipeline.export import check_export, export
from train.pipeline.forecast import plan_pipeline
from train.pipeline.record import PipelineRecord
from train.pipeline.report import report
from train.pipeline.samples import sample
from train.pipeline.scores import evaluate
from train.run.run_folder import locked_runs
from train.settings import cli
from train.settings.command_help import PREPARING
from train.settings.pipeline_config import PipelineConfig
from train.stage_command import steps_of
from train.stages.all_stages import STAGES
from train.system.errors import ResumableError, UserError


def main(
    config: PipelineConfig, *, overwrite: bool, plan: bool = False, skip_steps: str | None = None
) -> None:
    """Runs what is left of the pipeline.

    Args:
        config: the pipeline's.
        overwrite: delete results of other settings.
        plan: print what all stages will take, and train nothing.
        skip_steps: the steps whose data are left out in the stage that is resumed, as "N-M".

    Raises:
        UserError: a stage cannot be run, or would replace a result of other settings; or another
            command is at work on a stage.
        KeyboardInterrupt: interrupted; the same command resumes.
    """
    left_out = steps_of(skip_steps)
    if plan:
        plan_pipeline(config)
        return
    try:
        with locked_runs(*(stage_folder(config.run_dir, name) for name in STAGES)):
            record = PipelineRecord(config, overwrite=overwrite, left_out=left_out)
            check_export(config.run_dir)  # now, and not after weeks
            record.prepare()
            for name in STAGES:
                record.train(name)
            record.make("evaluate", evaluate)
            record.make("samples", sample)
            record.make("export", export, lambda manifest: is_intact(manifest.parent))
            report(config)
    except ResumableError as error:
        raise UserError(error.advising("the same command")) from error.__cause__
    except KeyboardInterrupt:
        raise KeyboardInterrupt("and nothing is lost: the same command resumes") from None


def _add_flags(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="rerun stages whose settings or inputs have changed, deleting their old results",
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what time, memory and disk it takes, and stop"
    )
    parser.add_argument(
        "--skip-steps",
        metavar="N-M",
        help="in the stage that is resumed: leave out the data of steps N to M, which an error "
        "named",
    )


COMMAND = cli.Command(
    main,
    "Run every stage of a pipeline.",
    _add_flags,
    PipelineConfig,
    everyday=(
        "data_dir",
        "run_dir",
        "seed",
        "prompts",
        *PREPARING,
        "model.model_dim",
        "model.num_layers",
        "model.ffn_dim",
        "expert.freeze_blocks",
        "model.fusion_method",
        *(f"stages.{stage}.training.steps" for stage in STAGES),
        "stages.base.optimizer.learning_rate",
    ),
)

if __name__ == "__main__":
    COMMAND.run()
