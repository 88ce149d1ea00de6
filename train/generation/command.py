"""`python -m mmrec_jax.generate --checkpoint RUN`: continues prompts with a trained run."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmrec_jax.sampling import Sampling
from train.checkpoints import run_states
from train.checkpoints.language_model import network_of
from train.data.data_folder import TOKENIZER
from train.data.tokenizer import Tokenizer
from train.generation.stop_strings import Continuation
from train.generation.texts import continuations
from train.run.run_folder import CONFIG, newest_step
from train.settings.cli import parse_config
from train.settings.config import Config
from train.step.frozen import Network
from train.system.allocator import keep_freed_memory
from train.system.command_line import exit_after, parse_options
from train.system.errors import UserError


def command() -> None:
    """Prints the prompts of the command line with their continuations."""
    parser = argparse.ArgumentParser(
        prog="python -m mmrec_jax.generate",
        description="Continue prompts with a trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--prompt", action="append", help="text to continue; give it again for more texts"
    )
    parser.add_argument("--length", type=int, default=200, help="sample at most so many tokens")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="divides the scores; 0 always takes the likeliest token",
    )
    parser.add_argument("--top_k", type=int, help="sample only from the k likeliest tokens")
    parser.add_argument(
        "--top_p",
        type=float,
        help="sample only from the likeliest tokens that together have this probability",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument(
        "--stop", action="append", default=[], help="end before this text; repeatable"
    )

    def main(options: argparse.Namespace) -> None:
        try:
            sampling = Sampling(
                temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
            )
        except ValueError as error:
            raise UserError(f"--{error}") from error
        keep_freed_memory()
        model, tokenizer, config = load_run(Path(options.checkpoint))
        prompts = options.prompt or [""]
        pieces = continuations(
            model,
            tokenizer,
            prompts,
            chunk_size=config.training.chunk_size,
            length=options.length,
            sampling=sampling,
            seed=options.seed,
            stop=options.stop,
        )
        (_print_one if len(prompts) == 1 else _print_all)(prompts, pieces)

    exit_after(lambda: main(parse_options(parser)))


def load_run(run: Path) -> tuple[Network, Tokenizer, Config]:
    """The model of a run's newest state, and the run's tokenizer and config.

    Raises:
        UserError: the folder is not a run's, or a file of it is missing or damaged.
    """
    step = newest_step(run)
    if not (run / CONFIG).is_file():
        raise UserError(
            f"{run} is an import, without {CONFIG} and {TOKENIZER}: resume it once (python -m "
            "train.base --resume), which writes them"
        )
    config = parse_config(["--config", str(run / CONFIG)], "")
    if config.base_model is None:  # wherever the run was moved to, the other stages are beside it
        config = dataclasses.replace(config, run_dir=str(run.resolve().parent))
    model = network_of(run_states.restore(run, step), config)
    return model, Tokenizer.load(run / TOKENIZER), config


def _print_one(prompts: Sequence[str], pieces: Iterator[list[tuple[str, Continuation]]]) -> None:
    """Prints a text while it is sampled."""
    begun = False
    for ((added, _),) in pieces:
        print(added if begun else prompts[0] + added, end="", flush=True)
        begun = True
    print()


def _print_all(prompts: Sequence[str], pieces: Iterator[list[tuple[str, Continuation]]]) -> None:
    """Prints each text, with its number, as soon as it is finished."""
    printed = set()
    for piece in pieces:
        for index, (_, text) in enumerate(piece):
            if text.finished and index not in printed:
                printed.add(index)
                print(f"[{index + 1}] {prompts[index]}{text.text}", flush=True)
