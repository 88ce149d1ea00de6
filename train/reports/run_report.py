"""Reports on a finished run: scores beside those of the baselines, samples, and files."""

import json
from pathlib import Path

from mmrec_jax.sampling import Sampling
from train.data.tokenizer import Tokenizer
from train.generation.texts import continuation
from train.run.metrics import plot_losses
from train.run.session import Session
from train.scoring.score import baseline_scores, score
from train.scoring.scoreboard import as_plain, score_table
from train.settings.config import Config
from train.step.frozen import Network
from train.system import processes
from train.system.errors import UserError
from train.system.terminal import console, for_terminal, print_table
from train.system.write import write_json

REPORT = "report.json"
SAMPLE_TOKENS = 64
SAMPLE_TEMPERATURE = 0.8


def report(session: Session, config: Config) -> None:
    """Scores the whole validation splits, samples, prints everything, and writes report.json.

    Args:
        session: a run that has finished training.
        config: its config.
    """
    console.print("scoring the validation splits")
    tokenizer, run = session.data.tokenizer, session.run
    token_bytes = tokenizer.token_bytes
    splits, batch_size = session.data.splits, config.training.batch_size
    of_model = {
        domain: score(session.token_losses, windows, token_bytes, batch_size)
        for domain, windows in splits.items()
    }
    model = session.trainer.model_of(session.trainer.devices.here(session.state))
    if not processes.is_first():
        return
    baselines = baseline_scores(session.data.counted, splits, token_bytes)
    scores = {domain: {"model": of_model[domain], **baselines[domain]} for domain in splits}
    samples = {
        prompt: sampled(model, tokenizer, prompt, config, config.seed + i)
        for i, prompt in enumerate(config.prompts)
    }

    levels = {f"5-gram, {domain}": of_domain["5-gram"].loss for domain, of_domain in scores.items()}
    plot = plot_losses(run, levels)
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
    for prompt, text in samples.items():
        console.print(f"sample, prompt {prompt!r}:", style="bold")
        console.print(for_terminal(prompt + text))
    for name, path in (
        ("checkpoint", session.checkpoint_path),
        ("plot", plot),
        ("report", run / REPORT),
    ):
        console.print(f"{name}: {path}")


def reported(run: Path, step: int) -> bool:
    """Whether a run has a report on the model after so many steps."""
    try:
        return bool(json.loads((run / REPORT).read_text(encoding="utf-8"))["step"] == step)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def sampled(model: Network, tokenizer: Tokenizer, prompt: str, config: Config, seed: int) -> str:
    """A model's continuation of a prompt, or why there is none."""
    try:
        return continuation(
            model,
            tokenizer,
            prompt,
            length=SAMPLE_TOKENS,
            sampling=Sampling(temperature=SAMPLE_TEMPERATURE),
            chunk_size=config.training.chunk_size,
            seed=seed,
        )
    except UserError as error:
        return f" [no sample: {error}]"
