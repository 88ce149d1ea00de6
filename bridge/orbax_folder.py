"""Checkpoints as folders that Orbax writes (docs/model.md section 6.6): whole or not there.

    RUN/state/N/arrays/          the model and AdamW's moments in JAX's layout, written by Orbax
    RUN/state/N/checkpoint.json  all else: class and config, step, loss, hyperparameters, schedule
    RUN/state/N/manifest.json    size and SHA-256 of every file above

A folder is written beside its place and renamed when it is complete.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from bridge import model_config, weights
from bridge.checkpoint import LoadedCheckpoint, check_rate, stated_by
from bridge.errors import (
    BridgeError,
    FormatError,
    MismatchError,
    UnreadableFileError,
    UnwritableFileError,
    about,
    unwritable,
)
from bridge.files import disk, manifest
from bridge.files.disk import PathLike
from bridge.files.plain_data import from_json, to_json
from bridge.files.tensors import Array
from bridge.keys import Model, Path, entries, named_parameters
from bridge.optimizer import OptimizerState, check_moments
from bridge.schedule import SchedulerState
from mmrec_jax import ModelConfig

_FORMAT = "mmrec-jax checkpoint"
_VERSION = 1
_ARRAYS = "arrays"
_CONTENT = "checkpoint.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")

_MOST_COMPRESSION = 30
"""Times as many bytes as a folder holds that its arrays may have; moments begin as zeros."""

_FREE_BYTES = 2**26
"""Bytes that any folder's arrays may have."""

Arrays = Mapping[Path, jax.Array | Array]


def steps(run: PathLike) -> list[int]:
    """The steps of a run's complete states, in order."""
    folder = FilePath(run) / "state"
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdecimal()
        and (path / _CONTENT).is_file()
        and (path / manifest.MANIFEST).is_file()
    )


def state_folder(run: PathLike, step: int) -> FilePath:
    """Where a run's state after `step` steps lies."""
    return FilePath(run) / "state" / str(step)


def save_orbax(
    folder: PathLike,
    model: Model,
    *,
    optimizer_state: OptimizerState | None = None,
    scheduler_state: SchedulerState | None = None,
    step: int = 0,
    avg_loss: float = 0.0,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint as a new folder; the arguments are those of `save_torch`.

    Raises:
        BridgeError: the folder exists or cannot be written, or the training state is not the
            model's.
        TypeError: the model is none of ours.
    """
    target = FilePath(folder)
    with about(folder):
        described = stated_by(model, metadata)
        check_rate(optimizer_state, scheduler_state)
        trees = {"model": weights.variables(model)}
        optimizer = None
        if optimizer_state is not None:
            table = entries(weights.class_name(model), model.config)
            check_moments(optimizer_state, named_parameters(table))
            trees |= {name: getattr(optimizer_state, name) for name in _MOMENTS}
            optimizer = {
                "step": optimizer_state.step,
                "hyperparameters": optimizer_state.hyperparameters,
            }
        schedule = None if scheduler_state is None else dataclasses.asdict(scheduler_state)
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "step": int(step),
            "avg_loss": float(avg_loss),
            "optimizer": optimizer,
            "schedule": schedule,
            "metadata": described,
        }
        arrays = {
            (name, *path): array
            for name, tree in trees.items()
            for path, array in _stacked(tree, model.config.num_layers).items()
        }
        with unwritable():
            _write(target, arrays, to_json(content))


def load_orbax(folder: PathLike, *, model_only: bool = False) -> LoadedCheckpoint:
    """Reads a checkpoint that `save_orbax` wrote.

    Args:
        folder: the checkpoint's, or a run's, whose newest state is read.
        model_only: leave optimizer and schedule alone; the step is 0 then.

    Raises:
        BridgeError: it is no such folder, a file is missing or damaged, or the arrays are not
            those of the model; the message is one line that begins with the path.
    """
    place = find(folder)
    with about(place):
        content = _read_content(place)
        try:
            metadata = content["metadata"]
            model_class, stated = model_config.find(content)
            if model_class is None:
                raise KeyError("model_class")
            step, avg_loss = int(content["step"]), float(content["avg_loss"])
            adamw, schedule = content["optimizer"], content["schedule"]
            config = model_config.resolve(model_class, stated, None, None)
            trees = _read_arrays(place, model_class, config)
            exp_avg, exp_avg_sq = (trees.get(name, {}) for name in _MOMENTS)
            if model_only:
                step, adamw, schedule = 0, None, None
            return LoadedCheckpoint(
                model=weights.assemble(model_class, config, trees["model"]),
                optimizer_state=None
                if adamw is None
                else OptimizerState(**adamw, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq),
                scheduler_state=None if schedule is None else SchedulerState(**schedule),
                step=step,
                avg_loss=avg_loss,
                metadata=metadata,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FormatError(f"{_CONTENT} is not what the bridge writes") from None


def find(path: PathLike) -> FilePath:
    """The folder of a checkpoint: the path itself, or the newest state of a run.

    Raises:
        UnreadableFileError: it is neither.
    """
    folder = FilePath(path)
    if (folder / _CONTENT).is_file():
        return folder
    saved = steps(folder)
    if saved:
        return state_folder(folder, saved[-1])
    with about(path):
        if not folder.is_dir():
            raise UnreadableFileError("no such folder: name a run's, or one of its states")
        runs = [run for run in (folder.parent, *sorted(folder.iterdir())) if steps(run)]
        hint = f": did you mean {runs[0]}?" if runs else ", neither itself nor in state/"
        raise UnreadableFileError(f"holds no complete checkpoint{hint}")


def _write(target: FilePath, arrays: Arrays, content: str) -> None:
    if target.exists():
        raise UnwritableFileError("exists already: choose another folder")
    with disk.replacing_folder(target) as partial:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial.resolve() / _ARRAYS, _nested(arrays))
            checkpointer.wait_until_finished()
        (partial / _CONTENT).write_text(content + "\n", encoding="utf-8")
        described = json.dumps(manifest.describe_files(partial), indent=1)
        (partial / manifest.MANIFEST).write_text(described + "\n", encoding="utf-8")


def _read_content(folder: FilePath) -> dict[str, Any]:
    try:
        described = json.loads((folder / manifest.MANIFEST).read_text(encoding="utf-8"))
        damaged = manifest.changed_file(folder, described)
        unlisted = manifest.unlisted_file(folder, described)
        text = (folder / _CONTENT).read_text(encoding="utf-8")
    except OSError as error:
        name = FilePath(error.filename or folder).name
        raise UnreadableFileError(f"cannot read {name}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UnreadableFileError(f"its {manifest.MANIFEST} is damaged") from None
    if damaged:
        raise UnreadableFileError(f"damaged: the SHA-256 of {damaged} has changed")
    if unlisted:
        raise UnreadableFileError(f"its {manifest.MANIFEST} does not list {unlisted}")
    content = from_json(text)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FormatError(f"{_CONTENT} is not what the bridge writes")
    if content.get("version") != _VERSION:
        raise FormatError(
            f"{_CONTENT} has version {content.get('version')}, this program reads {_VERSION}"
        )
    return content


def _read_arrays(
    folder: FilePath, model_class: str, config: ModelConfig
) -> dict[str, dict[Path, jax.Array]]:
    """The arrays of the model and of the moments, after checking that they are the config's."""
    shapes = {
        entry.path: entry.shape[::-1] if entry.transpose else entry.shape
        for entry in entries(model_class, config)
        if entry.path is not None
    }
    place = folder.resolve() / _ARRAYS
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            # Orbax fills or cuts shapes, and casts, to what it is asked for: ask for what is there.
            saved = dict(checkpointer.metadata(place).item_metadata)
            _check_shapes(saved, shapes, config.num_layers)
            _check_extent(saved, folder)
            abstract = jax.eval_shape(
                lambda: jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), saved)
            )
            restored = checkpointer.restore(place, abstract)
    except BridgeError:
        raise
    except Exception as error:  # of Orbax and TensorStore, in many kinds
        reason = f"{error!s:.200}"
        raise UnreadableFileError(f"Orbax cannot read {_ARRAYS}: {reason}") from None
    trees = {name: _unstacked(tree) for name, tree in restored.items()}
    missing = [".".join(map(str, path)) for path in shapes if path not in trees["model"]]
    if missing:
        raise MismatchError("its arrays are not its config's", {"missing": missing})
    return trees


def _check_shapes(saved: Mapping[str, Any], shapes: Mapping[Path, Any], layers: int) -> None:
    """Makes sure that each array is one that the config has, before any is allocated."""
    wrong = []
    for (name, *keys), array in _leaves(saved):
        path, stacked = _layer_path(tuple(keys))
        wanted = shapes.get(path)
        if stacked and wanted is not None:
            wanted = (layers, *wanted)
        if name not in ("model", *_MOMENTS) or tuple(array.shape) != wanted:
            wrong.append(f"{'.'.join([name, *keys])} is {list(array.shape)}")
    if wrong or "model" not in saved:
        raise MismatchError("its arrays are not its config's", {"misshapen or unexpected": wrong})


def _check_extent(saved: Mapping[str, Any], folder: FilePath) -> None:
    """A few bytes can claim any number of zeros, as Orbax compresses."""
    claimed = sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for _, a in _leaves(saved))
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if claimed > _MOST_COMPRESSION * stored + _FREE_BYTES:
        raise FormatError(f"its arrays claim {claimed} bytes, and it holds {stored}")


def _leaves(tree: Any) -> list[tuple[list[str], Any]]:
    return [
        ([str(key.key) for key in keys], array)
        for keys, array in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _layer_path(keys: tuple[str, ...]) -> tuple[Path, bool]:
    """The path of an array in the model; of one of all layers, the first layer's, and True."""
    if "blocks" not in keys[:-1]:
        return keys, False
    place = keys.index("blocks") + 1
    if keys[place].isdecimal():
        return (*keys[:place], int(keys[place]), *keys[place + 1 :]), False
    return (*keys[:place], 0, *keys[place:]), True


def _stacked(tree: Arrays, layers: int) -> dict[Path, jax.Array | Array]:
    """The blocks' arrays one for all layers, as training has them, instead of one for each.

    What not every layer has alike (a parameter without a moment in one of them) stays by itself,
    under its layer's number.
    """
    groups: dict[Path, dict[int, jax.Array | Array]] = {}
    result: dict[Path, jax.Array | Array] = {}
    for path, array in tree.items():
        if "blocks" in path:
            place = path.index("blocks") + 1
            layer = path[place]
            assert isinstance(layer, int)
            groups.setdefault((*path[:place], *path[place + 1 :]), {})[layer] = array
        else:
            result[path] = array
    for path, group in groups.items():
        if len(group) == layers and len({(a.shape, a.dtype) for a in group.values()}) == 1:
            result[path] = np.stack([np.asarray(group[layer]) for layer in range(layers)])
            continue
        place = path.index("blocks") + 1
        for layer, array in group.items():
            result[(*path[:place], layer, *path[place:])] = array
    return result


def _unstacked(tree: Mapping[str, Any]) -> dict[Path, jax.Array]:
    result: dict[Path, jax.Array] = {}
    for keys, array in _leaves(tree):
        path, stacked = _layer_path(tuple(keys))
        if not stacked:
            result[path] = array
            continue
        place = path.index("blocks") + 1
        for layer, values in enumerate(np.asarray(array)):
            result[(*path[:place], layer, *path[place + 1 :])] = jax.device_put(values)
    return result


def _nested(arrays: Arrays) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(str(name), {})
        node[str(path[-1])] = array
    return tree
