"""The bridge between JAX models and the original's PyTorch checkpoints, both ways, bit for bit.

The only package that imports torch. docs/model.md section 6 describes the files.
"""

from bridge.any_format import load, save_file
from bridge.checkpoint import (
    LoadedCheckpoint,
    load_safetensors,
    load_torch,
    save_safetensors,
    save_torch,
)
from bridge.comparison import Comparison, compare
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
from bridge.inspection import Inspection, inspect
from bridge.optimizer import OptimizerState, adamw_hyperparameters
from bridge.orbax_folder import load_orbax, save_orbax
from bridge.partial import LoadReport, load_partial
from bridge.schedule import SchedulerState

__all__ = [
    "BridgeError",
    "Comparison",
    "ConfigError",
    "FormatError",
    "Inspection",
    "LoadReport",
    "LoadedCheckpoint",
    "MismatchError",
    "NonFiniteWarning",
    "OptimizerState",
    "SchedulerState",
    "UnreadableFileError",
    "UnsafeFileError",
    "UnwritableFileError",
    "adamw_hyperparameters",
    "compare",
    "inspect",
    "load",
    "load_orbax",
    "load_partial",
    "load_safetensors",
    "load_torch",
    "save_file",
    "save_orbax",
    "save_safetensors",
    "save_torch",
]
