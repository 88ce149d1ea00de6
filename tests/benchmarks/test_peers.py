"""The peers are compared fairly: equal sizes, the same batches, and no look ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.peers import models, recall
from benchmarks.peers.training import batch_order, parameter_count, windows
from mmrec_jax import ModelConfig

VOCAB_SIZE = 50


@pytest.mark.parametrize("size", models.SIZES)
def test_all_models_of_a_size_have_as_many_parameters(size):
    counts = [parameter_count(models.build(name, size, VOCAB_SIZE)) for name in models.SIZES[size]]
    assert max(counts) / min(counts) < 1.02


@pytest.mark.parametrize("name", models.MIXERS)
def test_no_peer_sees_the_token_that_it_predicts(name):
    model = models.Peer(models.MIXERS[name], VOCAB_SIZE, 8, 1, 8, nnx.Rngs(0))
    ids = np.arange(12)[None] % VOCAB_SIZE
    changed = ids.copy()
    changed[0, 7:] += 9
    run = jax.jit(lambda ids: model(ids)[0][0])
    logits, others = (np.asarray(run(each)) for each in (ids, changed))
    np.testing.assert_allclose(logits[:7], others[:7], rtol=0, atol=1e-6)
    assert np.abs(logits[7:] - others[7:]).max() > 1e-3
    assert np.abs(logits[8] - others[8]).max() > 0  # the token before reaches it


def test_every_window_is_read_once_an_epoch_in_an_order_of_the_seed():
    places = np.arange(10, 18)
    order = batch_order(6, 4, places, seed=3)
    assert order.shape == (6, 4)
    for epoch in order.reshape(3, 8):
        assert sorted(epoch) == list(places)
    np.testing.assert_array_equal(order, batch_order(6, 4, places, seed=3))
    assert (order != batch_order(6, 4, places, seed=4)).any()


def test_windows_predict_every_token_once():
    rows = windows(np.arange(11, dtype=np.int32), 5)
    np.testing.assert_array_equal(rows[:, 1:].ravel(), np.arange(1, 11))
    np.testing.assert_array_equal(rows[:, :-1].ravel(), np.arange(10))


def test_an_ablation_changes_the_model_and_only_within():
    ids = jnp.arange(8)[None]
    small = {
        "vocab_size": VOCAB_SIZE,
        "model_dim": 8,
        "num_layers": 1,
        "num_heads": 2,
        "ffn_dim": 8,
    }
    model = models.MMRec(ModelConfig(**small), nnx.Rngs(0))

    def logits():
        return np.asarray(jax.jit(lambda ids: model(ids)[0])(ids))

    before = logits()
    with models.changed("no recurrence"):
        without = logits()
    np.testing.assert_array_equal(before, logits())
    np.testing.assert_allclose(before[0, 0], without[0, 0], rtol=1e-5, atol=1e-6)  # h is 0 anyway
    assert np.abs(before[0, 1:] - without[0, 1:]).max() > 1e-3


def test_a_model_begins_with_the_decay_that_it_is_given():
    config = ModelConfig(vocab_size=VOCAB_SIZE, model_dim=16, num_layers=1, num_heads=2, ffn_dim=8)
    model = models.MMRec(config, nnx.Rngs(0), initial_decay=(0.1, 0.85)).model
    decay = np.asarray(model.blocks[0].decay(jnp.zeros((1, 1, 16)), jnp.zeros((1, 1, 16))))
    assert np.abs(decay[0, 0] - np.linspace(0.1, 0.85, 16)).max() < 0.12  # hidden biases move it


def test_each_window_is_read_twice():
    tokens = np.arange(3 * recall.DISTANCE + 9, dtype=np.int32)
    rows = recall.repeating(tokens)
    assert rows.shape == (3, 2 * recall.DISTANCE + 1)
    np.testing.assert_array_equal(rows[:, recall.DISTANCE :], rows[:, : recall.DISTANCE + 1])
    np.testing.assert_array_equal(rows[:, : recall.DISTANCE].ravel(), tokens[: 3 * recall.DISTANCE])
