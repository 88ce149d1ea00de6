"""Training that changes frameworks on the way, through the bridge's files, against one alone."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.losses import gradient_from_memory
from helpers.paths import GOLDEN
from helpers.small_models import SMALL
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import bridge
from bridge.config.metadata import to_checkpoint
from bridge.twin import twin
from bridge.weights import tensors_of
from train.checkpoints.fit import check_training
from train.checkpoints.state import checkpoint_of, state_of
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.stages.base import initial_model
from train.step.trainer import Trainer

CONFIG = dataclasses.replace(SMALL, vocab_size=50, dropout=0.0)


@functools.cache
def trainer_of(model, learning_rate, warmup_steps, steps):
    config = Config(
        data_dir="unused",
        run_dir="unused",
        model=model,
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_steps=warmup_steps),
        training=TrainingConfig(steps=steps, accumulation=1),
    )
    return Trainer(config, initial_model(config))


def train_in_jax(path, target, batches, memory=None):
    """Goes on from a file as `train.base --resume` does, and writes the next; returns losses."""
    loaded = bridge.load(path)
    schedule = loaded.scheduler_state
    trainer = trainer_of(
        loaded.config, schedule.base_lr, schedule.warmup_steps, schedule.total_steps
    )
    check_training(trainer.config, loaded)
    state = state_of(trainer, loaded)
    losses = []
    for batch in batches:
        grads, metrics = gradient_from_memory(trainer, state, jnp.asarray(batch), memory)
        state, _ = trainer.update(state, grads)
        losses.append(float(metrics["loss"]))
    content = checkpoint_of(trainer, state, avg_loss=0.0, metadata={})
    bridge.save_file(target, content)
    return losses


def save_in_torch(path, module, optimizer, schedule, step):
    config = to_checkpoint("MMRecModel", module.config, {})
    torch.save(
        {
            "model_state_dict": module.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler_state_dict": schedule.state_dict(),
            "step": step,
            "avg_loss": 0.0,
            "metadata": {"model_class": "MMRecModel", "config": config},
        },
        path,
    )


def difference(found, expected):
    """The largest difference of a weight tensor, relative to its norm."""
    return max(
        float(
            np.linalg.norm(found[name].astype(np.float64) - value)
            / np.linalg.norm(value.astype(np.float64))
        )
        for name, value in expected.items()
    )


def weights_in(path):
    return {name: tensor.read() for name, tensor in tensors_of(bridge.load(path).model).items()}


def weights_of(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def trajectory(golden):
    data = golden("trajectory", "checkpoint_step_0.pt")
    folder = GOLDEN / "trajectory"
    batches = data.arrays["batches"].astype(np.int32)
    jax_memory = data.memory()
    memory = [tuple(torch.tensor(np.asarray(slots)) for slots in layer) for layer in jax_memory]
    return folder, np.concatenate([batches, batches[:12]]), jax_memory, memory, data.arrays


def test_the_original_goes_on_in_jax(trajectory, tmp_path):
    folder, batches, memory, _, arrays = trajectory
    target = tmp_path / "24.pt"
    losses = train_in_jax(folder / "checkpoint_step_12.pt", target, batches[12:24], memory)
    np.testing.assert_allclose(losses, arrays["losses"][12:24], rtol=0, atol=1e-5)
    assert difference(weights_in(target), weights_in(folder / "checkpoint_step_24.pt")) <= 1e-5
    assert bridge.load(target).scheduler_state.step == 24


def test_jax_goes_on_in_torch(trajectory, tmp_path, resume_in_torch, train_twin):
    folder, batches, jax_memory, memory, _ = trajectory
    start = folder / "checkpoint_step_0.pt"
    train_in_jax(start, tmp_path / "24.pt", batches[:24], jax_memory)
    alone, resumed = resume_in_torch(start), resume_in_torch(tmp_path / "24.pt")
    expected, _ = train_twin(*alone, batches, memory)
    losses, _ = train_twin(*resumed, batches[24:], memory)
    np.testing.assert_allclose(losses, expected[24:], rtol=0, atol=1e-5)
    assert difference(weights_of(resumed[0]), weights_of(alone[0])) <= 1e-5
    assert resumed[2].state_dict() == alone[2].state_dict()


@pytest.mark.parametrize("switch", [3, 5, 6, 7])
def test_around_the_end_of_the_warm_up(switch, trajectory, tmp_path, resume_in_torch, train_twin):
    """The golden warm-up ends at step 6."""
    folder, batches, jax_memory, memory, _ = trajectory
    start = folder / "checkpoint_step_0.pt"
    first = resume_in_torch(start)
    train_twin(*first, batches[:switch], memory)
    save_in_torch(tmp_path / "torch.pt", *first, switch)
    train_in_jax(
        tmp_path / "torch.pt", tmp_path / "jax.pt", batches[switch : switch + 1], jax_memory
    )
    last = resume_in_torch(tmp_path / "jax.pt")
    alone = resume_in_torch(start)
    train_twin(*alone, batches[: switch + 1], memory)
    assert last[2].state_dict() == alone[2].state_dict()
    assert last[1].param_groups == [
        {**group, "params": last[1].param_groups[0]["params"]} for group in alone[1].param_groups
    ]
    expected, _ = train_twin(*alone, batches[switch + 1 : 12], memory)
    losses, _ = train_twin(*last, batches[switch + 1 : 12], memory)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    assert difference(weights_of(last[0]), weights_of(alone[0])) <= 1e-5


STEPS, LEARNING_RATE, WARMUP = 1000, 1e-3, 50


def new_session(dtype=torch.float32):
    torch.manual_seed(0)
    module = twin("MMRecModel", CONFIG).to(dtype)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    schedule = SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, start_factor=0.1, total_iters=WARMUP),
            CosineAnnealingLR(optimizer, T_max=STEPS - WARMUP),
        ],
        milestones=[WARMUP],
    )
    return module, optimizer, schedule


@pytest.mark.slow
def test_a_thousand_steps_half_in_each(tmp_path, resume_in_torch, train_twin, record_property):
    # A learnable sequence, as noise alone would leave the weights nowhere to go.
    rng = np.random.default_rng(0)
    starts = rng.integers(0, CONFIG.vocab_size, (STEPS, 2, 1))
    noise = rng.integers(0, 2, (STEPS, 2, 9))
    batches = ((starts + 3 * np.arange(9) + noise) % CONFIG.vocab_size).astype(np.int32)
    half = STEPS // 2

    alone = new_session()
    expected, _ = train_twin(*alone, batches[:half])
    save_in_torch(tmp_path / "torch.pt", *alone, half)
    more, _ = train_twin(*alone, batches[half:])
    expected += more
    assert expected[-1] < expected[0] - 1
    exact = new_session(torch.float64)
    train_twin(*exact, batches)
    rounding = difference(weights_of(alone[0]), weights_of(exact[0]))

    torch_first = train_in_jax(tmp_path / "torch.pt", tmp_path / "end.pt", batches[half:])
    differences = {
        "torch, then JAX": difference(weights_in(tmp_path / "end.pt"), weights_of(alone[0]))
    }
    np.testing.assert_allclose(torch_first, expected[half:], rtol=0, atol=1e-4)

    begun = new_session()
    save_in_torch(tmp_path / "begin.pt", *begun, 0)
    train_in_jax(tmp_path / "begin.pt", tmp_path / "half.pt", batches[:half])
    resumed = resume_in_torch(tmp_path / "half.pt")
    train_twin(*resumed, batches[half:])
    differences["JAX, then torch"] = difference(weights_of(resumed[0]), weights_of(alone[0]))
    for order, figure in differences.items():
        record_property(order, figure)
        print(f"{order}: {figure:.2e}; torch in float32 against float64: {rounding:.2e}")
        assert figure <= 1e-4
