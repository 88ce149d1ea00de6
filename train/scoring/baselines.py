"""The n-gram models that a trained model must beat, counted on its own training tokens."""

from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[Any]

COUNTED_TOKENS = 50_000_000
"""The most training tokens to count, so that memory is bounded."""


class NGramBaselines:
    """A unigram with one added to every count, and a Witten-Bell bigram that falls back on it.

    Witten-Bell has no constant to choose: the more different tokens follow a token, the more the
    unigram counts after it.

    Attributes:
        counted: the number of training tokens that were counted.
    """

    def __init__(self, tokens: Ids, vocab_size: int) -> None:
        """Counts a token file [N]."""
        tokens = np.asarray(tokens[:COUNTED_TOKENS], np.int64)
        self.counted = len(tokens)
        self._vocab_size = vocab_size
        counts = np.bincount(tokens, minlength=vocab_size)
        self._unigram = (counts + 1) / (len(tokens) + vocab_size)
        self._pairs, self._pair_counts = np.unique(
            tokens[:-1] * vocab_size + tokens[1:], return_counts=True
        )
        previous = self._pairs // vocab_size
        self._followers = np.bincount(previous, minlength=vocab_size)
        self._previous = np.bincount(previous, self._pair_counts, minlength=vocab_size)

    def unigram_losses(self, targets: Ids) -> npt.NDArray[np.float64]:
        """Cross entropy of each token in nats, in the shape of `targets`."""
        return -np.log(self._unigram[targets])

    def bigram_losses(self, previous: Ids, targets: Ids) -> npt.NDArray[np.float64]:
        """Cross entropy in nats of each token after the one before it; all have one shape."""
        pairs = previous.astype(np.int64) * self._vocab_size + targets
        place = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        count = np.where(self._pairs[place] == pairs, self._pair_counts[place], 0)
        fallback = self._followers[previous]
        total = self._previous[previous] + fallback
        unigram = self._unigram[targets]
        seen = (count + fallback * unigram) / np.maximum(total, 1)
        return -np.log(np.where(total > 0, seen, unigram))
