"""The one formula of the learning rate, for numbers and for traced arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge import SchedulerState, warmup_cosine


@pytest.mark.parametrize(("warmup", "total"), [(6, 24), (0, 24), (24, 24)])
def test_the_formula_is_the_same_on_host_and_device(warmup, total):
    steps = np.arange(30)
    on_host = warmup_cosine(steps, warmup, total)
    on_device = jax.jit(lambda step: warmup_cosine(step, warmup, total, jnp))(steps)
    np.testing.assert_allclose(on_device, on_host, atol=1e-6)


def test_the_formula_is_pytorchs():
    for step in range(30):
        state = SchedulerState(base_lr=1.0, warmup_steps=6, total_steps=24, step=step)
        assert float(warmup_cosine(step, 6, 24)) == pytest.approx(state.learning_rate(), abs=1e-12)
