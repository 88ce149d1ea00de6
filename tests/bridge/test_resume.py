"""Training that changes frameworks on the way, through the bridge's files, against one alone."""

import dataclasses
import functools
import types
import typing

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.losses import gradient_from_memory
from helpers.paths import GOLDEN
from helpers.small_models import SMALL
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import bridge
from bridge.config.metadata import to_checkpoint
from bridge.twin import twin
from bridge.weights import tensors_of
from mmrec_jax import MMRec100M
from train.checkpoints.fit import check_training
from train.checkpoints.state import checkpoint_of, state_of
from train.settings.config import (
    Config,
    FusionConfig,
    FusionPart,
    OptimizerConfig,
    TrainingConfig,
)
from train.stages.base import initial_model
from train.stages.fusion import FusionStage
from train.step.schedule import origin_of
from train.step.trainer import Trainer

CONFIG = dataclasses.replace(SMALL, vocab_size=50, dropout=0.0)


@functools.cache
def trainer_of(model_class, model, optimizer, steps, origin):
    config = Config(
        data_dir="unused",
        run_dir="unused",
        model=model,
        optimizer=optimizer,
        training=TrainingConfig(steps=steps, accumulation=1),
        fusion=FusionConfig(trainable=list(typing.get_args(FusionPart))),
    )
    if model_class is MMRec100M:
        network = MMRec100M(model, rngs=nnx.Rngs(0))
        return Trainer(config, network, FusionStage(config).frozen, origin)
    return Trainer(config, initial_model(config), origin=origin)


def train_in_jax(path, target, batches, memory=None):
    """Goes on from a file as `train.base --resume` does, and writes the next; returns losses."""
    loaded = bridge.load(path)
    schedule = loaded.scheduler_state
    optimizer = OptimizerConfig(
        learning_rate=schedule.base_lr,
        min_learning_rate=schedule.min_lr,
        warmup_steps=schedule.warmup_steps,
        warmup_start=schedule.start_factor,
    )
    steps = schedule.ends_at(loaded.step)
    trainer = trainer_of(type(loaded.model), loaded.config, optimizer, steps, origin_of(loaded))
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
    model_class = type(module).__name__
    config = to_checkpoint(model_class, module.config, {})
    torch.save(
        {
            "model_state_dict": module.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler_state_dict": schedule.state_dict(),
            "step": step,
            "avg_loss": 0.0,
            "metadata": {"model_class": model_class, "config": config},
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


def warmed_up(optimizer, steps=STEPS, warmup=WARMUP, start_factor=0.1, min_lr=0.0):
    parts = [
        LinearLR(optimizer, start_factor=start_factor, total_iters=warmup),
        CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=min_lr),
    ]
    return SequentialLR(optimizer, parts, milestones=[warmup])


def new_session(dtype=torch.float32, schedule_of=warmed_up, model_class="MMRecModel"):
    torch.manual_seed(0)
    module = twin(model_class, CONFIG).to(dtype)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    return module, optimizer, schedule_of(optimizer)


def cosine_alone(optimizer):
    return CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1 * LEARNING_RATE)


@pytest.mark.parametrize(
    ("model_class", "schedule_of", "late"),
    [
        ("MMRecModel", cosine_alone, 0),
        ("MMRecModel", cosine_alone, 3),
        (
            "MMRecModel",
            functools.partial(warmed_up, steps=30, warmup=4, min_lr=0.1 * LEARNING_RATE),
            0,
        ),
        # The cosine is at its end after 20 steps, and rises again.
        (
            "MMRecModel",
            functools.partial(warmed_up, steps=20, warmup=16, start_factor=0.01, min_lr=3e-4),
            0,
        ),
        # A second schedule, which has made fewer steps in all than the optimizer so far.
        ("MMRecModel", functools.partial(warmed_up, steps=11, warmup=4, min_lr=3e-4), 10),
        ("MMRec100M", cosine_alone, 0),  # trained jointly
    ],
)
def test_other_trainers_of_the_original_go_on_in_jax_and_back(
    model_class, schedule_of, late, tmp_path, resume_in_torch, train_twin
):
    """`late` steps are made before the schedule counts any."""
    batches = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (36, 2, 9)).astype(np.int32)
    alone = new_session(schedule_of=schedule_of, model_class=model_class)
    train_twin(*alone[:2], types.SimpleNamespace(step=lambda: None), batches[:late])
    train_twin(*alone, batches[late:12])
    save_in_torch(tmp_path / "12.pt", *alone, step=96)  # of micro-batches
    assert bridge.load(tmp_path / "12.pt").step == 12
    expected, _ = train_twin(*alone, batches[12:24])

    losses = train_in_jax(tmp_path / "12.pt", tmp_path / "24.pt", batches[12:24])
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    assert difference(weights_in(tmp_path / "24.pt"), weights_of(alone[0])) <= 1e-5
    resumed = resume_in_torch(tmp_path / "24.pt", schedule_of)
    for found, wanted in zip(resumed[1:], alone[1:], strict=True):
        assert found.state_dict().keys() == wanted.state_dict().keys()
    assert resumed[2].get_last_lr() == alone[2].get_last_lr()
    assert resumed[1].param_groups[0]["lr"] == alone[1].param_groups[0]["lr"]

    expected, _ = train_twin(*alone, batches[24:])
    losses, _ = train_twin(*resumed, batches[24:])
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    assert difference(weights_of(resumed[0]), weights_of(alone[0])) <= 1e-5


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
