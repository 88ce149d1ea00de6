"""The n-grams that a trained model must beat: Kneser-Ney, counted on the model's training tokens.

A 5-gram predicts each token from the four before it. All n-grams of one length are in a sorted
array, by their keys. A key is the place of the n-gram without its last token in the array of the
length below, times the size of the vocabulary, plus the last token. So a key fits into 64 bits,
however large the vocabulary is.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[Any]


class _Table(NamedTuple):
    """The n-grams of one length; place 0 stands for all that were not seen.

    Attributes:
        keys: sorted [n-grams + 1].
        shares: an n-gram's own part of its probability [n-grams + 1].
        rests: what each context leaves to the length below [contexts].
    """

    keys: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float32]
    rests: npt.NDArray[np.float32]

    def places(self, keys: Ids) -> npt.NDArray[np.int64]:
        """Where keys are in the table, 0 where they are not."""
        found = np.searchsorted(self.keys, keys, side="right") - 1
        return np.where(self.keys[found] == keys, found, 0)


class KneserNey:
    """An interpolated n-gram with modified Kneser-Ney smoothing, as Chen and Goodman define it.

    Each count is lowered by one of three discounts. The probability that this leaves over is shared
    out as the n-gram one token shorter predicts. That one counts in how many different contexts a
    token occurs, not how often. Below the unigram is the uniform distribution, so every token has a
    probability.
    """

    def __init__(
        self, tokens: Ids, vocab_size: int, order: int, learned: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Counts a token file, which takes 100 to 150 bytes a token.

        Args:
            tokens: [N].
            vocab_size: V.
            order: 1 is a unigram, 2 a bigram.
            learned: which tokens are counted; the others are only contexts [N]. None for all.
        """
        self._vocab_size = vocab_size
        keys, suffixes = [np.zeros(1, np.int64)], [np.zeros(1, np.int32)]  # of no tokens at all
        ends = np.zeros(len(tokens) + 1, np.int32)  # the place of the n-gram that ends here
        for length in range(1, order + 1):
            every = ends[:-1].astype(np.int64) * vocab_size + tokens[length - 1 :]
            distinct, places = np.unique(every, return_inverse=True)
            keys.append(np.append(-1, distinct))
            suffixes.append(np.zeros(len(distinct) + 1, np.int32))
            suffixes[length][places + 1] = ends[1:]
            ends = (places + 1).astype(np.int32)
        counted = ends if learned is None else ends[learned[order - 1 :]]
        counts = np.bincount(counted, minlength=len(keys[order]))
        tables = []
        for length in range(order, 0, -1):
            contexts = len(keys[length - 1])
            tables.append(_smoothed(keys[length], counts, vocab_size, contexts))
            # A shorter n-gram counts the different longer ones that end with it.
            counts = np.bincount(suffixes[length][counts > 0], minlength=contexts)
        self._tables = tables[::-1]

    def losses(self, inputs: Ids, labels: Ids) -> npt.NDArray[np.float64]:
        """Cross entropy of labels [B, T] in nats, each after the inputs [B, T] up to its place."""
        contexts = np.zeros(inputs.shape, np.int64)
        probabilities = np.full(inputs.shape, 1 / self._vocab_size)
        for table in self._tables:
            places = table.places(contexts * self._vocab_size + labels)
            probabilities = table.shares[places] + table.rests[contexts] * probabilities
            before = np.pad(contexts[:, :-1], ((0, 0), (1, 0)))
            contexts = table.places(before * self._vocab_size + inputs)
        return -np.log(probabilities)


def _smoothed(
    keys: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], vocab_size: int, contexts: int
) -> _Table:
    """The table of n-grams with these counts [n-grams + 1]; `contexts` is the size of `rests`."""
    own = counts[1:]
    taken = _discounts(own)[np.minimum(own, 3)]
    places = keys[1:] // vocab_size
    totals = np.bincount(places, own, contexts)
    divisors = np.maximum(totals, 1)
    shares = np.append(0, (own - taken) / divisors[places])
    rests = np.where(totals > 0, np.bincount(places, taken, contexts) / divisors, 1)
    return _Table(keys, shares.astype(np.float32), rests.astype(np.float32))


def _discounts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """What is taken from counts of 0, 1, 2, and 3 or more [4]."""
    having = np.bincount(np.minimum(counts, 5), minlength=6)[1:5]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = having[0] / (having[0] + 2 * having[1])
        discounts = np.arange(1, 4) - np.arange(2, 5) * ratio * having[1:] / having[:3]
    # With too few n-grams for the formula, these are what KenLM falls back on.
    usable = bool(np.all(discounts > 0))
    return np.append(0, discounts if usable else [0.5, 1, 1.5])
