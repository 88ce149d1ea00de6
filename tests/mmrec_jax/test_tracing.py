"""The inside of the layers (mmrec_jax/tracing.py), against what a full pass says of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.small_models import SMALL

from mmrec_jax import MMRecModel
from mmrec_jax.block_forms import stack_blocks
from mmrec_jax.tracing import Trace, trace

CONFIG = dataclasses.replace(SMALL, dropout=0.0)
IDS = np.arange(22).reshape(2, 11) * 5 % SMALL.vocab_size


@pytest.fixture(scope="module")
def model():
    return MMRecModel(CONFIG, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_it_is_what_a_full_pass_computes(model, chunk_size):
    x = model.embedding(jnp.asarray(IDS))
    found = trace(model, x, chunk_size=chunk_size)
    assert {each.shape for each in found} == {(2, 2, 11, 12)}
    health = model.hidden_states(x, chunk_size=chunk_size).health
    np.testing.assert_allclose(np.abs(found.states).max((1, 2, 3)), health.max_state, rtol=1e-6)
    np.testing.assert_allclose(found.decay.mean((1, 2, 3)), health.mean_decay, rtol=1e-5)
    y = model.hidden_states(x, chunk_size=chunk_size).y
    np.testing.assert_allclose(model.norm(found.outputs[-1]), y, rtol=1e-5, atol=1e-6)


def test_the_memory_is_read_after_its_first_chunk(model):
    x = model.embedding(jnp.asarray(IDS))
    whole, cut = (trace(model, x, chunk_size=size).memory_reads for size in (None, 4))
    np.testing.assert_array_equal(whole, np.broadcast_to(whole[:, :1, :1], whole.shape))
    np.testing.assert_allclose(cut[:, :, :4], whole[:, :, :4], atol=1e-6)
    assert np.abs(cut[:, :, 4:] - whole[:, :, 4:]).min((0, 1, 3)).max() > 0


def test_stacked_blocks_are_the_same(model):
    x = model.embedding(jnp.asarray(IDS))
    one, other = trace(model, x), trace(stack_blocks(model), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    assert isinstance(one, Trace)
