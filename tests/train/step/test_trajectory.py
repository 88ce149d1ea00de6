"""Training against the original's own: 24 steps, and what its optimizer leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.losses import cross_entropies, gradient_from_memory
from helpers.small_models import TRAINED

import bridge
from bridge.keys import entries
from bridge.weights import variables
from mmrec_jax import MMRecModel
from train.data.batches import batch_of
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.stages.base import initial_model
from train.step.schedule import schedule
from train.step.trainer import Trainer
from train.system.precision import multiplies_bfloat16


def start(model, *, given=None, **training):
    """A trainer, and its state before the first step."""
    config = Config(
        data_dir="unused",
        run_dir="unused",
        model=model,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=6),
        training=TrainingConfig(steps=24, **{"accumulation": 1, **training}),
    )
    model = initial_model(config) if given is None else given
    run = Trainer(config, model)
    return run, run.initial_state(model)


def trained_entries(config):
    """The entries of the key table that torch's optimizer would have a state for."""
    return [
        entry
        for entry in entries("MMRecModel", config)
        if entry.kind == "parameter" and not set(config.untrained_modules) & set(entry.path)
    ]


def by_path(run, state):
    """Copies of the state's arrays; its own are given up when it is updated."""
    model = run.model_of(state)
    return {path: np.array(array) for path, array in variables(model).items()}


@pytest.mark.golden
def test_golden_trajectory(golden):
    data = golden("trajectory", "checkpoint_step_0.pt")
    run, state = start(data.checkpoint.config, given=data.checkpoint.model)
    for step, batch in enumerate(data.ids("batches")):
        grads, metrics = gradient_from_memory(run, state, batch, data.memory())
        state, update = run.update(state, grads)
        assert abs(float(metrics["loss"]) - data.arrays["losses"][step]) <= 1e-5
        assert abs(float(update["grad_norm"]) - data.arrays["grad_norms"][step]) <= 1e-5
        assert abs(float(update["learning_rate"]) - data.arrays["learning_rates"][step]) <= 1e-9
        if step + 1 in (12, 24):
            checkpoint = golden("trajectory", f"checkpoint_step_{step + 1}.pt").checkpoint
            found = by_path(run, state)
            for path, expected in variables(checkpoint.model).items():
                norm = np.linalg.norm(expected)
                assert np.linalg.norm(found[path] - expected) <= 1e-5 * norm, path


@pytest.mark.parametrize(("steps", "warmup"), [(24, 6), (100_000, 5000), (50, 0)])
def test_schedule_is_torchs(steps, warmup):
    config = OptimizerConfig(learning_rate=3e-4, warmup_steps=warmup)
    rate = schedule(config, steps)
    for step in {0, 1, warmup // 2, max(warmup - 1, 0), warmup, warmup + 1, steps // 2, steps - 1}:
        expected = bridge.SchedulerState(
            base_lr=3e-4, warmup_steps=warmup, total_steps=steps, step=step
        ).learning_rate()
        assert abs(float(rate(jnp.asarray(step))) - expected) <= 1e-9, step


@pytest.mark.parametrize(
    "variant", [{}, {"use_dpg": True}, {"use_hem": True, "use_dpg": True}, {"use_sparse": True}]
)
def test_only_what_has_a_gradient_changes(variant):
    config = dataclasses.replace(TRAINED, **variant)
    run, state = start(config)
    before = by_path(run, state)
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, config.vocab_size)
    grads, _ = run.gradient(state, batch_of(tokens), 0)
    state, _ = run.update(state, grads)
    after = by_path(run, state)
    changed = {path for path in before if np.any(before[path] != after[path])}
    assert changed == {entry.path for entry in trained_entries(config)}


def test_untrained_parameters_have_no_moments():
    config = dataclasses.replace(TRAINED, use_dpg=True)
    _, state = start(config)
    trained = sum(int(np.prod(entry.shape)) for entry in trained_entries(config))
    held = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer))
    assert held == 2 * trained + 1  # and the count of steps


def test_accumulated_gradient_is_that_of_the_whole_batch():
    (whole, state), (parts, _) = start(TRAINED), start(TRAINED, accumulation=2)
    tokens = jax.random.randint(jax.random.key(0), (4, 9), 0, TRAINED.vocab_size)
    expected, _ = whole.gradient(state, batch_of(tokens), 0)
    first, _ = parts.gradient(state, batch_of(tokens[:2]), 0)
    second, _ = parts.gradient(state, batch_of(tokens[2:]), 1)
    found = parts.add(first, second)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("remat", ["elementwise", "layers"])
@pytest.mark.parametrize("use_sparse", [False, True])
def test_remat_changes_nothing(remat, use_sparse):
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, TRAINED.vocab_size)
    model = dataclasses.replace(TRAINED, dropout=0.3, use_sparse=use_sparse)
    (plain, state), (remat, _) = start(model), start(model, remat=remat)
    for a, b in zip(
        jax.tree.leaves(plain.gradient(state, batch_of(tokens), 0)),
        jax.tree.leaves(remat.gradient(state, batch_of(tokens), 0)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU has no products in bfloat16")
def test_bfloat16_learns_as_float32_does():
    tokens = jax.random.randint(jax.random.key(0), (8, 17), 0, 9)
    losses = {}
    for precision in ("float32", "bfloat16"):
        run, state = start(TRAINED, precision=precision)
        assert run.precision == precision
        losses[precision] = []
        for _ in range(24):
            grads, metrics = run.gradient(state, batch_of(tokens), 0)
            state, _ = run.update(state, grads)
            losses[precision].append(float(metrics["loss"]))
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert losses["float32"][-1] < losses["float32"][0] - 0.5
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=5e-3)


def test_a_cpu_without_bfloat16_trains_in_float32(monkeypatch):
    monkeypatch.setattr("train.system.precision.multiplies_bfloat16", lambda: False)
    assert start(TRAINED, precision="bfloat16")[0].precision == "float32"


def test_dropout_differs_by_micro_batch_and_step_and_not_by_call():
    config = dataclasses.replace(TRAINED, dropout=0.5)
    run, state = start(config)
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, config.vocab_size)

    def loss(state, index):
        return float(run.gradient(state, batch_of(tokens), index)[1]["loss"])

    assert loss(state, 0) == loss(state, 0)
    assert loss(state, 0) != loss(state, 1)
    assert loss(state, 0) != loss(state._replace(step=state.step + 1), 0)
    losses = run.token_losses(state, batch_of(tokens))
    assert losses.shape == (2, 8)
    without = run.model_of(state)(tokens[:, :-1]).logits
    expected = cross_entropies(without, tokens[:, 1:])
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def test_chunks_carry_the_memory_in_training_and_scoring():
    (run, state), (whole, _) = start(TRAINED, chunk_size=3), start(TRAINED)
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, TRAINED.vocab_size)
    batch = batch_of(tokens)
    model = run.model_of(state)
    logits = model(tokens[:, :-1], chunk_size=3).logits
    expected = cross_entropies(logits, tokens[:, 1:])
    np.testing.assert_allclose(run.token_losses(state, batch), expected, rtol=1e-5, atol=1e-5)
    grads, metrics = run.gradient(state, batch, 0)
    assert float(metrics["loss"]) == pytest.approx(float(expected.mean()), rel=1e-5)
    assert not np.allclose(whole.token_losses(state, batch), expected, rtol=1e-5, atol=1e-5)
    # The memory that was written is read: its queries now have a gradient.
    assert np.any(grads["blocks", "multi_mem_attention", "W_o", "kernel"])


def test_initial_values():
    config = dataclasses.replace(TRAINED, use_hem=True, pe_dim=7)
    model = MMRecModel(config, rngs=nnx.Rngs(0))
    block = model.blocks[0]
    dim = config.model_dim
    table = model.embedding.embedding[...]
    assert 0.9 / dim**0.5 < float(jnp.abs(table).max()) <= 1 / dim**0.5
    assert not np.any(block.W_fused.bias[...])
    widths = [dim, dim, dim, dim, 7, dim]
    parts = jnp.split(block.W_fused.kernel[...], np.cumsum(widths)[:-1], axis=1)
    for part, width in zip(parts, widths, strict=True):
        bound = (6 / (dim + width)) ** 0.5
        assert 0.85 * bound < float(jnp.abs(part).max()) <= bound
    for layer, inputs in ((block.W_g, dim), (block.mdi.W_g, 2 * dim), (block.ffn.linear_out, 20)):
        for values in (layer.kernel[...], layer.bias[...]):
            assert 0.5 / inputs**0.5 < float(jnp.abs(values).max()) <= 1 / inputs**0.5
    assert np.all(block.norm1.scale[...] == 1)
