"""The recurrence and its hand-written backward pass, against the formula and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_jax.recurrence import previous_states, recurrence


def by_the_formula(z, decay, gate_z, W_h, b, h):
    """docs/model.md section 2.4, token by token, for autodiff."""
    dim = z.shape[-1]
    states = []
    for t in range(z.shape[1]):
        m = jax.nn.sigmoid(gate_z[:, t] + h @ W_h[:, dim:])
        u = (1 - m) * h + m * z[:, t] + decay[:, t] * h
        h = z[:, t] * jax.nn.sigmoid(h @ W_h[:, :dim] + b) + decay[:, t] * h + 0.1 * u
        states.append(h)
    return jnp.stack(states, axis=1)


def inputs(batch, tokens, dim, seed):
    keys = jax.random.split(jax.random.key(seed), 6)
    shape = (batch, tokens, dim)
    return (
        jax.random.normal(keys[0], shape),
        jax.random.uniform(keys[1], shape, minval=0.05, maxval=0.9),
        jax.random.normal(keys[2], shape),
        jax.random.normal(keys[3], (dim, 2 * dim)) / jnp.sqrt(dim),
        jax.random.normal(keys[4], (dim,)),
        jax.random.normal(keys[5], (batch, dim)),
    )


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 12),
    dim=st.integers(1, 20),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients(batch, tokens, dim, seed):
    arguments = inputs(batch, tokens, dim, seed)
    with jax.default_matmul_precision("highest"):
        states, vjp = jax.vjp(recurrence, *arguments)
        expected, expected_vjp = jax.vjp(by_the_formula, *arguments)
        np.testing.assert_allclose(states, expected, rtol=1e-5, atol=1e-5)
        cotangent = jax.random.normal(jax.random.key(seed + 1), states.shape)
        for found, wanted in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
            assert found.shape == wanted.shape
            assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_previous_states():
    arguments = inputs(2, 5, 3, 0)
    states = recurrence(*arguments)
    previous = previous_states(states, arguments[-1])
    np.testing.assert_array_equal(previous[:, 0], arguments[-1])
    np.testing.assert_array_equal(previous[:, 1:], states[:, :-1])
