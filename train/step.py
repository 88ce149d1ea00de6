"""What one optimizer step does, as pure functions under jit."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mmrec_jax import LongTermMemory, MMRecModel
from mmrec_jax.stack import unstack_blocks
from train.config import Config
from train.loss import model_loss
from train.optimizer import build_optimizer, schedule

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that training changes; blocks are stacked (mmrec_jax/stack.py).

    Attributes:
        params: the parameters.
        buffers: the model's arrays that are never trained.
        optimizer: the optimizer's state.
        step: optimizer steps made.
        key: the random key that the dropout of every micro-batch derives from.
    """

    params: nnx.State
    buffers: nnx.State
    optimizer: optax.OptState
    step: jax.Array
    key: jax.Array


class Trainer:
    """A run's compiled functions.

    Attributes:
        gradient: (state, tokens [B, T + 1], index of the micro-batch in its step, memory) -> the
            micro-batch's share of the step's gradient, and its metrics.
        add: (gradient, gradient) -> their sum.
        update: (state, gradient) -> the next state, and the metrics grad_norm, learning_rate and
            parameter_norm (after the step).
        token_losses: (state, tokens [B, T + 1]) -> cross entropies [B, T] without dropout.
    """

    def __init__(self, config: Config, model: MMRecModel) -> None:
        """Prepares to train models that are built like `model`, whose blocks are stacked."""
        self.config = config
        steps = config.training.steps
        self._optimizer = build_optimizer(config.optimizer, steps, config.model)
        self._learning_rate = schedule(config.optimizer, steps)
        self._graphdef = nnx.graphdef(model)
        self.gradient = jax.jit(self._gradient)
        self.add = jax.jit(_add, donate_argnums=0)
        self.update = jax.jit(self._update, donate_argnums=0)
        self.token_losses = jax.jit(self._token_losses)

    def initial_state(self, model: MMRecModel) -> TrainState:
        """The state before the first step; the model stays usable when the state is updated."""
        params, buffers = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param, ...))
        return TrainState(
            params,
            buffers,
            self._optimizer.init(params),
            jnp.zeros((), jnp.int32),
            jax.random.key_data(jax.random.key(self.config.seed)),
        )

    def model_of(self, params: nnx.State, buffers: nnx.State) -> MMRecModel:
        """A model, its blocks a list, from the parameters of a state or arrays of their shapes."""
        return unstack_blocks(nnx.merge(self._graphdef, params, buffers))

    def _gradient(
        self,
        state: TrainState,
        tokens: jax.Array,
        index: jax.Array | int,
        memory: Sequence[LongTermMemory] | None = None,
    ) -> tuple[nnx.State, Metrics]:
        training = self.config.training
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        dropout_key = jax.random.fold_in(step_key, index)

        def loss(params: nnx.State) -> tuple[jax.Array, Metrics]:
            model = nnx.merge(self._graphdef, params, state.buffers)
            total, metrics = model_loss(
                model,
                tokens,
                memory,
                chunk_size=training.chunk_size,
                dropout_key=dropout_key,
                remat=training.remat,
            )
            metrics["loss"] = metrics.pop("token_losses").mean()
            return total / training.accumulation, metrics

        return jax.grad(loss, has_aux=True)(state.params)

    def _update(self, state: TrainState, grads: nnx.State) -> tuple[TrainState, Metrics]:
        updates, optimizer = self._optimizer.update(grads, state.optimizer, state.params)
        metrics = {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": self._learning_rate(state.step),
        }
        params = optax.apply_updates(state.params, updates)
        metrics["parameter_norm"] = optax.tree.norm(params)
        return state._replace(params=params, optimizer=optimizer, step=state.step + 1), metrics

    def _token_losses(self, state: TrainState, tokens: jax.Array) -> jax.Array:
        model = nnx.merge(self._graphdef, state.params, state.buffers)
        chunk_size = self.config.training.chunk_size
        return model_loss(model, tokens, chunk_size=chunk_size)[1]["token_losses"]


def _add(total: nnx.State, grads: nnx.State) -> nnx.State:
    return jax.tree.map(jnp.add, total, grads)
