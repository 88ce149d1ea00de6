"""What models refuse, and properties that golden data do not show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.small_models import SMALL

from mmrec_jax import FusionLayer, LongTermMemory, MMRec100M, MMRecModel
from mmrec_jax.ffn import DenseFFN, SparseFFN
from mmrec_jax.layers import dropout
from mmrec_jax.memory import pool


def memories(*shape):
    return [LongTermMemory(jnp.ones(shape), jnp.ones(shape)) for _ in range(SMALL.num_layers)]


@pytest.fixture(scope="module")
def model():
    return MMRecModel(SMALL, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 0),
        ("num_heads", 5),
        ("model_dim", 3),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("num_experts", 6),
        ("num_experts", 1),
        ("fusion_method", "mean"),
        ("pe_dim", 0),
    ],
)
def test_config_refuses(key, value):
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(SMALL, **{key: value})


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (memories(1024, 12)[:1], "1 memories for 2 layers"),
        (memories(1024, 13), "memory 0.k has shape"),
        (memories(1000, 12), "a multiple of 16"),
        (memories(3, 1024, 12), "B = 2"),
        (memories(12), "memory 0.k has shape"),
        (memories(1024, 12)[:1] + memories(512, 12)[:1], "memory 1.k has shape"),
        (
            [LongTermMemory(m.k, m.v[:16]) for m in memories(1024, 12)],
            r"memory 0.v has shape \(16, 12\)",
        ),
    ],
)
def test_memory_that_does_not_fit(model, memory, message):
    with pytest.raises(ValueError, match=message):
        model(jnp.zeros((2, 3), jnp.int32), memory)


def test_chunk_size_must_be_positive(model):
    with pytest.raises(ValueError, match="chunk_size"):
        model(jnp.zeros((2, 3), jnp.int32), chunk_size=0)
    with pytest.raises(ValueError, match="chunk_size"):
        model.start_decoding(2, chunk_size=0)


def test_no_memory_is_a_memory_of_zeros(model):
    ids = jax.random.randint(jax.random.key(0), (2, 7), 0, 31)
    zeros = [LongTermMemory(jnp.zeros((64, 12)), jnp.zeros((64, 12))) for _ in range(2)]
    np.testing.assert_allclose(model(ids).logits, model(ids, zeros).logits, rtol=0, atol=1e-6)


def test_pool_averages_neighbours():
    slots = jnp.arange(64.0)[:, None] * jnp.ones(3)
    np.testing.assert_allclose(pool(slots)[:, 1], [7.5, 23.5, 39.5, 55.5])


def test_dropout_is_off_without_a_key_and_keeps_the_mean():
    model = MMRecModel(dataclasses.replace(SMALL, dropout=0.3), rngs=nnx.Rngs(0))
    ids = jnp.ones((1, 4), jnp.int32)
    np.testing.assert_array_equal(model(ids).logits, model(ids).logits)
    first = model(ids, dropout_key=jax.random.key(0)).logits
    assert np.any(first != model(ids, dropout_key=jax.random.key(1)).logits)
    assert np.any(first != model(ids).logits)


def test_dropout_drops_its_share_wherever_it_falls():
    rows, columns, rate = 300, 401, 0.3
    found = np.asarray(dropout(jnp.ones((rows, columns)), rate, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(found), [0, 1 / (1 - rate)], rtol=1e-6)
    dropped = found == 0
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(dropped.mean() - rate) < 4 * deviation / np.sqrt(dropped.size)
    for axis, size in ((0, rows), (1, columns)):
        assert np.abs(dropped.mean(axis) - rate).max() < 5 * deviation / np.sqrt(size)
        together = (dropped & np.roll(dropped, 1, axis)).mean()
        assert abs(together - rate**2) < 4 / np.sqrt(dropped.size)


@pytest.mark.parametrize("remat", ["elementwise", "products", "layers"])
def test_the_feed_forward_layer_in_pieces_is_the_whole(monkeypatch, remat):
    graphdef, params = nnx.split(DenseFFN(SMALL, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, 11, SMALL.model_dim))

    def value_and_gradients():
        @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
        def total(params, x):
            y = nnx.merge(graphdef, params).in_pieces(x, None, remat)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = jax.jit(total)(params, x)
        return jax.tree.leaves([y, gradients])

    whole = value_and_gradients()
    monkeypatch.setattr("mmrec_jax.ffn.PIECE_TOKENS", 8)
    in_pieces = value_and_gradients()
    assert len(whole) == 6  # the output, and the gradients of two kernels, two biases and x
    for found, expected in zip(in_pieces, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_each_sequence_reads_its_own_memory(model, chunk_size):
    keys = jax.random.split(jax.random.key(0), 5)
    ids = jax.random.randint(keys[0], (2, 7), 0, 31)
    k, v = (jax.random.normal(key, (2, 2, 1024, 12)) for key in keys[1:3])
    both = model(ids, [LongTermMemory(k[i], v[i]) for i in range(2)], chunk_size=chunk_size)
    for row in range(2):
        alone = [LongTermMemory(k[i, row], v[i, row]) for i in range(2)]
        out = model(ids[row : row + 1], alone, chunk_size=chunk_size)
        np.testing.assert_allclose(both.logits[row], out.logits[0], rtol=0, atol=1e-5)


def test_each_chunk_has_a_dropout_of_its_own_and_its_own_length():
    model = MMRecModel(dataclasses.replace(SMALL, dropout=0.5), rngs=nnx.Rngs(0))
    ids = jax.random.randint(jax.random.key(0), (2, 10), 0, 31)
    key = jax.random.key(1)
    memory, pieces = None, []
    for piece_key, start in zip(jax.random.split(key, 3), (0, 4, 8), strict=True):
        out = model(ids[:, start : start + 4], memory, dropout_key=piece_key)
        memory = out.memory
        pieces.append(out.logits)
    found = model(ids, chunk_size=4, dropout_key=key).logits
    np.testing.assert_allclose(found, np.concatenate(pieces, axis=1), rtol=0, atol=1e-5)


def test_planning_loss_of_chunks_is_the_mean_over_tokens():
    config = dataclasses.replace(SMALL, use_uboo=True, lambda_P=0.3)
    model = MMRecModel(config, rngs=nnx.Rngs(0))
    ids = jax.random.randint(jax.random.key(0), (2, 10), 0, 31)
    memory, total = None, 0.0
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        out = model(ids[:, start:stop], memory)
        memory, total = out.memory, total + float(out.auxiliary_loss) * (stop - start)
    found = model(ids, chunk_size=4).auxiliary_loss
    np.testing.assert_allclose(found, total / 10, rtol=1e-5)


def test_planning_loss_under_dpg_uses_the_mdi_decay():
    config = dataclasses.replace(SMALL, use_uboo=True, use_dpg=True, dpg_rank=5)
    model = MMRecModel(config, rngs=nnx.Rngs(0))
    ids = jax.random.randint(jax.random.key(0), (2, 7), 0, 31)
    before = model(ids)
    bias = model.blocks[0].mdi.W_gamma.linear_out.bias
    bias[...] = bias[...] + 2
    after = model(ids)
    np.testing.assert_array_equal(before.logits, after.logits)
    assert abs(float(before.auxiliary_loss - after.auxiliary_loss)) > 1e-6


def test_mmrec100m_adds_the_experts_planning_losses():
    config = dataclasses.replace(SMALL, use_uboo=True, num_layers=1)
    model = MMRec100M(config, rngs=nnx.Rngs(0))
    ids = jax.random.randint(jax.random.key(0), (2, 7), 0, 31)
    losses = {t: float(model(ids, expert_type=t).auxiliary_loss) for t in ("text", "code", None)}
    assert losses["text"] > 0
    np.testing.assert_allclose(losses[None], losses["text"] + losses["code"], rtol=1e-5)


def test_weighted_fusion_by_hand():
    layer = FusionLayer(
        dataclasses.replace(SMALL, fusion_method="weighted", fused_dim=7), rngs=nnx.Rngs(0)
    )
    text, code = np.random.default_rng(0).normal(size=(2, 1, 1, 12)).astype(np.float32)
    both = np.concatenate([text, code], -1)
    gate = 1 / (1 + np.exp(-(both @ layer.gate.kernel[...] + layer.gate.bias[...])))
    joined = np.concatenate([gate * text, (1 - gate) * code], -1)
    expected = joined @ layer.fusion_proj.kernel[...] + layer.fusion_proj.bias[...]
    assert expected.shape == (1, 1, 7)
    np.testing.assert_allclose(layer(text, code), expected, rtol=1e-5, atol=1e-5)


def test_mmrec100m_refuses():
    with pytest.raises(ValueError, match="fused_dim"):
        MMRec100M(dataclasses.replace(SMALL, fused_dim=7), rngs=nnx.Rngs(0))
    model = MMRec100M(dataclasses.replace(SMALL, num_layers=1), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="expert_type"):
        model(jnp.zeros((1, 2), jnp.int32), expert_type="both")
    with pytest.raises(ValueError, match="not txt"):
        model(jnp.zeros((1, 2), jnp.int32), {"txt": memories(1024, 12)[:1]})


def test_sparse_layer_by_hand():
    config = dataclasses.replace(SMALL, use_sparse=True, num_experts=8, sparse_chunk_size=4)
    layer = SparseFFN(config, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(1, 6, 12)).astype(np.float32)
    weights, planes = np.asarray(layer.expert_weights[...]), layer.router.hyperplanes[...]
    expected = np.zeros_like(x)
    certainty = []
    for start, stop in ((0, 4), (4, 6)):
        distances = np.asarray(x[0, start:stop].sum(axis=0) / 4 @ planes)  # padding counts
        first = sum(2**i for i in range(3) if distances[i] > 0)
        second = first ^ (2 ** int(np.argmin(np.abs(distances))))
        out = x[0, start:stop] @ weights[first] + x[0, start:stop] @ weights[second]
        expected[0, start:stop] = out / 2
        certainty.append(np.abs(distances).mean())
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert certainty[0] != certainty[1]
    kept = layer(x, router_threshold=float(np.mean(certainty)))
    for (start, stop), sure in zip(((0, 4), (4, 6)), certainty, strict=True):
        wanted = expected[0, start:stop] * (sure > np.mean(certainty))
        np.testing.assert_allclose(kept[0, start:stop], wanted, rtol=1e-4, atol=1e-5)
