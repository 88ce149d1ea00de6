"""Checkpoints as folders that Orbax writes (docs/model.md section 6.6), complete or absent.

    RUN/state/N/arrays/          the model and AdamW's moments in JAX's layout, written by Orbax
    RUN/state/N/checkpoint.json  the rest: class and config, step, loss, hyperparameters, schedule
    RUN/state/N/manifest.json    size and SHA-256 of every file above

A folder is written under another name and renamed when it is complete.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np

from bridge import weights
from bridge.checkpoint import (
    LoadedCheckpoint,
    TrainingState,
    check_rate,
    full_metadata,
    with_training_state,
)
from bridge.config.metadata import stated_config
from bridge.config.resolve import resolve_config
from bridge.errors import (
    BridgeError,
    FormatError,
    MismatchError,
    UnreadableFileError,
    UnwritableFileError,
    errors_about,
    unwritable,
)
from bridge.files import disk, manifest
from bridge.files.disk import PathLike
from bridge.files.plain_data import from_json, to_json
from bridge.keys import Model, entries, named_parameters
from bridge.one_error import one_error
from bridge.optimizer import MOMENTS, OptimizerState, check_moments
from bridge.schedule import SchedulerState
from bridge.stage_folders import CONTENT, find_state
from mmrec_jax import ModelConfig
from mmrec_jax.layer_paths import AnyArray, VariablePath, is_stacked, layer_path, stack, unstack

_FORMAT = "mmrec-jax checkpoint"
_VERSION = 1
_ARRAYS = "arrays"

_MOST_COMPRESSION = 30
"""How many times as large as a folder its arrays may be; moments begin as zeros."""

_FREE_BYTES = 2**26
"""However small a folder is, its arrays may have so many bytes."""

Arrays = Mapping[VariablePath, AnyArray]


def save_orbax(folder: PathLike, model: Model, **training_state: Unpack[TrainingState]) -> None:
    """Writes a checkpoint as a new folder; the arguments are those of `save_torch`.

    Raises:
        BridgeError: the folder exists or cannot be written, or the training state does not fit the
            model.
        TypeError: the model is not one of ours.
    """
    write_orbax(folder, with_training_state(model, **training_state))


def write_orbax(folder: PathLike, checkpoint: LoadedCheckpoint) -> None:
    """As `save_orbax`."""
    with errors_about(folder):
        metadata = full_metadata(checkpoint)
        adamw, schedule = checkpoint.optimizer_state, checkpoint.scheduler_state
        check_rate(adamw, schedule)
        trees = {"model": weights.variables(checkpoint.model)}
        if adamw is not None:
            table = entries(metadata["model_class"], checkpoint.config)
            check_moments(adamw, named_parameters(table))
            trees |= {name: dict(getattr(adamw, name)) for name in MOMENTS}
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "step": int(checkpoint.step),
            "stated_step": checkpoint.stated_step,
            "avg_loss": float(checkpoint.avg_loss),
            "optimizer": None
            if adamw is None
            else {"step": adamw.step, "hyperparameters": adamw.hyperparameters},
            "schedule": None if schedule is None else dataclasses.asdict(schedule),
            "metadata": metadata,
        }
        layers = range(checkpoint.config.num_layers)
        arrays = {
            (name, *path): array
            for name, tree in trees.items()
            for path, array in stack(tree, layers).items()
        }
        with unwritable():
            _write(Path(folder), arrays, to_json(content))


def load_orbax(folder: PathLike, *, model_only: bool = False) -> LoadedCheckpoint:
    """Reads a checkpoint that `save_orbax` wrote.

    Args:
        folder: a checkpoint's folder, or a run's, whose newest state is read.
        model_only: ignore optimizer and schedule; then the step is 0.

    Raises:
        BridgeError: it is not such a folder, a file is missing or damaged, or the arrays are not
            those of the model; the message is one line that begins with the path.
    """
    place = find_state(folder)
    with errors_about(place):
        content = _read_content(place)
        try:
            metadata = content["metadata"]
            model_class, stated = stated_config(content)
            if model_class is None:
                raise KeyError("model_class")
            step, avg_loss = int(content["step"]), float(content["avg_loss"])
            stated_step = content.get("stated_step")
            adamw, schedule = content["optimizer"], content["schedule"]
            config = resolve_config(model_class, stated, None, None)
            trees = _read_arrays(place, model_class, config)
            exp_avg, exp_avg_sq = (trees.get(name, {}) for name in MOMENTS)
            if model_only:
                step, stated_step, adamw, schedule = 0, None, None, None
            return LoadedCheckpoint(
                model=weights.assemble(model_class, config, trees["model"]),
                optimizer_state=None
                if adamw is None
                else OptimizerState(**adamw, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq),
                scheduler_state=None if schedule is None else SchedulerState(**schedule),
                step=step,
                stated_step=stated_step,
                avg_loss=avg_loss,
                metadata=metadata,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FormatError(f"{CONTENT} is not what the bridge writes") from None


def _write(target: Path, arrays: Arrays, content: str) -> None:
    if target.exists():
        raise UnwritableFileError("exists already: choose another folder")
    import orbax.checkpoint as ocp  # only now: a run need not wait for it at its start

    # Compression would take as long as all else together, and gain a twelfth.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=_alone())
    with disk.replacing_folder(target) as partial:
        # Orbax merges what its processes wrote by a glob on the path, so a "[" would lose it all.
        with (
            disk.path_without_pattern(partial) as place,
            one_error(_ARRAYS),
            ocp.Checkpointer(handler, multiprocessing_options=_alone()) as checkpointer,
        ):
            checkpointer.save(place / _ARRAYS, _nested(arrays))
        if not (partial / _ARRAYS / "manifest.ocdbt").is_file():
            raise UnwritableFileError("Orbax lost the arrays: choose a plainer path")
        (partial / CONTENT).write_text(content + "\n", encoding="utf-8")
        described = json.dumps(manifest.describe_files(partial), indent=1)
        (partial / manifest.MANIFEST).write_text(described + "\n", encoding="utf-8")


def _alone() -> Any:
    """Says that this process works alone: else Orbax waits for all of `jax.distributed`."""
    from orbax.checkpoint.options import MultiprocessingOptions

    own = jax.process_index()
    return MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )


def _read_content(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / manifest.MANIFEST).read_text(encoding="utf-8"))
        damaged = manifest.changed_file(folder, described)
        unlisted = manifest.unlisted_file(folder, described)
        text = (folder / CONTENT).read_text(encoding="utf-8")
    except OSError as error:
        name = Path(error.filename or folder).name
        raise UnreadableFileError(f"cannot read {name}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UnreadableFileError(f"its {manifest.MANIFEST} is damaged") from None
    if damaged:
        raise UnreadableFileError(f"damaged: the SHA-256 of {damaged} has changed")
    if unlisted:
        raise UnreadableFileError(f"its {manifest.MANIFEST} does not list {unlisted}")
    content = from_json(text)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FormatError(f"{CONTENT} is not what the bridge writes")
    if content.get("version") != _VERSION:
        raise FormatError(
            f"{CONTENT} has version {content.get('version')}, this program reads {_VERSION}"
        )
    return content


def _read_arrays(
    folder: Path, model_class: str, config: ModelConfig
) -> dict[str, dict[VariablePath, jax.Array]]:
    """The arrays of the model and of the moments, after checking that they are the config's."""
    import orbax.checkpoint as ocp

    shapes = {
        entry.path: entry.shape[::-1] if entry.transpose else entry.shape
        for entry in entries(model_class, config)
        if entry.path is not None
    }
    try:
        with (
            disk.path_without_pattern(folder) as parent,
            ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer,
        ):
            place = parent / _ARRAYS
            # Orbax pads, truncates and casts to what it is asked for: ask for the stored shape.
            saved = dict(checkpointer.metadata(place).item_metadata)
            _check_shapes(saved, shapes, config.num_layers)
            _check_extent(saved, folder)
            # numpy arrays make Orbax restore to the host; these take no memory.
            wanted = jax.tree.map(
                lambda array: np.broadcast_to(np.zeros((), array.dtype), array.shape), saved
            )
            restored = checkpointer.restore(place, wanted)
    except BridgeError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
        reason = f"{error!s:.200}"
        raise UnreadableFileError(f"Orbax cannot read {_ARRAYS}: {reason}") from None
    trees = {
        name: {path: jax.device_put(array) for path, array in unstack(dict(_leaves(tree))).items()}
        for name, tree in restored.items()
    }
    missing = [".".join(map(str, path)) for path in shapes if path not in trees["model"]]
    if missing:
        raise MismatchError("its arrays are not its config's", {"missing": missing})
    return trees


def _check_shapes(
    saved: Mapping[str, Any], shapes: Mapping[VariablePath, Any], layers: int
) -> None:
    """Makes sure that each array belongs to the config, before any is allocated."""
    wrong = []
    # The model first: its moments have the same shapes.
    for name, tree in sorted(saved.items(), key=lambda item: item[0] != "model"):
        for path, array in _leaves(tree):
            wanted = shapes.get(path)
            if is_stacked(path):
                one = shapes.get(layer_path(path, 0))
                wanted = None if one is None else (layers, *one)
            if name not in ("model", *MOMENTS) or tuple(array.shape) != wanted:
                wrong.append(f"{'.'.join(map(str, [name, *path]))} is {list(array.shape)}")
    if wrong or "model" not in saved:
        raise MismatchError("its arrays are not its config's", {"misshapen or unexpected": wrong})


def _check_extent(saved: Mapping[str, Any], folder: Path) -> None:
    """Refuses arrays far larger than their files: Orbax compresses, so few bytes can claim many."""
    claimed = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for _, a in _leaves(saved))
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if claimed > _MOST_COMPRESSION * stored + _FREE_BYTES:
        raise FormatError(f"its arrays claim {claimed} bytes, and it holds {stored}")


def _leaves(tree: Any) -> list[tuple[VariablePath, Any]]:
    """Orbax's arrays by path, with the numbers of layers as numbers again."""
    return [
        (
            tuple(int(name) if name.isdecimal() else name for name in (str(k.key) for k in keys)),
            array,
        )
        for keys, array in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _nested(arrays: Arrays) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(str(name), {})
        node[str(path[-1])] = array
    return tree
