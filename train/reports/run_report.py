"""Reports on a finished run: scores beside those of the baselines, samples, and files."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from bridge import MANIFEST, class_name, parameter_counts
from train.data.data_folder import TOKENIZER
from train.generation.samples import print_samples, samples_of
from train.reports.curves import Curve
from train.reports.page import PAGE, Page, StageContent, write_page
from train.run.metrics import plot_losses
from train.run.session import Session
from train.scoring.score import BASELINES, baseline_scores, score
from train.scoring.scoreboard import Scores, as_plain, score_table
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.system import processes
from train.system.terminal import console, print_table
from train.system.write import write_json

REPORT = "report.json"


def report(session: Session, config: Config, batches: int = 0) -> None:
    """Scores the whole validation splits, samples, prints everything, and writes the reports.

    Args:
        session: a run that has finished training.
        config: its config.
        batches: how much of each split the model is scored on; 0 is the whole of it.
    """
    console.print("scoring the validation splits")
    tokenizer, run = session.data.tokenizer, session.run
    token_bytes = tokenizer.token_bytes
    splits, batch_size = session.data.splits, config.training.batch_size
    of_model = {
        domain: score(session.token_losses, windows, token_bytes, batch_size, batches)
        for domain, windows in splits.items()
    }
    model = session.trainer.model_of(session.trainer.devices.here(session.state))
    if not processes.is_first():
        return
    baselines = baseline_scores(session.data.counted, splits, token_bytes)
    scores = {domain: {"model": of_model[domain], **baselines[domain]} for domain in splits}
    parameters = parameter_counts(class_name(model), model.config)
    samples = samples_of(model, tokenizer, config.prompts, config)

    levels = {f"5-gram, {domain}": of_domain["5-gram"].loss for domain, of_domain in scores.items()}
    plot = plot_losses(run, levels)
    write_page(run / PAGE, _page(session, config, scores, parameters, samples))
    # Last, because it says that the run is complete.
    document = {
        "step": int(session.state.step),
        "scores": as_plain(scores),
        "samples": samples,
    }
    write_json(run / REPORT, document)

    print_table(score_table(scores, "whole validation splits", "model"))
    for domain, of_domain in scores.items():
        better = [name for name in of_domain if of_domain[name].loss < of_domain["model"].loss]
        if better:
            *others, last = better
            names = f"{', '.join(others)} and {last}" if others else last
            console.print(f"{domain}: the model is worse than the {names}")
    print_samples(samples)
    for name, path in (
        ("checkpoint", session.checkpoint_path),
        ("plot", plot),
        ("page", run / PAGE),
        ("report", run / REPORT),
    ):
        console.print(f"{name}: {path}")


def _page(
    session: Session,
    config: Config,
    scores: Scores,
    parameters: Mapping[str, int],
    samples: Mapping[str, str],
) -> Page:
    run = session.run
    name = run.name.removeprefix("checkpoints_")
    return Page(
        title=f"{run.parent.name}: {name}",
        lead=f"One stage of training, {name}, after {int(session.state.step):,} steps on "
        f"{config.training.domain} data.",
        pairs={
            ("model", counted): f"the model's loss less that of the {counted}"
            for counted in BASELINES
        },
        scores=scores,
        split="validation",
        meanings={"model": "the model that this run has trained"},
        curves=[Curve(name, run)],
        levels={
            f"loss/{domain}": {"5-gram": of_domain["5-gram"].loss}
            for domain, of_domain in scores.items()
        },
        curves_note="Dotted is the 5-gram. A training loss far below the validation losses is "
        "overfitting.",
        stages={name: StageContent(run, parameters, samples)},
        files=[session.checkpoint_path, Path(config.data_dir) / MANIFEST, run / TOKENIZER],
        commands=commands(name, run),
    )


def commands(stage: str, run: Path, *, may_extend: bool = True) -> dict[str, str]:
    """What one may run next with a stage's run, by what that does.

    A pipeline's stage may not be extended, as later stages depend on it.
    """
    config, place = shlex.quote(str(run / CONFIG)), shlex.quote(str(run))
    checkpoints = shlex.quote(f"--evaluate.checkpoints={json.dumps([str(run)])}")
    program = "expert" if stage in ("text", "code") else stage
    extend = f"python -m train.{program} --config {config} --resume --extend 1000"
    return {
        "See what the model writes": f"python -m mmrec_jax.generate --checkpoint {place} "
        "--prompt 'def '",
        **({"Train it for 1,000 more steps": extend} if may_extend else {}),
        "Score it on the test split, beside the n-grams": f"python -m train.evaluate "
        f"--config {config} --evaluate.split test {checkpoints}",
        "Export it to PyTorch": f"python -m bridge to-torch {place} {stage}.pt",
    }


def reported(run: Path, step: int) -> bool:
    """Whether a run has a report on the model after so many steps."""
    try:
        return bool(json.loads((run / REPORT).read_text(encoding="utf-8"))["step"] == step)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
