"""What is frozen keeps its bits, its moments are nobody's, and nothing else stands still."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from helpers.small_models import TRAINED

from bridge.weights import variables
from mmrec_jax import ExpertModule, MMRec100M
from mmrec_jax.block_forms import stack_blocks
from mmrec_jax.transfer import transfer_base_to_expert, with_embedding
from train.data.batches import batch_of
from train.run.header import counts_by_part
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.stages.base import BaseStage, initial_model
from train.stages.expert import ExpertStage
from train.stages.fusion import FusionStage
from train.step.frozen import Frozen, Parameters
from train.step.trainer import Trainer

MODEL = dataclasses.replace(TRAINED, num_layers=3, dropout=0.2)
CONFIG = Config(
    data_dir="unused",
    run_dir="unused",
    model=MODEL,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5, weight_decay=0.01),
    training=TrainingConfig(steps=100, accumulation=1),
)


def batch(seed):
    return batch_of(jax.random.randint(jax.random.key(seed), (2, 9), 0, MODEL.vocab_size))


def after(trainer, state, steps):
    for seed in range(steps):
        grads, _ = trainer.gradient(state, batch(seed), 0)
        state, _ = trainer.update(state, grads)
    return state


def by_path(trainer, state):
    return {path: np.array(array) for path, array in variables(trainer.model_of(state)).items()}


def frozen_blocks(**settings):
    """What an expert's stage freezes with these settings."""
    expert = dataclasses.replace(CONFIG.expert, **settings)
    training = dataclasses.replace(CONFIG.training, domain="text")
    return ExpertStage(dataclasses.replace(CONFIG, expert=expert, training=training)).frozen


def expert_network(model=MODEL):
    base = initial_model(dataclasses.replace(CONFIG, model=model))
    expert = ExpertModule(model, rngs=nnx.Rngs(1))
    transfer_base_to_expert(base, expert)
    return with_embedding(expert, base.embedding)


@pytest.mark.parametrize(("blocks", "variant"), [(1, {}), (2, {"use_dpg": True})], ids=str)
def test_frozen_blocks_and_embedding_do_not_change_by_a_bit(blocks, variant):
    model = dataclasses.replace(MODEL, **variant)
    trainer = Trainer(CONFIG, expert_network(model), frozen_blocks(freeze_blocks=blocks))
    state = trainer.initial_state(expert_network(model))
    before = by_path(trainer, state)
    state = after(trainer, state, 20)
    found = by_path(trainer, state)

    def frozen(path):
        in_frozen_block = path[0] == "blocks" and path[1] < blocks
        return in_frozen_block or path[0] == "embedding" or set(path) & set(model.untrained_modules)

    assert any(map(frozen, before)) and not all(map(frozen, before))
    for path, array in found.items():
        assert np.array_equal(array, before[path]) == bool(frozen(path)), path
    trained = sum(array.size for path, array in before.items() if not frozen(path))
    held = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer))
    assert held == 2 * trained + 1  # and the count of steps


def test_frozen_parts_do_not_disturb_the_others_gradient():
    first_block = Frozen(rates=(0.0, 1.0, 1.0))
    free, frozen = (Trainer(CONFIG, expert_network(), each) for each in (None, first_block))
    (all_grads, _), (grads, _) = (
        trainer.gradient(trainer.initial_state(expert_network()), batch(0), 0)
        for trainer in (free, frozen)
    )
    for path, array in grads.items():
        expected = all_grads[path][1:] if "blocks" in path else all_grads[path]
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-8)


def test_slow_blocks_move_by_their_share():
    network = expert_network()
    changes = []
    for slow_blocks in (2, 0):
        frozen = frozen_blocks(freeze_blocks=1, slow_blocks=slow_blocks, slow_rate=0.25)
        trainer = Trainer(CONFIG, network, frozen)
        state = trainer.initial_state(network)
        before = by_path(trainer, state)
        found = by_path(trainer, after(trainer, state, 1))
        changes.append({path: found[path] - before[path] for path in before})
    slow, plain = changes
    for path, change in plain.items():
        share = 0.25 if path[:2] == ("blocks", 1) else 1.0
        np.testing.assert_allclose(slow[path], share * change, rtol=1e-3, atol=2e-7)
    moved = plain["blocks", 1, "W_z", "kernel"]
    assert np.abs(moved).min() > 1e-5  # far above the tolerance


def fusion(*trainable, method="weighted"):
    model = dataclasses.replace(MODEL, fusion_method=method)
    fusion = dataclasses.replace(CONFIG.fusion, trainable=list(trainable))
    config = dataclasses.replace(CONFIG, model=model, fusion=fusion)
    network = MMRec100M(model, rngs=nnx.Rngs(0))
    trainer = Trainer(config, network, FusionStage(config).frozen)
    return trainer, trainer.initial_state(network)


@pytest.mark.parametrize(
    ("trainable", "method"),
    [
        (("fusion",), "weighted"),
        (("fusion", "final_norm"), "concatenate"),
        (("lm_head",), "weighted"),
        (("text_expert", "lm_head"), "concatenate"),
    ],
)
def test_fusion_trains_what_it_is_told_to(trainable, method):
    trainer, state = fusion(*trainable, method=method)
    before = by_path(trainer, state)
    found = by_path(trainer, after(trainer, state, 5))
    for path, array in found.items():
        assert np.array_equal(array, before[path]) == (path[0] not in trainable), path


def test_no_backward_pass_through_frozen_experts():
    trainer, state = fusion("fusion", "final_norm", "lm_head")
    jaxpr = str(jax.make_jaxpr(trainer.gradient)(state, batch(0), 0))
    assert "scan[" in jaxpr  # the experts' recurrence
    base = Trainer(CONFIG, expert_network())
    whole = str(jax.make_jaxpr(base.gradient)(base.initial_state(expert_network()), batch(0), 0))
    assert whole.count("reverse=True") > jaxpr.count("reverse=True")
    assert jaxpr.count("reverse=True") == 0


def test_frozen_experts_have_no_dropout():
    trainer, state = fusion("fusion")
    losses = [float(trainer.gradient(state, batch(0), index)[1]["loss"]) for index in range(2)]
    assert (
        losses[0]
        == losses[1]
        == pytest.approx(float(trainer.token_losses(state, batch(0)).mean()), rel=1e-6)
    )


@pytest.mark.parametrize("variants", [{}, {"use_hem": True, "use_dpg": True}, {"use_sparse": True}])
@pytest.mark.parametrize("name", ["base", "expert", "fusion"])
def test_parameters_are_counted_without_a_model_as_with_one(name, variants):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, **variants))
    if name == "fusion":
        stage, network = FusionStage(config), MMRec100M(config.model, rngs=nnx.Rngs(0))
    else:
        training = dataclasses.replace(CONFIG.training, domain="text")
        expert = dataclasses.replace(CONFIG.expert, freeze_blocks=2)
        config = dataclasses.replace(config, training=training, expert=expert)
        stage = (BaseStage if name == "base" else ExpertStage)(config)
        network = initial_model(config)
    stacked = stack_blocks(network)
    trained, others = Parameters(stacked, stage.frozen).split(stacked)
    buffers = nnx.state(network, nnx.Not(nnx.Param))
    counts, trained_counts = counts_by_part(config, stage)
    assert sum(trained_counts.values()) == sum(array.size for array in trained.values())
    untrained = sum(array.size for array in others.values())
    untrained -= sum(array.size for array in jax.tree.leaves(buffers))
    assert sum(counts.values()) - sum(trained_counts.values()) == untrained
