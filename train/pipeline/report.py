"""Reports on a finished pipeline: the gain of each stage, and samples."""

from pathlib import Path

from bridge import MANIFEST
from train.checkpoints.language_model import stage_folder
from train.data.data_folder import TOKENIZER
from train.pipeline.export import EXPORT
from train.pipeline.samples import read_samples
from train.pipeline.scores import MODEL_NAMES, PAIRS, claims, meanings, read_scores
from train.reports.curves import Curve, tokens_of_run
from train.reports.page import PAGE, Page, StageContent, write_page
from train.reports.run_report import commands
from train.run.run_folder import newest_step
from train.scoring.scoreboard import score_table
from train.settings.pipeline_config import PipelineConfig
from train.stages.all_stages import STAGES
from train.system.terminal import console, for_terminal, print_table


def report(pipeline: PipelineConfig) -> None:
    """Prints what each stage gained, and writes report.html; raises UserError if it cannot."""
    run_dir, split = Path(pipeline.run_dir), pipeline.evaluate.split
    scores, models = read_scores(run_dir, split), read_samples(pipeline.run_dir)
    verdicts = [(claim.holds, claim.verdict) for claim in claims(scores)]
    runs = {stage: stage_folder(pipeline.stage(stage), stage) for stage in STAGES}
    files = [
        run / STAGES[stage](pipeline.stage(stage)).file(newest_step(run))
        for stage, run in runs.items()
    ]
    of_base = tokens_of_run(runs["base"])
    of_experts = tokens_of_run(runs["text"]) + tokens_of_run(runs["code"])
    starts = {"base": 0, "fusion": of_base + of_experts}
    page = Page(
        title=run_dir.name,
        lead="The whole plan: a base, a text expert and a code expert that begin as the base, a "
        "fusion of both, and the continued base, the control that the others are compared with.",
        verdicts=verdicts,
        pairs=PAIRS,
        scores=scores,
        split=split,
        meanings=meanings(pipeline),
        curves=[
            Curve(MODEL_NAMES[stage], run, starts.get(stage, of_base))
            for stage, run in runs.items()
        ],
        curves_note="Experts and control begin where the base ends, the fusion after the tokens of "
        "both experts. An expert's training loss is on its own domain alone.",
        stages={
            MODEL_NAMES[stage]: StageContent(run, *models[stage]) for stage, run in runs.items()
        },
        files=[
            *files,
            *sorted((run_dir / EXPORT).glob("*.safetensors")),
            *(Path(pipeline.data_dir) / name for name in (MANIFEST, TOKENIZER)),
        ],
        commands=commands("fusion", runs["fusion"], may_extend=False),
    )
    write_page(run_dir / PAGE, page)
    print_table(score_table(scores, f"{split} split", MODEL_NAMES["fusion"]))
    for _, verdict in verdicts:
        console.print(verdict)
    for prompt, text in models["fusion"].samples.items():
        console.print(f"fusion, prompt {prompt!r}:", style="bold")
        console.print(for_terminal(prompt + text))
    for name, file in (
        ("report", run_dir / PAGE),
        ("plot", run_dir / f"evaluation-{split}.png"),
        ("models", run_dir / EXPORT),
    ):
        console.print(f"{name}: {file}")
