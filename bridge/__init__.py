"""The bridge between JAX models and the original's PyTorch checkpoints, both ways, bit for bit.

The only package that imports torch. docs/model.md section 6 describes the files. Other packages use
the names below and nothing else of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.any_format import load as load
    from bridge.any_format import save_file as save_file
    from bridge.checkpoint import LoadedCheckpoint as LoadedCheckpoint
    from bridge.checkpoint import load_safetensors as load_safetensors
    from bridge.checkpoint import load_torch as load_torch
    from bridge.checkpoint import save_safetensors as save_safetensors
    from bridge.checkpoint import save_torch as save_torch
    from bridge.comparison import Comparison as Comparison
    from bridge.comparison import compare as compare
    from bridge.config.metadata import in_full as in_full
    from bridge.errors import BridgeError as BridgeError
    from bridge.errors import ConfigError as ConfigError
    from bridge.errors import FormatError as FormatError
    from bridge.errors import MismatchError as MismatchError
    from bridge.errors import NonFiniteWarning as NonFiniteWarning
    from bridge.errors import UnreadableFileError as UnreadableFileError
    from bridge.errors import UnsafeFileError as UnsafeFileError
    from bridge.errors import UnwritableFileError as UnwritableFileError
    from bridge.files.disk import replace_folder as replace_folder
    from bridge.files.disk import replacing_file as replacing_file
    from bridge.files.disk import replacing_folder as replacing_folder
    from bridge.files.disk import restore_folder as restore_folder
    from bridge.files.manifest import MANIFEST as MANIFEST
    from bridge.files.manifest import changed_file as changed_file
    from bridge.files.manifest import describe_files as describe_files
    from bridge.inspection import Inspection as Inspection
    from bridge.inspection import inspect as inspect
    from bridge.keys import Model as Model
    from bridge.optimizer import OptimizerState as OptimizerState
    from bridge.optimizer import adamw_hyperparameters as adamw_hyperparameters
    from bridge.orbax_folder import load_orbax as load_orbax
    from bridge.orbax_folder import save_orbax as save_orbax
    from bridge.orbax_folder import stage_folder as stage_folder
    from bridge.orbax_folder import state_folder as state_folder
    from bridge.orbax_folder import steps as steps
    from bridge.partial import LoadReport as LoadReport
    from bridge.partial import load_partial as load_partial
    from bridge.schedule import SchedulerState as SchedulerState
    from bridge.schedule import warmup_cosine as warmup_cosine
    from bridge.utf8 import use_utf8 as use_utf8
    from bridge.weights import class_name as class_name
    from bridge.weights import variables as variables

_NAMES = {
    "any_format": ("load", "save_file"),
    "checkpoint": (
        "LoadedCheckpoint",
        "load_safetensors",
        "load_torch",
        "save_safetensors",
        "save_torch",
    ),
    "comparison": ("Comparison", "compare"),
    "errors": (
        "BridgeError",
        "ConfigError",
        "FormatError",
        "MismatchError",
        "NonFiniteWarning",
        "UnreadableFileError",
        "UnsafeFileError",
        "UnwritableFileError",
    ),
    "files.disk": ("replace_folder", "replacing_file", "replacing_folder", "restore_folder"),
    "files.manifest": ("MANIFEST", "changed_file", "describe_files"),
    "inspection": ("Inspection", "inspect"),
    "keys": ("Model",),
    "config.metadata": ("in_full",),
    "optimizer": ("OptimizerState", "adamw_hyperparameters"),
    "orbax_folder": ("load_orbax", "save_orbax", "stage_folder", "state_folder", "steps"),
    "partial": ("LoadReport", "load_partial"),
    "schedule": ("SchedulerState", "warmup_cosine"),
    "utf8": ("use_utf8",),
    "weights": ("class_name", "variables"),
}
_MODULES = {name: f"bridge.{module}" for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a name's module when it is asked for: data preparation needs no JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
