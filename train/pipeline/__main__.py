"""`python -m train.pipeline --config C`: every stage, from documents to the report.

A stage whose result is complete is skipped while its settings and inputs stay the same; one that
was interrupted goes on. run_dir/pipeline.json remembers both.
"""

import jsonargparse

from train.pipeline.products import evaluate, export, report
from train.pipeline.record import Plan
from train.settings import cli
from train.settings.config import PipelineConfig
from train.stages.all_stages import STAGES


def main(config: PipelineConfig, *, overwrite: bool) -> None:
    """Runs what is left of the pipeline.

    Raises:
        UserError: a stage cannot be run, or would replace a result that other settings gave.
        KeyboardInterrupt: interrupted; the same command goes on.
    """
    plan = Plan(config, overwrite=overwrite)
    try:
        plan.prepare()
        for name in STAGES:
            plan.train(name)
        plan.make("evaluate", evaluate)
        plan.make("export", export)
        report(config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("and nothing is lost: the same command goes on") from None


def _add_flags(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make stages anew whose settings or inputs have changed, deleting the old ones",
    )


if __name__ == "__main__":
    cli.run(main, "Run every stage of the plan.", _add_flags, kind=PipelineConfig)
