"""The loss in chunks and its hand-written gradient (docs/model.md section 5.1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.losses import cross_entropies

from train.step.loss import CHUNK_TOKENS, mean_loss, token_losses


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
