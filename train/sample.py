"""`python -m mmrec_jax.generate --checkpoint RUN`: samples from a trained run."""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmrec_jax.generate import generate
from train import checkpoint, cli
from train.config import Config
from train.errors import UserError
from train.networks import network_of
from train.parameters import Network
from train.run_folder import CONFIG, newest_step
from train.tokenizer import Tokenizer
from train.tokens import TOKENIZER


def load_run(run: Path) -> tuple[Network, Tokenizer, Config]:
    """The model of a run's newest state, the run's tokenizer and config.

    Raises:
        UserError: the folder is not a run's, or a file of it is missing or damaged.
    """
    step = newest_step(run)
    if not (run / CONFIG).is_file():
        raise UserError(
            f"{run} is an import, without {CONFIG} and {TOKENIZER}: go on with it once (python -m "
            "train.base --resume), which writes them"
        )
    config = cli.parse_config(["--config", str(run / CONFIG)], "")
    if config.base_model is None:  # wherever the run was moved, its stages lie side by side
        config = dataclasses.replace(config, run_dir=str(run.resolve().parent))
    model = network_of(checkpoint.restore(run, step), config)
    return model, Tokenizer.load(run / TOKENIZER), config


def continuation(
    model: Network,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    chunk_size: int | None,
    length: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> str:
    """What the model writes at the beginning of a document after a prompt.

    Raises:
        UserError: the model cannot be sampled from, or an option is out of its range.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError("the prompt is not UTF-8 text: give it in that encoding") from error
    ids = np.array([[tokenizer.end_of_text, *tokenizer.encode(prompt)]], np.int32)
    try:
        tokens = generate(
            model,
            jnp.asarray(ids),
            length,
            key=jax.random.key(seed),
            temperature=temperature,
            top_k=top_k,
            chunk_size=chunk_size,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return tokenizer.decode(np.asarray(tokens[0]).tolist())


def command() -> None:
    """The command line: prints the prompt and what the model makes of it."""
    parser = argparse.ArgumentParser(
        prog="python -m mmrec_jax.generate",
        description="Go on from a prompt with a trained run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="a run's folder")
    parser.add_argument("--prompt", default="", help="text to go on from")
    parser.add_argument("--length", type=int, default=200, help="tokens to sample")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    parser.add_argument("--top_k", type=int, help="sample from the k likeliest tokens only")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")

    def main(options: argparse.Namespace) -> None:
        model, tokenizer, config = load_run(Path(options.checkpoint))
        text = continuation(
            model,
            tokenizer,
            options.prompt,
            chunk_size=config.training.chunk_size,
            length=options.length,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=options.seed,
        )
        print(options.prompt + text)

    cli.exit_after(lambda: main(cli.parse_options(parser)))
