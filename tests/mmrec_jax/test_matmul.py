"""Matrix products in float32 and in bfloat16, and what a layer keeps of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.small_models import SMALL
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmrec_jax import MMRecModel
from mmrec_jax.matmul import dot


def rounded(x):
    return np.asarray(x.astype(jnp.bfloat16), np.float64)


def exact(x):
    return np.asarray(x, np.float64)


@pytest.mark.parametrize(
    ("precision", "operand"), [("bfloat16", rounded), ("float32", exact), (None, exact)]
)
@given(
    batch=st.sampled_from([1, 3]),
    tokens=st.sampled_from([1, 5]),
    inputs=st.sampled_from([1, 4, 9]),
    outputs=st.sampled_from([1, 7]),
    jit=st.booleans(),
)
@example(batch=2, tokens=3, inputs=4, outputs=7, jit=True)
@example(batch=2, tokens=3, inputs=7, outputs=4, jit=True)
@settings(max_examples=8, deadline=None)
def test_products_and_their_gradients(precision, operand, batch, tokens, inputs, outputs, jit):
    """In bfloat16 the operands are rounded, and nothing else."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, tokens, inputs))
    kernel = jax.random.normal(keys[1], (inputs, outputs))
    d = jax.random.normal(keys[2], (batch, tokens, outputs))

    def both(x, kernel, d):
        y, pull = jax.vjp(dot, x, kernel)
        return y, *pull(d)

    with jax.default_matmul_precision(precision):
        y, d_x, d_kernel = (jax.jit(both) if jit else both)(x, kernel, d)
    assert {array.dtype for array in (y, d_x, d_kernel)} == {jnp.dtype(jnp.float32)}
    x, kernel, d = operand(x), operand(kernel), operand(d)
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_x, d @ kernel.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_kernel, np.einsum("bti,bto->io", x, d), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_model_stays_in_its_type(dtype):
    model = MMRecModel(SMALL, rngs=nnx.Rngs(0))
    ids = jnp.arange(10).reshape(2, 5)
    exact = model(ids).logits
    nnx.update(model, jax.tree.map(lambda array: array.astype(dtype), nnx.state(model)))
    logits = model(ids).logits
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits.astype("float32"), exact, atol=0.05)


def test_a_compiled_model_follows_the_precision_of_the_call():
    model = MMRecModel(SMALL, rngs=nnx.Rngs(0))
    ids = jnp.arange(10).reshape(2, 5)
    call = nnx.jit(lambda model, ids: model(ids).logits)
    exact = call(model, ids)
    with jax.default_matmul_precision("bfloat16"):
        rough = call(model, ids)
    assert 1e-4 < np.abs(exact - rough).max() < 0.05
    np.testing.assert_array_equal(call(model, ids), exact)
