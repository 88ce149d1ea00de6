"""The bridge between JAX models and the original's PyTorch checkpoints, both ways, bit for bit.

The only package that imports torch. docs/model.md section 6 describes the files.
"""

from bridge.checkpoint import LoadedCheckpoint, load_torch, save_torch
from bridge.errors import (
    BridgeError,
    ConfigError,
    FormatError,
    MismatchError,
    NonFiniteWarning,
    UnreadableFileError,
    UnsafeFileError,
    UnwritableFileError,
)
from bridge.optimizer import OptimizerState, adamw_hyperparameters
from bridge.schedule import SchedulerState

__all__ = [
    "BridgeError",
    "ConfigError",
    "FormatError",
    "LoadedCheckpoint",
    "MismatchError",
    "NonFiniteWarning",
    "OptimizerState",
    "SchedulerState",
    "UnreadableFileError",
    "UnsafeFileError",
    "UnwritableFileError",
    "adamw_hyperparameters",
    "load_torch",
    "save_torch",
]
