"""The recurrence and its hand-written backward pass, against the formula and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_jax import recurrence as module
from mmrec_jax.recurrence import previous_states, recurrence


def by_the_formula(z, decay, gate_z, W_h, b, h):
    """docs/model.md section 2.4, token by token, for autodiff."""
    W_g, M_h = jnp.split(W_h, 2, axis=1)

    def token(h, inputs):
        z, g, gate_z = inputs
        m = jax.nn.sigmoid(gate_z + h @ M_h)
        u = (1 - m) * h + m * z + g * h
        h = z * jax.nn.sigmoid(h @ W_g + b) + g * h + 0.1 * u
        return h, h

    by_time = (z.swapaxes(0, 1), decay.swapaxes(0, 1), gate_z.swapaxes(0, 1))
    return jax.lax.scan(token, h, by_time)[1].swapaxes(0, 1)


def value_and_gradients(function):
    def evaluate(cotangent, *arguments):
        states, vjp = jax.vjp(function, *arguments)
        return states, vjp(cotangent)

    return jax.jit(evaluate)


def inputs(batch, tokens, dim, seed):
    random = np.random.default_rng(seed)
    shape = (batch, tokens, dim)
    drawn = (
        random.normal(size=shape),
        random.uniform(0.05, 0.9, size=shape),
        random.normal(size=shape),
        random.normal(size=(dim, 2 * dim)) / np.sqrt(dim),
        random.normal(size=dim),
        random.normal(size=(batch, dim)),
    )
    return tuple(jnp.asarray(array, jnp.float32) for array in drawn)


@settings(max_examples=10, deadline=None)
@given(
    batch=st.sampled_from([1, 4]),  # few shapes, as each is compiled
    tokens=st.sampled_from([1, 12]),
    dim=st.sampled_from([1, 20]),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients(batch, tokens, dim, seed):
    arguments = inputs(batch, tokens, dim, seed)
    with jax.default_matmul_precision("highest"):
        cotangent = jax.random.normal(jax.random.key(seed + 1), arguments[0].shape)
        states, gradients = value_and_gradients(recurrence)(cotangent, *arguments)
        expected, by_autodiff = value_and_gradients(by_the_formula)(cotangent, *arguments)
        np.testing.assert_allclose(states, expected, rtol=1e-5, atol=1e-5)
        for found, wanted in zip(gradients, by_autodiff, strict=True):
            assert found.shape == wanted.shape
            assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_previous_states():
    arguments = inputs(2, 5, 3, 0)
    states = recurrence(*arguments)
    previous = previous_states(states, arguments[-1])
    np.testing.assert_array_equal(previous[:, 0], arguments[-1])
    np.testing.assert_array_equal(previous[:, 1:], states[:, :-1])


def test_bfloat16_products_leave_the_recurrence_in_float32():
    arguments = inputs(2, 9, 6, seed=0)
    cotangent = jax.random.normal(jax.random.key(1), arguments[0].shape)
    exact = value_and_gradients(recurrence)(cotangent, *arguments)
    with jax.default_matmul_precision("bfloat16"):
        found = value_and_gradients(recurrence)(cotangent, *arguments)
    jax.tree.map(np.testing.assert_array_equal, found, exact)


def test_an_accelerator_makes_several_tokens_an_iteration(monkeypatch):
    arguments = inputs(2, 7, 5, seed=3)
    cotangent = jax.random.normal(jax.random.key(4), arguments[0].shape)
    on_cpu = value_and_gradients(recurrence)(cotangent, *arguments)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    text = str(jax.make_jaxpr(lambda *given: recurrence(*given) + 0)(*arguments))
    assert f"unroll={module._UNROLLED_ON_ACCELERATORS}" in text
    unrolled = value_and_gradients(recurrence)(cotangent, *arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), on_cpu, unrolled
    )
