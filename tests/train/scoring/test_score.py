"""The parts of a run that can be tried without training: data, states, metrics, baselines."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.losses import cross_entropies

from train.data.batches import Windows, validation_rows
from train.run.metrics import MetricsWriter, plot_losses, read_metrics
from train.scoring.baselines import NGramBaselines
from train.scoring.score import score
from train.step.loss import CHUNK_TOKENS, mean_loss, token_losses
from train.system.terminal import duration


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


def scores_and_labels(shape):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (*shape, 6))
    head = jax.random.normal(keys[1], (6, 11))
    return hidden, head, jax.random.randint(keys[2], shape, 0, 11), keys[3]


SHAPES = pytest.mark.parametrize("shape", [(1, 7), (3, CHUNK_TOKENS // 2 + 5)])


@SHAPES
def test_token_losses(shape):
    hidden, head, labels, _ = scores_and_labels(shape)
    expected = cross_entropies(hidden @ head, labels)
    np.testing.assert_allclose(token_losses(hidden, head, labels), expected, rtol=1e-5, atol=1e-5)


@SHAPES
def test_the_gradient_in_bfloat16(shape):
    hidden, head, labels, _ = scores_and_labels(shape)
    weights = jnp.ones(shape)

    def gradient(hidden, precision):
        with jax.default_matmul_precision(precision):
            return jax.grad(mean_loss, argnums=(0, 1))(hidden, head, labels, weights)

    for rough, exact in zip(gradient(hidden, "bfloat16"), gradient(hidden, "float32"), strict=True):
        assert 0 < np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()
    # It vanishes where the model is sure of the label.
    sure = 1e3 * head[:, labels].transpose(1, 2, 0)
    labels = jnp.argmax(sure @ head, axis=-1)
    sizes = [np.abs(each).max() for each in gradient(sure, "bfloat16")]
    assert max(sizes) < 1e-6


@SHAPES
def test_the_mean_loss_and_its_gradient(shape):
    hidden, head, labels, key = scores_and_labels(shape)
    weights = jax.random.uniform(key, shape).at[0, :2].set(0)

    def expected(hidden, head):
        return 3 * (cross_entropies(hidden @ head, labels) * weights).sum() / weights.sum()

    def found(hidden, head):
        return 3 * mean_loss(hidden, head, labels, weights)

    for function in (found, jax.jit(jax.value_and_grad(found))):
        value = function(hidden, head)
        value = value[0] if isinstance(value, tuple) else value
        assert float(value) == pytest.approx(float(expected(hidden, head)), rel=1e-6)
    gradients = jax.grad(found, argnums=(0, 1))(hidden, head)
    for a, b in zip(gradients, jax.grad(expected, argnums=(0, 1))(hidden, head), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


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


def test_metrics_after_the_restored_step_are_dropped(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        for step in range(1, 5):
            metrics.write(step, {"loss": 1 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a run was killed here
    with MetricsWriter(tmp_path, 2) as metrics:
        metrics.write(3, {"loss": 9.0})
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]
    assert read_metrics(tmp_path)[-1]["loss"] == 9.0
    assert list((tmp_path / "tensorboard").iterdir())


def test_plot(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        metrics.write(1, {"loss": 2.0})
        metrics.write(2, {"loss": 1.0})
        metrics.write(2, {"loss/code": 1.5})
    path = plot_losses(tmp_path, {"bigram, code": 1.2})
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.4, "9s"), (59.6, "1m 00s"), (247, "4m 07s"), (11_100, "3h 05m"), (183_700, "2d 03h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
