"""The n-gram models, by hand."""

import numpy as np
import pytest

from train.scoring.baselines import NGramBaselines


def test_baselines_are_distributions_and_by_hand():
    tokens = np.array([0, 1, 0, 1, 0, 2])
    baselines = NGramBaselines(tokens, 4)
    every = np.arange(4)
    unigram = np.exp(-baselines.unigram_losses(every))
    np.testing.assert_allclose(unigram, [4 / 10, 3 / 10, 2 / 10, 1 / 10])
    for previous in range(4):
        row = np.exp(-baselines.bigram_losses(np.full(4, previous), every))
        assert row.sum() == pytest.approx(1)
    # After 0 came 1 twice and 2 once: two followers share two of the five parts.
    row = np.exp(-baselines.bigram_losses(np.zeros(4, int), every))
    np.testing.assert_allclose(row, (np.array([0, 2, 1, 0]) + 2 * unigram) / 5)
    # Nothing ever followed 2 or 3.
    np.testing.assert_allclose(np.exp(-baselines.bigram_losses(np.full(4, 3), every)), unigram)
