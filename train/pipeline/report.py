"""Reports on a finished pipeline: the gain of each stage, and samples."""

from pathlib import Path

from train.checkpoints.language_model import stage_folder
from train.generation.speaker import load_speaker
from train.pipeline.export import EXPORT
from train.pipeline.scores import MODEL_NAMES, claims, read_scores
from train.reports.run_report import sampled
from train.scoring.score import Score
from train.scoring.scoreboard import score_table
from train.settings.pipeline_config import PipelineConfig
from train.system.errors import UserError
from train.system.terminal import console, print_table
from train.system.write import write_text


def report(pipeline: PipelineConfig) -> None:
    """Prints what each stage gained, and writes report.md; raises UserError if it cannot."""
    run_dir, split = Path(pipeline.run_dir), pipeline.evaluate.split
    scores = read_scores(run_dir, split)
    verdicts = [
        f"{claim.text if claim.holds else claim.denial}: {claim.loss:.4f} against "
        f"{claim.other:.4f} nats per token"
        for claim in claims(scores)
    ]
    domains = list(scores)
    lines = [
        f"# {run_dir.name}, {split} split",
        "",
        f"![bits per byte of every model](evaluation-{split}.png)",
        "",
        "Cross entropy in nats per token (perplexity, bits per byte), lower is better:",
        "",
        "| | " + " | ".join(domains) + " |",
        "|---|" + "---|" * len(domains),
        *(
            f"| {name} | " + " | ".join(_cell(scores[domain][name]) for domain in domains) + " |"
            for name in scores[domains[0]]
        ),
        "",
        *(f"- {verdict}" for verdict in verdicts),
    ]
    path = run_dir / "report.md"
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print_table(score_table(scores, f"{split} split", MODEL_NAMES["fusion"]))
    for verdict in verdicts:
        console.print(verdict)
    fusion, tokenizer, _ = load_speaker(stage_folder(pipeline.stage("fusion"), "fusion"))
    config = pipeline.stage("fusion")
    for index, prompt in enumerate(pipeline.prompts):
        console.print(f"fusion, prompt {prompt!r}:", style="bold")
        console.print(prompt + sampled(fusion, tokenizer, prompt, config, pipeline.seed + index))
    for name, file in (
        ("report", path),
        ("plot", run_dir / f"evaluation-{split}.png"),
        ("models", run_dir / EXPORT),
    ):
        console.print(f"{name}: {file}")


def _cell(score: Score) -> str:
    return f"{score.loss:.4f} ({score.perplexity:.1f}, {score.bits_per_byte:.4f})"
