"""Controls cost what the plan costs, and every model starts from what it says."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.experts import models, plan
from benchmarks.experts.corpora import Domains
from benchmarks.peers.models import MMRec, abstract, config_of, parameter_shapes
from benchmarks.peers.training import parameter_count

CONFIG = dataclasses.replace(
    config_of(50, 8, 1, 16, fusion_method="weighted"), num_heads=2, dropout=0.0
)
IDS = np.arange(24).reshape(2, 12) * 7 % 50


def state_of(seed):
    return nnx.state(MMRec(CONFIG, nnx.Rngs(seed)))


def logits(build, state):
    model = nnx.merge(nnx.graphdef(abstract(functools.partial(build, CONFIG))), state)
    return np.asarray(model(IDS)[0])


def test_the_wider_base_has_as_many_parameters_as_the_fusion():
    wider, fused = (
        sum(map(math.prod, parameter_shapes(build).values())) for build in (plan.WIDER, plan.FUSED)
    )
    assert abs(wider / fused - 1) < 0.03


def test_the_lstm_has_as_many_parameters_as_the_base():
    lstm, base = (parameter_count(build) for build in (plan.OF_LSTM, plan.BASE))
    assert abs(lstm / base - 1) < 0.02


@pytest.mark.parametrize("corpus", plan.EXPERT_STEPS)
def test_the_controls_cost_as_much_as_the_plan(corpus):
    parts = plan.parts(corpus)
    cost = {name: models.forward_flops(part.build) for name, part in parts.items()}
    steps = {each.name: each.steps for part in parts.values() for each in part.variants}
    experts, fusion = steps["text expert"] + steps["code expert"], steps["domains, all trained"]
    again = experts * cost["base"] + fusion * cost["domains-all"]
    for name, control, operations, tokens in (
        ("base further", "further", again, experts + fusion),
        (
            "wider base",
            "wider",
            again + steps["base"] * cost["base"],
            experts + fusion + steps["base"],
        ),
    ):
        of_control = steps[f"{name}, equal operations"] * cost[f"{control}-operations"]
        assert of_control == pytest.approx(operations, rel=0.01)
        assert steps[f"{name}, equal tokens"] == tokens
    assert steps["half 0"] + steps["half 1"] == experts


def test_a_wide_head_starts_with_about_the_bases_logits():
    base = state_of(0)
    wide = models.wide_head_start(CONFIG, base, jnp.asarray(IDS))
    correlation = np.corrcoef(logits(MMRec, base).ravel(), logits(models.WideHead, wide).ravel())
    assert correlation[0, 1] > 0.99


def test_a_fusion_starts_as_its_experts_mean():
    base, other = state_of(0), state_of(1)
    other["model"]["embedding"] = base["model"]["embedding"]  # experts share the base's
    fused = models.fused_start(CONFIG, base, other, jnp.asarray(IDS))
    mean = (logits(MMRec, base) + logits(MMRec, other)) / 2
    correlation = np.corrcoef(mean.ravel(), logits(models.Fused, fused).ravel())
    assert correlation[0, 1] > 0.98


def test_routed_copies_of_one_model_compute_what_it_computes():
    base = state_of(0)
    routed = models.routed_start(CONFIG, base, base, {"text": IDS[:1], "code": IDS[1:]})
    np.testing.assert_allclose(
        logits(models.Routed, routed), logits(MMRec, base), rtol=0, atol=1e-5
    )


def test_a_router_starts_nearer_to_the_expert_of_each_domain():
    base = state_of(0)
    routed = models.routed_start(CONFIG, base, base, {"text": IDS[:1], "code": IDS[1:]})
    graphdef = nnx.graphdef(abstract(functools.partial(models.Routed, CONFIG)))
    model = nnx.merge(graphdef, routed).model
    block = model.blocks[0]
    seen = []
    block.feed_forward = models._recording(block.feed_forward, seen)
    block(model.embedding(IDS), None, jnp.zeros((2, 8)))
    text, code = jax.nn.sigmoid(block.ffn.router(seen[0])).mean((1, 2))
    assert text > 0.5 > code


def test_random_halves_share_no_document():
    document = np.repeat(np.arange(20), 3)
    data = Domains(None, {}, document, {}, None)
    first, second = data.halves(0)
    assert sorted([*first, *second]) == list(range(60))
    assert not set(document[first]) & set(document[second])
    assert (data.halves(1)[0].tolist()) != first.tolist()
