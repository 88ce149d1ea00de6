"""The bridge between JAX models and the original's PyTorch checkpoints, both ways, bit for bit.

It is the only package that imports torch. docs/model.md section 6 describes the files. Other
packages use only the names below.
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
    from bridge.commands.parser import build_parser as build_parser
    from bridge.comparison import Comparison as Comparison
    from bridge.comparison import compare as compare
    from bridge.config.metadata import in_full as in_full
    from bridge.config.wording import closest as closest
    from bridge.config.wording import type_in_words as type_in_words
    from bridge.config.wording import unknown_argument as unknown_argument
    from bridge.config.wording import with_own_dashes as with_own_dashes
    from bridge.config.yaml_keys import keys_of as keys_of
    from bridge.config.yaml_keys import read_yaml as read_yaml
    from bridge.config.yaml_keys import wrong_line as wrong_line
    from bridge.errors import BridgeError as BridgeError
    from bridge.errors import ConfigError as ConfigError
    from bridge.errors import FileWarning as FileWarning
    from bridge.errors import FormatError as FormatError
    from bridge.errors import MismatchError as MismatchError
    from bridge.errors import NonFiniteWarning as NonFiniteWarning
    from bridge.errors import UnreadableFileError as UnreadableFileError
    from bridge.errors import UnsafeFileError as UnsafeFileError
    from bridge.errors import UnwritableFileError as UnwritableFileError
    from bridge.errors import in_words as in_words
    from bridge.errors import listed as listed
    from bridge.files.disk import is_unfinished as is_unfinished
    from bridge.files.disk import naming as naming
    from bridge.files.disk import replace_folder as replace_folder
    from bridge.files.disk import replacing_file as replacing_file
    from bridge.files.disk import replacing_folder as replacing_folder
    from bridge.files.disk import restore_folder as restore_folder
    from bridge.files.lock import locked as locked
    from bridge.files.lock import run_lock as run_lock
    from bridge.files.manifest import MANIFEST as MANIFEST
    from bridge.files.manifest import changed_file as changed_file
    from bridge.files.manifest import describe_files as describe_files
    from bridge.files.manifest import is_intact as is_intact
    from bridge.huggingface.tokenizer import NAMES_OF_END_OF_TEXT as NAMES_OF_END_OF_TEXT
    from bridge.huggingface.tokenizer import end_of_text_in as end_of_text_in
    from bridge.inspection import Inspection as Inspection
    from bridge.inspection import inspect as inspect
    from bridge.keys import Model as Model
    from bridge.keys import parameter_counts as parameter_counts
    from bridge.language_model import EMBEDDING_DIGEST as EMBEDDING_DIGEST
    from bridge.language_model import TOKENIZER_DIGEST as TOKENIZER_DIGEST
    from bridge.language_model import embedding_digest as embedding_digest
    from bridge.language_model import file_digest as file_digest
    from bridge.language_model import first_file as first_file
    from bridge.language_model import joined as joined
    from bridge.language_model import run_folders as run_folders
    from bridge.optimizer import OptimizerState as OptimizerState
    from bridge.optimizer import adamw_hyperparameters as adamw_hyperparameters
    from bridge.orbax_folder import load_orbax as load_orbax
    from bridge.orbax_folder import save_orbax as save_orbax
    from bridge.partial import LoadReport as LoadReport
    from bridge.partial import load_partial as load_partial
    from bridge.resumability import disagreement as disagreement
    from bridge.resumability import dtype_obstacle as dtype_obstacle
    from bridge.resumability import obstacles as obstacles
    from bridge.schedule import ScheduleForm as ScheduleForm
    from bridge.schedule import SchedulerState as SchedulerState
    from bridge.schedule import warmup_cosine as warmup_cosine
    from bridge.stage_folders import find_state as find_state
    from bridge.stage_folders import stage_folder as stage_folder
    from bridge.stage_folders import stage_in as stage_in
    from bridge.stage_folders import state_folder as state_folder
    from bridge.stage_folders import steps as steps
    from bridge.utf8 import CLOSED as CLOSED
    from bridge.utf8 import OUTPUT as OUTPUT
    from bridge.utf8 import flush_output as flush_output
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
    "commands.parser": ("build_parser",),
    "comparison": ("Comparison", "compare"),
    "errors": (
        "BridgeError",
        "ConfigError",
        "FileWarning",
        "FormatError",
        "MismatchError",
        "NonFiniteWarning",
        "UnreadableFileError",
        "UnsafeFileError",
        "UnwritableFileError",
        "in_words",
        "listed",
    ),
    "files.disk": (
        "is_unfinished",
        "naming",
        "replace_folder",
        "replacing_file",
        "replacing_folder",
        "restore_folder",
    ),
    "files.lock": ("locked", "run_lock"),
    "files.manifest": ("MANIFEST", "changed_file", "describe_files", "is_intact"),
    "huggingface.tokenizer": ("NAMES_OF_END_OF_TEXT", "end_of_text_in"),
    "inspection": ("Inspection", "inspect"),
    "keys": ("Model", "parameter_counts"),
    "language_model": (
        "EMBEDDING_DIGEST",
        "TOKENIZER_DIGEST",
        "embedding_digest",
        "file_digest",
        "first_file",
        "joined",
        "run_folders",
    ),
    "config.metadata": ("in_full",),
    "config.wording": ("closest", "type_in_words", "unknown_argument", "with_own_dashes"),
    "config.yaml_keys": ("keys_of", "read_yaml", "wrong_line"),
    "optimizer": ("OptimizerState", "adamw_hyperparameters"),
    "orbax_folder": ("load_orbax", "save_orbax"),
    "partial": ("LoadReport", "load_partial"),
    "resumability": ("disagreement", "dtype_obstacle", "obstacles"),
    "schedule": ("ScheduleForm", "SchedulerState", "warmup_cosine"),
    "stage_folders": ("find_state", "stage_folder", "stage_in", "state_folder", "steps"),
    "utf8": ("CLOSED", "OUTPUT", "flush_output", "use_utf8"),
    "weights": ("class_name", "variables"),
}
_MODULES = {name: f"bridge.{module}" for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a module when one of its names is first used: data preparation needs no JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion and `help`."""
    return sorted({*globals(), *__all__})
