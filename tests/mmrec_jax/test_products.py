"""Matrix products in float32 and in bfloat16, and what a layer keeps of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmrec_jax import MMRecModel, ModelConfig
from mmrec_jax.products import dot


def rounded(x):
    return np.asarray(x.astype(jnp.bfloat16), np.float64)


@pytest.fixture(scope="module")
def operands():
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (3, 5, 7)),
        jax.random.normal(keys[1], (7, 4)),
        jax.random.normal(keys[2], (3, 5, 4)),
    )


@pytest.mark.parametrize("jit", [False, True])
def test_bfloat16_rounds_the_operands_and_nothing_else(operands, jit):
    x, kernel, d = operands

    def both(x, kernel, d):
        y, pull = jax.vjp(dot, x, kernel)
        return y, *pull(d)

    with jax.default_matmul_precision("bfloat16"):
        y, d_x, d_kernel = (jax.jit(both) if jit else both)(x, kernel, d)
    assert {array.dtype for array in (y, d_x, d_kernel)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(y, rounded(x) @ rounded(kernel), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_x, rounded(d) @ rounded(kernel).T, rtol=1e-5, atol=1e-5)
    expected = np.einsum("bti,bto->io", rounded(x), rounded(d))
    np.testing.assert_allclose(d_kernel, expected, rtol=1e-5, atol=1e-5)


def test_float32_is_the_default(operands):
    x, kernel, _ = operands
    np.testing.assert_allclose(
        dot(x, kernel), np.asarray(x, np.float64) @ np.asarray(kernel, np.float64), rtol=1e-5
    )


def test_a_compiled_model_follows_the_precision_of_the_call():
    config = ModelConfig(vocab_size=31, model_dim=12, num_layers=2, num_heads=3, ffn_dim=20)
    model = MMRecModel(config, rngs=nnx.Rngs(0))
    ids = jnp.arange(10).reshape(2, 5)
    call = nnx.jit(lambda model, ids: model(ids).logits)
    exact = call(model, ids)
    with jax.default_matmul_precision("bfloat16"):
        rough = call(model, ids)
    assert 1e-4 < np.abs(exact - rough).max() < 0.05
    np.testing.assert_array_equal(call(model, ids), exact)
