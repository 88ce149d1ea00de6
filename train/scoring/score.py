"""The loss of a model on one split, and of n-gram baselines (see train/evaluate.py)."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmrec_jax.model import check_ids
from train.data.batches import Batch, Windows, batch_of, validation_rows
from train.data.token_files import TokenFile
from train.scoring.kneser_ney import KneserNey
from train.system.terminal import console

BASELINES = {"unigram": 1, "bigram": 2, "5-gram": 5}
"""The orders of the predictors that are counted, by their names."""

COUNTED_TOKENS = 20_000_000
"""The most training tokens that they count, so that they need 3 GB of memory at most."""

_PARTS = 32
"""The parts of a split that are scored by themselves, or fewer where it has fewer windows."""


@dataclasses.dataclass(frozen=True)
class Score:
    """How well some tokens were predicted.

    Attributes:
        loss: mean cross entropy per token in nats, the unit with the natural logarithm.
        perplexity: exp(loss).
        bits_per_byte: bits per byte of the tokens' text; unlike the others it can be compared
            between tokenizers.
        tokens: the number of predicted tokens.
        parts: the loss on each of some consecutive parts of the tokens, of about equal size; older
            files of scores have none. `margin` needs them.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    parts: Sequence[float] = ()


class Margin(NamedTuple):
    """How much lower or higher one loss is than another, on the same tokens.

    Attributes:
        difference: in nats per token; below 0 where the first one is better.
        error: the standard error of the difference; None where it is not known. It says how much
            other documents could change, not what another seed would.
    """

    difference: float
    error: float | None


def margin(score: Score, other: Score) -> Margin:
    """The margin between two scores of the same split.

    Both have the same easy and hard documents, so the error is that of the differences by part, and
    much smaller than that of either loss.
    """
    error = None
    if len(score.parts) == len(other.parts) > 1:
        differences = np.subtract(score.parts, other.parts)
        error = float(differences.std(ddof=1) / math.sqrt(len(differences)))
    return Margin(score.loss - other.loss, error)


def score(
    token_losses: Callable[[Batch], npt.ArrayLike],
    windows: Windows,
    token_bytes: npt.NDArray[np.int32],
    batch_size: int,
    limit: int = 0,
) -> Score:
    """Scores the predictions of a split.

    Args:
        token_losses: a batch -> cross entropies in nats [B, T].
        windows: the split.
        token_bytes: bytes that each token id stands for [V].
        batch_size: B; a smaller last batch is filled up, so that nothing is compiled twice.
        limit: batches at most, spread over the split; 0 reads the whole split, and so does a limit
            by which no learned token would be read.

    Raises:
        ValueError: the split has an id outside the vocabulary.
    """
    total, tokens, size = 0.0, 0, 0
    by_window: list[tuple[float, int]] = []
    for rows in validation_rows(windows, batch_size, limit):
        whole = batch_of(np.resize(rows, (batch_size, rows.shape[1])), padded=True)
        for ids in whole[:2]:
            check_ids(ids, len(token_bytes))
        learned = np.asarray(whole.weights)[: len(rows)] > 0
        of_rows = np.asarray(token_losses(whole), np.float64)[: len(rows)]
        by_window += [
            (float(row[own].sum()), int(own.sum()))
            for row, own in zip(of_rows, learned, strict=True)
        ]
        losses = of_rows[learned]
        labels = whole.labels[: len(rows)][learned]
        total += float(np.sum(losses))
        tokens += labels.size
        size += int(token_bytes[labels].sum())
    if not tokens and limit:  # the answers, which alone are learned, may lie in other windows
        return score(token_losses, windows, token_bytes, batch_size)
    loss = total / tokens
    bits = total / math.log(2)
    return Score(
        loss, math.exp(min(loss, 700)), bits / max(size, 1), tokens, _losses_of_parts(by_window)
    )


def _losses_of_parts(by_window: Sequence[tuple[float, int]]) -> list[float]:
    """The mean losses of consecutive parts; one in which nothing is learned has none."""
    parts = np.array_split(np.asarray(by_window), min(_PARTS, len(by_window)))
    return [float(sums / tokens) for sums, tokens in (part.sum(0) for part in parts) if tokens]


def baseline_scores(
    counted: TokenFile,
    splits: Mapping[str, Windows],
    token_bytes: npt.NDArray[np.int32],
    batch_size: int = 64,
    limit: int = 0,
) -> dict[str, dict[str, Score]]:
    """The scores of the BASELINES, by the split's domain and the baseline's name.

    In a window they see what a model sees: the tokens before the label, of other documents too.

    Args:
        counted: the training tokens to count.
        splits: the split of each domain.
        token_bytes, batch_size, limit: as for `score`.
    """
    tokens, learned = counted.tokens[:COUNTED_TOKENS], counted.learned
    if learned is not None:
        learned = learned[:COUNTED_TOKENS]
    part = f"the first {len(tokens):,} of " if len(tokens) < len(counted.tokens) else ""
    console.print(f"counting n-grams on {part}{len(counted.tokens):,} training tokens")
    scores: dict[str, dict[str, Score]] = {domain: {} for domain in splits}
    for name, order in BASELINES.items():
        model = KneserNey(tokens, len(token_bytes), order, learned)

        def losses(batch: Batch, model: KneserNey = model) -> npt.NDArray[np.float64]:
            return model.losses(np.asarray(batch.inputs), np.asarray(batch.labels))

        for domain, windows in splits.items():
            scores[domain][name] = score(losses, windows, token_bytes, batch_size, limit)
    return scores
