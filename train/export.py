"""From a training state to the .pt file that the original reads (sections 6.1 to 6.4)."""

from pathlib import Path

import jax
import optax

import bridge
from train.errors import UserError
from train.optimizer import AdamWState
from train.step import Trainer, TrainState


def export_torch(path: Path, trainer: Trainer, state: TrainState, avg_loss: float) -> None:
    """Writes the state, optimizer and schedule included.

    Args:
        path: the .pt file; it holds either what it held before or the whole new file.
        trainer: the run's.
        state: its state.
        avg_loss: the loss to state in the file.

    Raises:
        UserError: the file cannot be written.
    """
    config, steps = trainer.config.optimizer, trainer.config.training.steps
    step = int(state.step)
    scheduler = bridge.SchedulerState(
        base_lr=config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=steps,
        step=step,
    )
    adamw = next(
        node
        for node in jax.tree.leaves(state.optimizer, is_leaf=lambda n: isinstance(n, AdamWState))
        if isinstance(node, AdamWState)
    )
    optimizer = bridge.OptimizerState(
        step=step,
        exp_avg=_by_path(adamw.exp_avg),
        exp_avg_sq=_by_path(adamw.exp_avg_sq),
        hyperparameters=bridge.adamw_hyperparameters(
            learning_rate=scheduler.learning_rate(),
            initial_learning_rate=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )
    try:
        bridge.save_torch(
            path,
            trainer.model_of(state.params, state.buffers),
            optimizer_state=optimizer,
            scheduler_state=scheduler,
            step=step,
            avg_loss=avg_loss,
        )
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error


def _by_path(moments: optax.Params) -> dict[tuple[str | int, ...], jax.Array]:
    """The moments by the paths of their parameters, the blocks' as of a list of blocks."""
    arrays: dict[tuple[str | int, ...], jax.Array] = {}
    for keys, array in jax.tree_util.tree_flatten_with_path(moments)[0]:
        path = tuple(key.key for key in keys if isinstance(key, jax.tree_util.DictKey))
        if path[0] == "blocks":
            arrays |= {("blocks", i, *path[1:]): layer for i, layer in enumerate(array)}
        else:
            arrays[path] = array
    return arrays
