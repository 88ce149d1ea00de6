"""From a base to experts and to their fusion, in memory (mmrec_jax/transfer.py)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.small_models import TRAINED

from mmrec_jax import ExpertModule, MMRecModel
from mmrec_jax.block_forms import stack_blocks
from mmrec_jax.block_rates import block_rates
from mmrec_jax.transfer import (
    join_experts,
    start_as_ensemble,
    transfer_base_to_expert,
    with_embedding,
    without_embedding,
)

CONFIG = dataclasses.replace(TRAINED, num_layers=3)
IDS = jax.random.randint(jax.random.key(7), (2, 9), 0, CONFIG.vocab_size)


def base_and_expert(config=CONFIG, **of_expert):
    other = dataclasses.replace(config, **of_expert)
    return MMRecModel(config, rngs=nnx.Rngs(0)), ExpertModule(other, rngs=nnx.Rngs(1))


def arrays(module):
    return {path: np.array(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(module))}


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"use_hem": True},
        {"use_dpg": True},
        {"use_uboo": True},
        {"use_sparse": True},
    ],
    ids=str,
)
def test_the_expert_computes_the_bases_hidden_states_to_the_bit(variant):
    base, expert = base_and_expert(dataclasses.replace(CONFIG, **variant))
    x = base.embedding(IDS)
    expected = base.hidden_states(x)
    assert np.any(np.asarray(expert(x)[0]) != np.asarray(expected.y))
    transfer_base_to_expert(base, expert)
    y, memory = expert(x)
    np.testing.assert_array_equal(y, expected.y)
    for found, wanted in zip(
        jax.tree.leaves(memory), jax.tree.leaves(expected.memory), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_all_mismatches_come_in_one_error_and_change_nothing():
    base, expert = base_and_expert(ffn_dim=24, num_heads=4)
    before = arrays(expert)
    with pytest.raises(ValueError) as caught:
        transfer_base_to_expert(base, expert)
    for part in (
        "num_heads is 3 in the base and 4 in the expert",
        "blocks.0.ffn.linear_in.kernel is [12, 20] in the base and [12, 24] in the expert",
        "blocks.2.ffn.linear_out.kernel is [20, 12] in the base and [24, 12] in the expert",
    ):
        assert part in str(caught.value)
    for path, array in arrays(expert).items():
        np.testing.assert_array_equal(array, before[path])


def test_another_variant_is_a_mismatch_too():
    base, expert = base_and_expert(use_hem=True)
    with pytest.raises(
        ValueError, match=r"use_hem is False .*blocks\.1\.W_q\.kernel is \[12, 12\] in"
    ):
        transfer_base_to_expert(base, expert)


@pytest.mark.parametrize("depth", [2, 5])
def test_depths_may_differ(depth):
    base, expert = base_and_expert(num_layers=depth)
    before = arrays(expert)
    transfer = transfer_base_to_expert(base, expert)
    shared = min(depth, 3)
    assert transfer.expert is expert
    assert transfer.copied == (*(f"blocks.{i}" for i in range(shared)), "norm")
    assert transfer.new == tuple(f"blocks.{i}" for i in range(3, depth))
    assert transfer.left_out == tuple(f"blocks.{i}" for i in range(depth, 3))
    source = arrays(base)
    for path, array in arrays(expert).items():
        wanted = before if path[0] == "blocks" and path[1] >= shared else source
        np.testing.assert_array_equal(array, wanted[path])


def test_the_three_ways_to_hold_on_to_the_first_blocks():
    base, expert = base_and_expert()
    free = transfer_base_to_expert(base, expert)
    assert (free.frozen, free.rates) == ((False,) * 3, (1.0,) * 3)
    held = transfer_base_to_expert(base, expert, freeze_blocks=2)
    assert (held.frozen, held.rates) == ((True, True, False), (0.0, 0.0, 1.0))
    both = transfer_base_to_expert(base, expert, freeze_blocks=1, slow_blocks=2, slow_rate=0.3)
    assert (both.frozen, both.rates) == ((True, False, False), (0.0, 0.3, 1.0))
    for key in ("freeze_blocks", "slow_blocks"):
        with pytest.raises(
            ValueError, match=f"{key} must lie in .0, 3., the expert's blocks, not 4"
        ):
            transfer_base_to_expert(base, expert, **{key: 4})


def test_the_rates_are_those_of_the_settings():
    """A resumed run makes no transfer, and trains with these."""
    base, expert = base_and_expert()
    for settings in ({}, {"freeze_blocks": 1, "slow_blocks": 2, "slow_rate": 0.3}):
        assert transfer_base_to_expert(base, expert, **settings).rates == block_rates(3, **settings)


def test_blocks_that_are_new_cannot_be_frozen():
    base, expert = base_and_expert(num_layers=5)
    with pytest.raises(ValueError, match="at most the base's 3 blocks, not 4"):
        transfer_base_to_expert(base, expert, freeze_blocks=4)


def test_stacked_blocks_are_refused():
    base, expert = base_and_expert()
    with pytest.raises(ValueError, match="unstack_blocks"):
        transfer_base_to_expert(stack_blocks(base), expert)


def test_an_expert_with_the_bases_embedding_is_the_base_again():
    base, expert = base_and_expert()
    transfer_base_to_expert(base, expert)
    model = with_embedding(expert, base.embedding)
    np.testing.assert_array_equal(model(IDS).logits, base(IDS).logits)
    assert arrays(without_embedding(model)).keys() == arrays(expert).keys()
    again, _ = without_embedding(model)(base.embedding(IDS))
    np.testing.assert_array_equal(again, base.hidden_states(base.embedding(IDS)).y)


def test_changing_the_model_leaves_the_expert_alone():
    base, expert = base_and_expert()
    before = arrays(expert)
    model = with_embedding(expert, base.embedding)
    model.norm.scale[...] = jnp.zeros(CONFIG.model_dim)
    np.testing.assert_array_equal(expert.norm.scale[...], before["norm", "scale"])


def experts():
    """A base's embedding, and two experts whose outputs have a root mean square of one."""
    base, text = base_and_expert()
    return base.embedding, text, ExpertModule(CONFIG, rngs=nnx.Rngs(2))


@pytest.mark.parametrize("method", ["concatenate", "weighted"])
def test_the_ensemble_starts_as_the_mean_of_the_experts_logits(method):
    embedding, text, code = experts()
    config = dataclasses.replace(CONFIG, fusion_method=method)
    fused = join_experts(text, code, embedding, config, rngs=nnx.Rngs(3))
    start_as_ensemble(fused, 1.0)
    each = [with_embedding(expert, embedding)(IDS).logits for expert in (text, code)]
    np.testing.assert_allclose(fused(IDS).logits, (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-5)


def test_the_experts_are_joined_as_they_are():
    embedding, text, code = experts()
    fused = join_experts(text, code, embedding, CONFIG, rngs=nnx.Rngs(3))
    found, wanted = arrays(fused), {"text_expert": arrays(text), "code_expert": arrays(code)}
    for name, of_expert in wanted.items():
        for path, array in of_expert.items():
            np.testing.assert_array_equal(found[name, *path], array)
    np.testing.assert_array_equal(found["embedding", "embedding"], embedding.embedding[...])


def test_experts_that_do_not_fit_are_refused():
    embedding, text, _ = experts()
    shallow = ExpertModule(dataclasses.replace(CONFIG, num_layers=2), rngs=nnx.Rngs(2))
    with pytest.raises(
        ValueError, match="the code expert does not fit: num_layers is 2 in the exp"
    ):
        join_experts(text, shallow, embedding, CONFIG, rngs=nnx.Rngs(3))
