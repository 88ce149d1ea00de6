"""A run's training states and the checkpoints that hold them: one content, two forms on disk.

    state/N/       what --resume goes on from (bridge/orbax_folder.py)
    NAME_step_N.pt the same for PyTorch

A checkpoint that another program wrote becomes a training state in the same way.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import optax

import bridge
from bridge.keys import Model
from bridge.keys import Path as VariablePath
from bridge.model_config import in_full
from bridge.orbax_folder import state_folder
from bridge.orbax_folder import steps as steps
from bridge.weights import class_name, variables
from mmrec_jax import ModelConfig
from train.settings.config import Config
from train.step.frozen import Arrays, Network, Parameters
from train.step.optimizer import AdamWState
from train.step.trainer import Trainer, TrainState
from train.system.errors import UserError

Moments = Mapping[VariablePath, jax.Array]

_FREE = ("dropout", "lambda_P", "mem_dim")
"""Entries of a checkpoint's config that the weights do not depend on."""


def checkpoint_of(
    trainer: Trainer,
    state: TrainState,
    avg_loss: float,
    metadata: Mapping[str, Any],
) -> bridge.LoadedCheckpoint:
    """All of a training state, its random key excepted, which the config's seed gives.

    Args:
        trainer: the run's.
        state: its state.
        avg_loss: the loss to state.
        metadata: plain data to keep in it.
    """
    config, total_steps = trainer.config.optimizer, trainer.config.training.steps
    step = int(state.step)
    schedule = bridge.SchedulerState(
        base_lr=config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=total_steps,
        step=step,
    )
    adamw = _adamw(state.optimizer)
    return bridge.LoadedCheckpoint(
        model=trainer.model_of(state),
        optimizer_state=bridge.OptimizerState(
            step=step,
            exp_avg=_by_path(adamw.exp_avg, trainer.parameters),
            exp_avg_sq=_by_path(adamw.exp_avg_sq, trainer.parameters),
            hyperparameters=bridge.adamw_hyperparameters(
                learning_rate=schedule.learning_rate(),
                initial_learning_rate=config.learning_rate,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                weight_decay=config.weight_decay,
            ),
        ),
        scheduler_state=schedule,
        step=step,
        avg_loss=avg_loss,
        metadata=dict(metadata),
    )


def state_of(trainer: Trainer, checkpoint: bridge.LoadedCheckpoint) -> TrainState:
    """The training state that a checkpoint holds, its model being what the trainer trains.

    Raises:
        UserError: its optimizer's state does not allow to go on.
    """
    state = trainer.initial_state(cast(Network, checkpoint.model))
    saved = checkpoint.optimizer_state
    if saved is None:
        if checkpoint.step:
            raise UserError(
                f"the checkpoint after {checkpoint.step} steps has no optimizer state to go on "
                "from: import it with --model-only to start anew from its weights"
            )
        return state
    schedule = checkpoint.scheduler_state
    for name, step in (
        ("optimizer", saved.step),
        ("schedule", checkpoint.step if schedule is None else schedule.step),
    ):
        if step != checkpoint.step:
            raise UserError(
                f"the checkpoint is after {checkpoint.step} steps, but its {name} after {step}"
            )
    if saved.step:
        adamw = _adamw(state.optimizer)
        restored = AdamWState(
            adamw.step + saved.step,
            _by_tree(saved.exp_avg, adamw.exp_avg, trainer.parameters),
            _by_tree(saved.exp_avg_sq, adamw.exp_avg_sq, trainer.parameters),
        )
        optimizer = jax.tree.map(
            lambda node: restored if isinstance(node, AdamWState) else node,
            state.optimizer,
            is_leaf=_is_adamw,
        )
        state = state._replace(optimizer=optimizer, step=state.step + saved.step)
    return state


def check_training(config: Config, checkpoint: bridge.LoadedCheckpoint) -> None:
    """Makes sure that an imported checkpoint was trained with the config's optimizer and schedule.

    Raises:
        UserError: it was not; lists all that differ.
    """
    optimizer = config.optimizer
    pairs: dict[str, tuple[Any, Any]] = {}
    if checkpoint.optimizer_state is not None:
        saved = checkpoint.optimizer_state.hyperparameters
        pairs |= {
            "optimizer.beta1": (saved["betas"][0], optimizer.beta1),
            "optimizer.beta2": (saved["betas"][1], optimizer.beta2),
            "optimizer.eps": (saved["eps"], optimizer.eps),
            "optimizer.weight_decay": (saved["weight_decay"], optimizer.weight_decay),
        }
    schedule = checkpoint.scheduler_state
    if schedule is not None:
        pairs |= {
            "optimizer.learning_rate": (schedule.base_lr, optimizer.learning_rate),
            "optimizer.warmup_steps": (schedule.warmup_steps, optimizer.warmup_steps),
            "training.steps": (schedule.total_steps, config.training.steps),
        }
    _refuse(pairs, "the checkpoint was trained with other settings")


def save(run: Path, checkpoint: bridge.LoadedCheckpoint, keep: int) -> None:
    """Writes a state if it is not there yet, then removes all but the newest `keep`.

    Raises:
        UserError: the state cannot be written.
    """
    step = checkpoint.step
    if step in steps(run):
        return  # replacing it would mean to be without it for a moment
    folder = state_folder(run, step)
    try:
        if folder.is_dir():
            shutil.rmtree(folder)  # incomplete, or `steps` would list it
        for leftover in folder.parent.glob("*.partial"):
            shutil.rmtree(leftover)
        bridge.save_orbax(folder, checkpoint.model, **checkpoint.training_state())
        for old in steps(run)[:-keep]:
            shutil.rmtree(state_folder(run, old))
    except (bridge.BridgeError, OSError) as error:
        raise UserError(f"cannot write the state after step {step} to {run}: {error}") from error


def restore(run: Path, step: int) -> bridge.LoadedCheckpoint:
    """Reads a run's state after `step` steps, one of `steps(run)`.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = state_folder(run, step)
    try:
        return bridge.load_orbax(folder)
    except bridge.BridgeError as error:
        older = any(other < step for other in steps(run))
        hint = f": remove {folder} to go on from an older state" if older else ""
        raise UserError(f"{error}{hint}") from error


def export_torch(path: Path, checkpoint: bridge.LoadedCheckpoint) -> None:
    """Writes a .pt file; the path holds either what it held before or the whole new file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        bridge.save_torch(path, checkpoint.model, **checkpoint.training_state())
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error


def _is_adamw(node: Any) -> bool:
    return isinstance(node, AdamWState)


def _adamw(optimizer: optax.OptState) -> AdamWState:
    return next(filter(_is_adamw, jax.tree.leaves(optimizer, is_leaf=_is_adamw)))


def _listed(path: VariablePath, parameters: Parameters, layers: int) -> list[VariablePath]:
    """The paths in a list of blocks that a stacked array of the blocks stands for."""
    at, first = path.index("blocks") + 1, parameters.frozen_layers(path)
    return [(*path[:at], first + i, *path[at:]) for i in range(layers)]


def _by_path(moments: Arrays, parameters: Parameters) -> Arrays:
    """The moments by the paths of their parameters, the blocks' as of a list of blocks."""
    arrays: Arrays = {}
    for path, array in moments.items():
        if "blocks" in path:
            arrays |= zip(_listed(path, parameters, len(array)), array, strict=True)
        else:
            arrays[path] = array
    return arrays


def _by_tree(moments: Moments, like: Arrays, parameters: Parameters) -> Arrays:
    """What `_by_path` was given, from what it returned."""
    left = dict(moments)
    missing = []

    def take(path: VariablePath, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        array = left.pop(path, None)
        if array is None:
            missing.append(".".join(map(str, path)))
            return np.zeros(shape, np.float32)
        return np.asarray(array)

    def gather(path: VariablePath, leaf: jax.Array) -> jax.Array:
        if "blocks" not in path:
            return jax.device_put(take(path, leaf.shape))
        listed = _listed(path, parameters, len(leaf))
        return jax.device_put(np.stack([take(each, leaf.shape[1:]) for each in listed]))

    tree = {path: gather(path, leaf) for path, leaf in like.items()}
    unexpected = [".".join(map(str, path)) for path in left]
    if missing or unexpected:
        problems = {"missing for": missing, "there for what is not trained,": unexpected}
        text = "; ".join(f"{key} {', '.join(names)}" for key, names in problems.items() if names)
        raise UserError(f"the checkpoint's moments are {text}")
    return tree


def check_model(config: ModelConfig, model: Model) -> None:
    """Makes sure that a checkpoint's model is built as the config says, in float32.

    Raises:
        UserError: it is not; lists all that differ.
    """
    model_class = class_name(model)
    there, here = (_described(model_class, each) for each in (model.config, config))
    names = dict.fromkeys([*here, *there])
    pairs = {f"model.{name}": (there.get(name), here.get(name)) for name in names}
    _refuse(pairs, "the checkpoint holds another model")
    dtypes = {str(array.dtype) for array in variables(model).values()} - {"float32"}
    if dtypes:
        raise UserError(
            f"the checkpoint's weights are {', '.join(dtypes)}: training needs float32, so convert "
            "them in PyTorch (model.float()) and import that"
        )


def _described(model_class: str, config: ModelConfig) -> dict[str, Any]:
    described = in_full(model_class, config)
    return {name: value for name, value in described.items() if name not in _FREE}


def _refuse(pairs: Mapping[str, tuple[Any, Any]], reason: str) -> None:
    different = [
        f"{key} is {there} there and {here} in the config"
        for key, (there, here) in pairs.items()
        if there != here
    ]
    if different:
        raise UserError(
            f"{reason}: {', '.join(different)}; set the config so, or import the weights alone "
            "(--model-only, adapt)"
        )
