"""Compares training in bfloat16 and float32: losses with the same data and start."""

import os
import sysconfig
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrec_jax import ModelConfig
from train.data.batches import batch_of
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.stages.base import initial_model
from train.step.trainer import Trainer

STEPS, BATCH, TOKENS = 300, 16, 128
MODEL = ModelConfig(
    vocab_size=256, model_dim=128, num_layers=4, num_heads=4, ffn_dim=512, dropout=0.0
)


def losses(precision: str) -> list[float]:
    """The training loss of each step on the bytes of Python's own library."""
    config = Config(
        data_dir="unused",
        run_dir="unused",
        model=MODEL,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=30),
        training=TrainingConfig(steps=STEPS, accumulation=1, precision=precision),  # type: ignore[arg-type]
    )
    model = initial_model(config)
    trainer = Trainer(config, model)
    state = trainer.initial_state(model)
    data, places = _library(), np.random.default_rng(0)
    found = []
    for _ in range(STEPS):
        starts = places.integers(0, len(data) - TOKENS - 1, BATCH)
        tokens = np.stack([data[start : start + TOKENS + 1] for start in starts]).astype(np.int32)
        grads, metrics = trainer.gradient(state, batch_of(tokens), 0)
        state, _ = trainer.update(state, grads)
        found.append(float(metrics["loss"]))
    return found


def _library() -> npt.NDArray[np.uint8]:
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(name for name in os.listdir(folder) if name.endswith(".py"))
    return np.frombuffer(b"".join((folder / name).read_bytes() for name in files), np.uint8)
