"""A run's training state as a checkpoint, and a checkpoint as a training state.

A checkpoint that another program wrote becomes a training state in the same way.
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
    """All of a training state but its random key, which the config's seed gives.

    Its arrays are brought to the host once and stay there, as numpy arrays.

    Args:
        trainer: the run's.
        state: its state.
        avg_loss: the loss to state.
        metadata: plain data to keep in it.
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
    """The training state that a checkpoint holds, its model being what the trainer trains.

    Raises:
        UserError: training cannot continue from its optimizer's state.
    """
    state = trainer.initial_state(cast(Network, checkpoint.model))
    saved = checkpoint.optimizer_state
    if saved is None:
        if checkpoint.step:
            raise UserError(
                f"the checkpoint after {checkpoint.step} steps has no optimizer state to "
                "continue from: import it with --model-only to start at step 0 with its weights"
            )
        return state
    if saved.step != checkpoint.step:
        raise UserError(
            f"the checkpoint is after {checkpoint.step} steps, but its optimizer after {saved.step}"
        )
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


def _stacked_moments(
    moments: Mapping[VariablePath, AnyArray], trained: Arrays, parameters: Parameters
) -> Arrays:
    """The moments in the form that training has them in, of what is trained.

    Raises:
        UserError: some are missing, or there are others; lists all.
    """
    first_layer = parameters.frozen_layers(_IN_BLOCKS)
    layers = range(0)
    wanted: list[VariablePath] = []
    for path, array in trained.items():
        if is_stacked(path):
            layers = range(first_layer, first_layer + len(array))
            wanted += [layer_path(path, layer) for layer in layers]
        else:
            wanted.append(path)
    known = set(wanted)
    problems = {
        "missing for": [path for path in wanted if path not in moments],
        "there for what is not trained,": [path for path in moments if path not in known],
    }
    if any(problems.values()):
        text = "; ".join(
            f"{problem} {', '.join('.'.join(map(str, path)) for path in paths)}"
            for problem, paths in problems.items()
            if paths
        )
        raise UserError(
            f"the checkpoint's moments are {text}: set what is trained as it was "
            "(fusion.trainable, expert.freeze_embedding, expert.freeze_blocks), or import the "
            "weights alone (--model-only)"
        )
    # Other programs may keep some in bfloat16, and only arrays of one dtype are stacked.
    in_float32 = {path: jnp.asarray(array, jnp.float32) for path, array in moments.items()}
    stacked = stack(in_float32, layers)
    return {path: cast(jax.Array, stacked[path]) for path in trained}
