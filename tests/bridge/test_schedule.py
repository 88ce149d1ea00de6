"""The one formula of the learning rate, for numbers and for traced arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge import SchedulerState, warmup_cosine


@pytest.mark.parametrize(("warmup", "total"), [(6, 24), (0, 24), (24, 24)])
@pytest.mark.parametrize("options", [{}, {"start_factor": 0.01, "floor": 0.1}])
def test_the_formula_is_the_same_on_host_and_device(warmup, total, options):
    steps = np.arange(30)
    on_host = warmup_cosine(steps, warmup, total, **options)
    on_device = jax.jit(lambda step: warmup_cosine(step, warmup, total, jnp, **options))(steps)
    np.testing.assert_allclose(on_device, on_host, atol=1e-6)


@pytest.mark.parametrize(("start_factor", "floor"), [(0.1, 0.0), (0.1, 0.1), (0.02, 0.3)])
def test_the_formula_is_pytorchs(start_factor, floor):
    for step in range(60):
        state = SchedulerState(
            base_lr=1.0,
            warmup_steps=6,
            total_steps=24,
            step=step,
            min_lr=floor,
            start_factor=start_factor,
        )
        share = warmup_cosine(step, 6, 24, start_factor=start_factor, floor=floor)
        assert float(share) == pytest.approx(state.learning_rate(), abs=1e-12)
