"""`python -m mmrec_jax.generate --checkpoint RUN`: continues prompts with a trained run."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import bridge
from mmrec_jax.sampling import Sampling
from train.checkpoints.fit import check_model
from train.checkpoints.language_model import network_of
from train.data.data_folder import TOKENIZER
from train.data.tokenizer import Tokenizer
from train.generation.stop_strings import Continuation
from train.generation.texts import continuations
from train.run.run_folder import CONFIG
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
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="a run's folder, or a .pt file in one"
    )
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


def load_run(path: Path) -> tuple[Network, Tokenizer, Config]:
    """The model of a run, and the run's tokenizer and config.

    Args:
        path: the run's folder, whose newest state is read, or one of its states or .pt files.

    Raises:
        UserError: it is no run's, or a file of it is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: name a run's folder, or a .pt file in one")
    try:
        place = bridge.find_state(path) if path.is_dir() else path
        run = path if place != path else place.resolve().parent
        if path.is_dir() and place == path:
            run = run.parent  # RUN/state/N
        if not (run / CONFIG).is_file():
            raise UserError(_without_config(path, run))
        config = parse_config(["--config", str(run / CONFIG)], "")
        if config.base_model is None:  # wherever the run is now, the other stages are beside it
            config = dataclasses.replace(config, run_dir=str(run.resolve().parent))
        loaded = bridge.load(place, num_heads=config.model.num_heads, model_only=True)
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error
    try:
        check_model(config.model, loaded.model, "name a checkpoint of the run beside it")
        model = network_of(loaded, config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return model, Tokenizer.load(run / TOKENIZER), config


def _without_config(path: Path, run: Path) -> str:
    if path.is_file() and not bridge.steps(run):
        return (
            f"{path} is in no run's folder, there is no {CONFIG} and no {TOKENIZER} beside it: "
            "name a run's folder, or a .pt file in one"
        )
    return (
        f"{run} is an import, without {CONFIG} and {TOKENIZER}: resume it once (python -m "
        "train.base --resume), which writes them"
    )


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
