"""Converts a run's training state to a checkpoint, and a checkpoint to a training state.

The checkpoint may come from another program.
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

import bridge
from mmrec_jax.layer_paths import AnyArray, VariablePath, is_stacked, layer_path, stack, unstack
from train.step.frozen import Arrays, Network, Parameters
from train.step.optimizer import AdamWState
from train.step.schedule import schedule_state
from train.step.trainer import Trainer, TrainState
from train.system.errors import UserError

_IN_BLOCKS = ("blocks",)


def checkpoint_of(
    trainer: Trainer,
    state: TrainState,
    avg_loss: float,
    metadata: Mapping[str, Any],
) -> bridge.LoadedCheckpoint:
    """The whole training state except its random key, which follows from the config's seed.

    Its arrays are copied to the host once, as numpy arrays.

    Args:
        trainer: the run's trainer.
        state: the training state.
        avg_loss: the loss to state.
        metadata: plain data to add to it.
    """
    config = trainer.config.optimizer
    state = jax.device_get(state)  # all at once; what follows are views
    first_layer = trainer.parameters.frozen_layers(_IN_BLOCKS)
    step = int(state.step)
    schedule = schedule_state(trainer.config, trainer.origin, step)
    adamw = _adamw(state.optimizer)
    return bridge.LoadedCheckpoint(
        model=trainer.model_of(state),
        optimizer_state=bridge.OptimizerState(
            step=step,
            exp_avg=unstack(adamw.exp_avg, first_layer),
            exp_avg_sq=unstack(adamw.exp_avg_sq, first_layer),
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
    """The training state in a checkpoint; its model must be the one that the trainer trains.

    Raises:
        UserError: training cannot resume from it; says all reasons.
    """
    state = trainer.initial_state(cast(Network, checkpoint.model))
    obstacles = bridge.obstacles(checkpoint, _trained_paths(state.params, trainer.parameters))
    if obstacles:
        raise UserError(
            f"training cannot resume from the checkpoint: {'; '.join(obstacles)}; import it with "
            "--model-only to start at step 0 with its weights"
        )
    saved = checkpoint.optimizer_state
    if saved is None:
        return state
    if saved.step:
        adamw = _adamw(state.optimizer)
        restored = AdamWState(
            adamw.step + saved.step,
            _stacked_moments(saved.exp_avg, adamw.exp_avg, trainer.parameters),
            _stacked_moments(saved.exp_avg_sq, adamw.exp_avg_sq, trainer.parameters),
        )
        optimizer = jax.tree.map(
            lambda node: restored if isinstance(node, AdamWState) else node,
            state.optimizer,
            is_leaf=_is_adamw,
        )
        state = state._replace(optimizer=optimizer, step=state.step + saved.step)
    return state


def _is_adamw(node: Any) -> bool:
    return isinstance(node, AdamWState)


def _adamw(optimizer: optax.OptState) -> AdamWState:
    return next(filter(_is_adamw, jax.tree.leaves(optimizer, is_leaf=_is_adamw)))


def _layers(trained: Arrays) -> int:
    """How many layers are trained."""
    return next((len(array) for path, array in trained.items() if is_stacked(path)), 0)


def _trained_paths(trained: Arrays, parameters: Parameters) -> list[VariablePath]:
    """The paths of what is trained, of blocks as a list."""
    first_layer = parameters.frozen_layers(_IN_BLOCKS)
    return [
        each
        for path, array in trained.items()
        for each in (
            [layer_path(path, first_layer + layer) for layer in range(len(array))]
            if is_stacked(path)
            else [path]
        )
    ]


def _stacked_moments(
    moments: Mapping[VariablePath, AnyArray], trained: Arrays, parameters: Parameters
) -> Arrays:
    """The moments in the form that training has them in, of what is trained."""
    first_layer = parameters.frozen_layers(_IN_BLOCKS)
    layers = range(first_layer, first_layer + _layers(trained))
    # Other programs may keep some in bfloat16, and only arrays of one dtype are stacked.
    in_float32 = {path: jnp.asarray(array, jnp.float32) for path, array in moments.items()}
    stacked = stack(in_float32, layers)
    # What training updates it gives up: what is not stacked would be the checkpoint's own array.
    return {
        path: cast(jax.Array, stacked[path] if is_stacked(path) else jnp.copy(stacked[path]))
        for path in trained
    }
