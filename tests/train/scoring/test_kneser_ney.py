"""The n-grams, against the definition of Kneser-Ney in dictionaries."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.scoring.kneser_ney import KneserNey


class Definition:
    """Interpolated modified Kneser-Ney, slowly: every n-gram is a tuple in a dictionary."""

    def __init__(self, tokens, vocab_size, order, learned=None):
        self.vocab_size = vocab_size
        ends = [i for i in range(order - 1, len(tokens)) if learned is None or learned[i]]
        self.counts = {order: Counter(tuple(tokens[i - order + 1 : i + 1]) for i in ends)}
        for length in range(order - 1, 0, -1):
            self.counts[length] = Counter(ngram[1:] for ngram in self.counts[length + 1])
        self.discounts = {n: self.formula(n) or {1: 0.5, 2: 1, 3: 1.5} for n in self.counts}

    def formula(self, length):
        n = Counter(self.counts[length].values())
        if not (n[1] and n[2] and n[3]):
            return None
        y = n[1] / (n[1] + 2 * n[2])
        found = {k: k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)}
        return found if min(found.values()) > 0 else None

    def probability(self, context, token, length=None):
        length = max(self.counts) if length is None else length
        if not length:
            return 1 / self.vocab_size
        shorter = self.probability(context, token, length - 1)
        after = tuple(context[len(context) - length + 1 :])
        counts = {g[-1]: c for g, c in self.counts[length].items() if g[:-1] == after}
        if len(context) < length - 1 or not counts:
            return shorter
        taken = {w: self.discounts[length][min(c, 3)] for w, c in counts.items()}
        own = counts.get(token, 0) - taken.get(token, 0)
        return (own + sum(taken.values()) * shorter) / sum(counts.values())

    def probabilities(self, inputs):
        """After each input, of every token [B, T, V]."""
        every = range(self.vocab_size)
        return np.array(
            [
                [[self.probability(row[: t + 1], w) for w in every] for t in range(len(row))]
                for row in inputs.tolist()
            ]
        )


def probabilities(ngram, inputs, vocab_size):
    """After each input, of every token [B, T, V]."""
    every = [ngram.losses(inputs, np.full(inputs.shape, w)) for w in range(vocab_size)]
    return np.exp(-np.stack(every, -1))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), vocab_size=st.integers(1, 5), order=st.integers(1, 5))
def test_every_n_gram_is_a_distribution_and_equals_the_definition(data, vocab_size, order):
    ids = st.integers(0, vocab_size - 1)
    stream = data.draw(st.lists(st.tuples(ids, st.booleans()), min_size=1, max_size=40))
    tokens = np.array([token for token, _ in stream], np.uint16)
    learned = np.array([flag for _, flag in stream]) if data.draw(st.booleans()) else None
    row = st.lists(ids, min_size=6, max_size=6)
    inputs = np.array(data.draw(st.lists(row, min_size=1, max_size=3)), np.int32)
    found = probabilities(KneserNey(tokens, vocab_size, order, learned), inputs, vocab_size)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    wanted = Definition(tokens.tolist(), vocab_size, order, learned).probabilities(inputs)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_formula_of_the_discounts_on_a_text_with_enough_n_grams():
    generator = np.random.default_rng(0)
    tokens = np.minimum(generator.geometric(0.2, 3000), 30)
    definition = Definition(tokens.tolist(), 31, 5)
    assert all(definition.formula(length) for length in (2, 3, 4, 5))
    inputs = tokens[:24].reshape(2, 12)
    found = probabilities(KneserNey(tokens, 31, 5), inputs, 31)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, definition.probabilities(inputs), rtol=1e-5)


def test_a_bigram_by_hand():
    # After 0 came 1 twice and 2 once. There are too few pairs for the formula of the discounts.
    ngram = KneserNey(np.array([0, 1, 0, 1, 0, 2]), 4, 2)
    unigram = np.array([1, 1, 1, 0]) / 3 * 0.5 + 0.5 / 4  # one token was before each
    after = (np.array([0, 2 - 1, 1 - 0.5, 0]) + 1.5 * unigram) / 3
    found = probabilities(ngram, np.array([[0, 2, 3]]), 4)[0]
    np.testing.assert_allclose(found, [after, unigram, unigram], rtol=1e-6)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_what_was_not_seen_before_a_known_context_changes_nothing(kept):
    tokens = np.random.default_rng(0).integers(0, 4, 300)
    ngram = KneserNey(tokens, 6, 5)
    known = tokens[50 : 50 + kept]
    rows = [np.append([4] * (6 - kept), known), np.append([5] * (6 - kept), known)]
    found = probabilities(ngram, np.array(rows), 6)[:, -1]
    np.testing.assert_array_equal(found[0], found[1])
    if kept:
        alone = probabilities(ngram, known[None], 6)[0, -1]
        np.testing.assert_array_equal(found[0], alone)


def test_five_tokens_of_a_large_vocabulary_do_not_overflow():
    size = 500_000  # to the fifth power, far more than 64 bits
    tokens = (size - 1 - np.random.default_rng(0).integers(0, 7, 400)).astype(np.uint32)
    window = tokens[100:113].astype(np.int32)
    definition = Definition(tokens.tolist(), size, 5)
    wanted = [definition.probability(window[:t].tolist(), window[t]) for t in range(1, 13)]
    found = np.exp(-KneserNey(tokens, size, 5).losses(window[None, :-1], window[None, 1:])[0])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
