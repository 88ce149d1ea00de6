"""`python -m mmrec_jax.generate --checkpoint RUN`: samples from a trained run."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrec_jax.decoding import stream
from mmrec_jax.sampling import Sampling
from train.checkpoints import state as checkpoint
from train.checkpoints.language_model import network_of
from train.data.folder import TOKENIZER
from train.data.tokenizer import Tokenizer
from train.run.folder import CONFIG, newest_step
from train.settings import cli
from train.settings.config import Config, check_seed
from train.step.frozen import Network
from train.system.allocator import keep_freed_memory
from train.system.errors import UserError


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


class Continuation:
    """The text of one prompt's continuation, as its tokens come in.

    Attributes:
        text: what is sure of it; a character or a stop string may be half there at its end.
        finished: it has its length, or the document or a stop string ended it.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, stop: Sequence[str] = ()) -> None:
        """One of at most `length` tokens, that ends before the first of the `stop` strings."""
        self._tokenizer = tokenizer
        self._length = length
        self._stop = stop
        self._count = 0
        self._whole = ""
        self._open: list[int] = []  # tokens behind `_whole`, the last of which cut a character
        self.text = ""
        self.finished = False

    def add(self, tokens: Sequence[int]) -> str:
        """Takes the next tokens; returns what they add to `text`."""
        for token in tokens:
            if self.finished:
                break
            if token == self._tokenizer.end_of_text:
                self.finished = True
            else:
                self._open.append(token)
                self._count += 1
                self.finished = self._count == self._length
        text = self._whole + self._tokenizer.decode(self._open)
        if not text.endswith("\ufffd"):
            self._whole, self._open = text, []
        ends = [place for place in map(text.find, self._stop) if place >= 0]
        if ends:
            text, self.finished = text[: min(ends)], True
        if not self.finished:
            text = text.rstrip("\ufffd")  # the first bytes of a character
            begun = max((self._begun(text, stop) for stop in self._stop), default=0)
            text = text[: len(text) - begun]
        added, self.text = text[len(self.text) :], text
        return added

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many characters at the text's end may begin the stop string."""
        return max(n for n in range(len(stop)) if text.endswith(stop[:n]))


def continuations(
    model: Network,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    chunk_size: int | None,
    length: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[str] = (),
) -> Iterator[list[tuple[str, Continuation]]]:
    """What the model writes at the beginning of documents after prompts, piece by piece.

    Yields:
        For each prompt what has been added to its text, and all of it.

    Raises:
        UserError: the model cannot be sampled from, or an option is out of its range.
    """
    if length < 1:
        raise UserError(f"length must be at least 1, not {length}")
    try:
        check_seed(seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    if "" in stop:
        raise UserError("a stop string is empty: leave it out")
    try:
        for text in (*prompts, *stop):
            text.encode()
    except UnicodeEncodeError as error:
        raise UserError("a prompt or stop string is not UTF-8: give it in that encoding") from error
    rows = [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in prompts]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = own
    try:
        pieces = stream(
            model,
            jnp.asarray(ids),
            key=jax.random.key(seed),
            lengths=jnp.asarray([len(row) for row in rows]),
            sampling=sampling,
            chunk_size=chunk_size,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    texts = [Continuation(tokenizer, length, stop) for _ in prompts]
    while not all(text.finished for text in texts):
        try:
            piece = np.asarray(next(pieces)).tolist()
        except FloatingPointError as error:
            raise UserError(str(error)) from error
        yield [(text.add(tokens), text) for text, tokens in zip(texts, piece, strict=True)]


def continuation(model: Network, tokenizer: Tokenizer, prompt: str, **options: Any) -> str:
    """All that `continuations` finds for one prompt; the same options."""
    pieces = continuations(model, tokenizer, [prompt], **options)
    return "".join(added for ((added, _),) in pieces)


def command() -> None:
    """The command line: prints the prompts and what the model makes of them."""
    parser = argparse.ArgumentParser(
        prog="python -m mmrec_jax.generate",
        description="Go on from prompts with a trained run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--prompt", action="append", help="text to go on from; give it again for more texts"
    )
    parser.add_argument("--length", type=int, default=200, help="tokens to sample, at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    parser.add_argument("--top_k", type=int, help="sample from the k likeliest tokens only")
    parser.add_argument(
        "--top_p", type=float, help="sample from the likeliest tokens of this probability together"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument(
        "--stop", action="append", default=[], help="end before this text; give it again for more"
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
        (_one if len(prompts) == 1 else _many)(prompts, pieces)

    cli.exit_after(lambda: main(cli.parse_options(parser)))


def _one(prompts: Sequence[str], pieces: Iterator[list[tuple[str, Continuation]]]) -> None:
    """Prints a text while it is written."""
    begun = False
    for ((added, _),) in pieces:
        print(added if begun else prompts[0] + added, end="", flush=True)
        begun = True
    print()


def _many(prompts: Sequence[str], pieces: Iterator[list[tuple[str, Continuation]]]) -> None:
    """Prints each text, with its number, as soon as it is finished."""
    printed = set()
    for piece in pieces:
        for index, (_, text) in enumerate(piece):
            if text.finished and index not in printed:
                printed.add(index)
                print(f"[{index + 1}] {prompts[index]}{text.text}", flush=True)
