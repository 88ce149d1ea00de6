"""Scores of a split, by whatever predicts it."""

import math

import numpy as np
import pytest

from train.data.batches import Windows, validation_rows
from train.data.token_files import TokenFile
from train.scoring import score as scoring
from train.scoring.kneser_ney import KneserNey
from train.scoring.score import BASELINES, Score, baseline_scores, margin, score


class TokenWindows(Windows):
    """Windows over tokens that are in memory."""

    def __init__(self, tokens, length):
        self.tokens = np.asarray(tokens, np.uint16)
        self.length = length


def test_windows_predict_every_token_once():
    windows = TokenWindows(np.arange(23), 5)
    assert len(windows) == 4
    targets = np.concatenate([windows[i][1:] for i in range(len(windows))])
    np.testing.assert_array_equal(targets, np.arange(1, 21))
    assert windows[0].dtype == np.int32


@pytest.mark.parametrize(("limit", "expected"), [(0, 10), (2, 6), (99, 10)])
def test_validation_rows(limit, expected):
    windows = TokenWindows(np.arange(51), 5)
    batches = list(validation_rows(windows, batch_size=3, limit=limit))
    starts = [row[0] for batch in batches for row in batch]
    assert len(starts) == len(set(starts)) == expected
    assert max(starts) >= 40  # spread over the whole split
    assert all(batch.shape[1] == 6 for batch in batches)


def test_score_ignores_the_filling_of_the_last_batch():
    windows = TokenWindows(np.arange(51) % 7, 5)
    token_bytes = np.array([0, 1, 2, 3, 4, 5, 6], np.int32)
    seen = []

    def losses(batch):
        seen.append(batch.inputs.shape)
        return batch.labels.astype(float)

    result = score(losses, windows, token_bytes, batch_size=4)
    targets = np.arange(1, 51) % 7
    assert set(seen) == {(4, 5)}
    assert result.tokens == 50
    assert result.loss == pytest.approx(targets.mean())
    assert result.perplexity == pytest.approx(math.exp(targets.mean()))
    assert result.bits_per_byte == pytest.approx(
        targets.sum() / math.log(2) / token_bytes[targets].sum()
    )


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_not_learned_is_not_scored(batch_size):
    tokens = np.arange(51) % 7
    windows = TokenWindows(tokens, 5)
    windows.learned = np.random.default_rng(0).random(51) < 0.3
    token_bytes = np.array([0, 1, 2, 3, 4, 5, 6], np.int32)
    result = score(lambda batch: batch.labels.astype(float), windows, token_bytes, batch_size)
    targets = tokens[1:][windows.learned[1:]]
    assert result.tokens == len(targets) < 30
    assert result.loss == pytest.approx(targets.mean())
    assert result.bits_per_byte == pytest.approx(1 / math.log(2))


def test_a_sample_without_a_learned_token_is_not_a_perfect_score():
    windows = TokenWindows(np.arange(51) % 7, 5)
    windows.learned = np.arange(51) >= 48
    result = score(
        lambda batch: np.ones(batch.labels.shape), windows, np.ones(7, np.int32), 1, limit=1
    )
    assert result.loss == 1 and result.tokens == 3


@pytest.mark.parametrize("tokens", [[1, 2, 7, 3, 1, 2], [1, 2, 3, 3, 1, 7]])
def test_ids_outside_the_vocabulary_are_refused(tokens):
    windows = TokenWindows(tokens, 5)
    with pytest.raises(ValueError, match="from 0 to 6, not 7"):
        score(lambda batch: np.zeros(batch.labels.shape), windows, np.ones(7, np.int32), 1)


@pytest.mark.parametrize("counted", [300, 400])
def test_baselines_count_the_first_tokens_and_see_one_window(counted, monkeypatch, capsys):
    monkeypatch.setattr(scoring, "COUNTED_TOKENS", counted)
    generator = np.random.default_rng(0)
    tokens, learned = generator.integers(0, 7, 400), generator.random(400) < 0.7
    windows = TokenWindows(generator.integers(0, 7, 51), 5)
    token_bytes = np.ones(7, np.int32)
    scores = baseline_scores(
        TokenFile(tokens, np.array([400]), learned), {"text": windows}, token_bytes, batch_size=4
    )["text"]
    said = "the first 300 of 400 training" if counted < 400 else "counting n-grams on 400 training"
    assert said in capsys.readouterr().out
    assert list(scores) == ["unigram", "bigram", "5-gram"]
    for name, order in BASELINES.items():
        ngram = KneserNey(tokens[:counted], 7, order, learned[:counted])
        losses = [
            ngram.losses(w[None, :-1], w[None, 1:]) for w in map(windows.__getitem__, range(10))
        ]
        assert scores[name].loss == pytest.approx(np.mean(losses))
        assert scores[name].tokens == 50


def test_the_error_of_a_margin_is_that_of_its_differences():
    """Documents are hard or easy for both models, and that must not hide a small steady margin."""
    random = np.random.default_rng(0)
    windows = TokenWindows(np.arange(64 * 10 + 1) % 7, 10)
    hard = np.repeat(random.normal(4, 1, 64), 10).reshape(64, 10)
    noise = random.normal(0, 0.01, (64, 1))

    def scored(losses):
        rows = iter(losses.reshape(16, 4, 10))
        return score(lambda batch: next(rows), windows, np.ones(7, np.int32), batch_size=4)

    worse, better = scored(hard), scored(hard - 0.1 + noise)
    assert len(worse.parts) == 32
    assert np.mean(worse.parts) == pytest.approx(worse.loss)
    found = margin(better, worse)
    differences = (noise - 0.1).reshape(32, 2).mean(1)
    assert found.difference == pytest.approx((noise - 0.1).mean())
    assert found.error == pytest.approx(differences.std(ddof=1) / math.sqrt(32))
    assert found.error < 0.01 < np.std(worse.parts) / math.sqrt(32)
    assert margin(Score(2, 1, 1, 1), Score(1, 1, 1, 1)) == (1, None)  # of an older file
