"""Continuations of prompts: text in, text out."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrec_jax.decoding import stream
from mmrec_jax.sampling import Sampling
from train.data.tokenizer import Tokenizer
from train.generation.stop_strings import Continuation
from train.settings.config import check_seed
from train.step.frozen import Network
from train.system.errors import UserError


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
    """Samples continuations of prompts, each the beginning of a document, piece by piece.

    Each is continued as if it were alone: the seed gives it the same text, but for rounding, and
    equal prompts get equal texts.

    Yields:
        For each prompt, the text that was added and the whole continuation so far.

    Raises:
        UserError: the model cannot be sampled from, or an option is out of its range.
    """
    if length < 1:
        raise UserError(f"--length must be at least 1, not {length}")
    try:
        check_seed(seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    if "" in stop:
        raise UserError("--stop: a stop string is empty: leave it out")
    try:
        for text in (*prompts, *stop):
            text.encode()
    except UnicodeEncodeError as error:
        raise UserError("a prompt or stop string is not UTF-8: give it in that encoding") from error
    rows = [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in prompts]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row)] = row
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
    """The whole continuation of one prompt; options as for `continuations`."""
    pieces = continuations(model, tokenizer, [prompt], **options)
    return "".join(added for ((added, _),) in pieces)
