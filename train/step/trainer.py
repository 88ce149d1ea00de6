"""One optimizer step: the gradients of its micro-batches, accumulated, and the update."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmrec_jax.block_forms import stack_blocks, unstack_blocks
from train.data.batches import Batch
from train.settings.config import Config
from train.step.devices import ROWS, WHOLE, Devices
from train.step.frozen import Arrays, Frozen, Network, Parameters
from train.step.loss import model_loss, model_token_losses
from train.step.optimizer import build_optimizer
from train.step.schedule import Origin, schedule
from train.system import processes
from train.system.precision import matmul_precision

Metrics = dict[str, jax.Array]
Values = dict[str, float]


class TrainState(NamedTuple):
    """Everything that training changes, and the arrays that it reads; blocks are stacked.

    Attributes:
        params: the trained parameters.
        others: the model's arrays that are not trained.
        optimizer: the optimizer's state.
        step: the number of optimizer steps so far.
        key: the random key from which the dropout of every micro-batch is derived.
    """

    params: Arrays
    others: Arrays
    optimizer: optax.OptState
    step: jax.Array
    key: jax.Array


class _Part(NamedTuple):
    """What one of several devices has of a batch.

    Attributes:
        device: which device it is.
        labels: its share of the labels that are learned.
        tokens: its share of the tokens that are no padding.
    """

    device: jax.Array
    labels: jax.Array | float
    tokens: jax.Array | float


class Trainer:
    """A run's compiled functions.

    Attributes:
        parameters: what of the model is trained.
        origin: how its schedule differs from one that began here.
        devices: where states and batches lie.
        precision: that of the matrix products; the config's, or float32 where the CPU has no other.
        gradient: (state, batch, index of the micro-batch in its step, share) -> the micro-batch's
            share of the step's gradient, and its metrics; without a share, all micro-batches
            count equally.
        add: (gradient, gradient) -> their sum.
        update: (state, gradient, loss) -> the next state, and the metrics grad_norm, learning_rate,
            parameter_norm (after the step, of what is trained) and skipped: 1 where the gradient or
            the loss is not finite, and the next state is the one before. The loss is 0 by default.
        token_losses: (state, batch) -> cross entropies [B, T] without dropout.
    """

    def __init__(
        self,
        config: Config,
        model: Network,
        frozen: Frozen | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Prepares to train models that are built like `model`; all but `frozen` is trained.

        Raises:
            UserError: the config's mesh has devices that are not there.
        """
        self.config = config
        self.devices = Devices(config.mesh)
        self.origin = origin or Origin()
        self.precision = matmul_precision(config.training.precision)
        model = stack_blocks(model)
        self.parameters = Parameters(model, frozen or Frozen())
        shapes = jax.eval_shape(lambda: self.parameters.split(model)[0])
        rates = self.parameters.rates(shapes)
        self._learning_rate = schedule(config.optimizer, config.training.steps, self.origin.ahead)
        self._optimizer = build_optimizer(config.optimizer, self._learning_rate, rates)
        gradient, token_losses = self._gradient, self._token_losses
        whole = self.devices.shardings(WHOLE)
        after_update = None
        if not self.devices.is_one:
            specs = self.devices.specs(jax.eval_shape(lambda: self._stacked_state(model)))
            gradient = self.devices.on_each(
                functools.partial(self._gradient_on_each, specs),
                (specs, ROWS, WHOLE, WHOLE),
                (specs.params, WHOLE),
            )
            token_losses = self.devices.on_each(
                functools.partial(self._token_losses_on_each, specs), (specs, ROWS), ROWS
            )
            after_update = self.devices.shardings(specs), whole
        self.gradient = jax.jit(gradient)
        self.add = jax.jit(_add, donate_argnums=0)
        self.update = jax.jit(self._update, donate_argnums=0, out_shardings=after_update)
        self.token_losses = jax.jit(token_losses, out_shardings=whole)

    def initial_state(self, model: Network) -> TrainState:
        """The state before the first step; updates of the state leave the model usable."""
        return self._stacked_state(stack_blocks(model))

    def _stacked_state(self, model: Network) -> TrainState:
        params, others = self.parameters.split(model)
        return TrainState(
            params,
            others,
            self._optimizer.init(params),
            jnp.zeros((), jnp.int32),
            jax.random.key_data(jax.random.key(self.config.seed)),
        )

    def model_of(self, state: TrainState) -> Network:
        """A state's model, its blocks a list."""
        return unstack_blocks(self.parameters.join(state.params, state.others))

    def step(
        self,
        state: TrainState,
        batches: Iterator[Batch],
        after_micro_batch: Callable[[float, float], None],
    ) -> tuple[TrainState, Values]:
        """Makes one optimizer step of the next `training.accumulation` micro-batches.

        Args:
            state: the state to continue from; its arrays cannot be used afterwards.
            batches: the micro-batches; each counts by its number of labels.
            after_micro_batch: called with the share of the step that is done, and the loss.

        Returns:
            The next state, and the step's values: of loss, auxiliary_loss and mean_decay the means
            over all labels, the largest max_state, and the metrics of `update`.
        """
        count = self.config.training.accumulation
        micro_batches = [next(batches) for _ in range(count)]
        labels = [batch.label_count for batch in micro_batches]
        if micro_batches[0].weights is not None:  # or all processes have as many
            labels = processes.gathered(labels).sum(0).tolist()
        all_labels = max(sum(labels), 1)
        total, found, losses = None, [], []
        for index, batch in enumerate(micro_batches):
            share = None if batch.weights is None else labels[index] / all_labels
            grads, metrics = self.gradient(state, self.devices.rows(batch), index, share)
            total = grads if total is None else self.add(total, grads)
            found.append(metrics)
            losses.append(float(metrics["loss"]))
            after_micro_batch((index + 1) / count, losses[-1])
        state, metrics = self.update(state, total, sum(losses))
        found, metrics = jax.device_get((found, metrics))
        values = {
            name: sum(float(each[name]) * n for each, n in zip(found, labels, strict=True))
            / all_labels
            for name in found[0]
        }
        values["max_state"] = max(float(each["max_state"]) for each in found)
        return state, values | {name: float(value) for name, value in metrics.items()}

    def _gradient(
        self,
        state: TrainState,
        batch: Batch,
        index: jax.Array | int,
        share: jax.Array | float | None = None,
        part: _Part | None = None,
    ) -> tuple[Arrays, Metrics]:
        training = self.config.training
        dropout_key = None
        if any("blocks" in path for path in state.params):  # no dropout in frozen blocks
            step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
            dropout_key = jax.random.fold_in(step_key, index)
            if part is not None:
                dropout_key = jax.random.fold_in(dropout_key, part.device)

        def loss(params: Arrays) -> tuple[jax.Array, Metrics]:
            total, metrics = model_loss(
                self.parameters.join(params, state.others),
                batch,
                chunk_size=training.chunk_size,
                dropout_key=dropout_key,
                remat=training.remat,
            )
            if part is not None:
                total = metrics["loss"] * part.labels + metrics["auxiliary_loss"] * part.tokens
            return total / training.accumulation if share is None else total * share, metrics

        # float32 explicitly: the default on GPUs is less precise.
        with jax.default_matmul_precision(self.precision):
            return jax.grad(loss, has_aux=True)(state.params)

    def _gradient_on_each(
        self,
        specs: TrainState,
        state: TrainState,
        batch: Batch,
        index: jax.Array | int,
        share: jax.Array | float | None,
    ) -> tuple[Arrays, Metrics]:
        """`_gradient` on one of several devices, which has some of the batch's sequences."""
        devices = self.devices
        part = _Part(devices.index(), self._share(batch.weights), self._share(batch.real))
        grads, metrics = self._gradient(self._joined(state, specs), batch, index, share, part)
        shares = dict.fromkeys(metrics, part.tokens) | {"loss": part.labels}
        largest = devices.largest(metrics.pop("max_state"))
        metrics = devices.summed({name: metrics[name] * shares[name] for name in metrics})
        grads = devices.parts(devices.summed(grads), specs.params)
        return grads, metrics | {"max_state": largest}

    def _share(self, counted: jax.Array | None) -> jax.Array | float:
        """The share of a batch's counted labels that this device has."""
        if counted is None:
            return 1 / self.devices.count
        own = counted.sum(dtype=jnp.float32)
        return own / jnp.maximum(self.devices.summed(own), 1)

    def _joined(self, state: TrainState, specs: TrainState) -> TrainState:
        params, others = self.devices.joined(
            (state.params, state.others), (specs.params, specs.others)
        )
        return state._replace(params=params, others=others)

    def _update(
        self, state: TrainState, grads: Arrays, loss: jax.Array | float = 0.0
    ) -> tuple[TrainState, Metrics]:
        norm = optax.tree.norm(grads)

        def made(state: TrainState) -> TrainState:
            updates, optimizer = self._optimizer.update(
                grads, state.optimizer, state.params, norm=norm
            )
            params = optax.apply_updates(state.params, updates)
            return state._replace(params=params, optimizer=optimizer, step=state.step + 1)

        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        metrics = {
            "grad_norm": norm,
            "learning_rate": self._learning_rate(state.step),
            "skipped": ~finite,
        }
        # Not `where` on every array: that takes four times as long, and rounds differently.
        state = jax.lax.cond(finite, made, lambda state: state, state)
        metrics["parameter_norm"] = optax.tree.norm(state.params)
        return state, metrics

    def _token_losses(self, state: TrainState, batch: Batch) -> jax.Array:
        model = self.parameters.join(state.params, state.others)
        chunk_size = self.config.training.chunk_size
        with jax.default_matmul_precision("float32"):
            return model_token_losses(model, batch, chunk_size=chunk_size)

    def _token_losses_on_each(
        self, specs: TrainState, state: TrainState, batch: Batch
    ) -> jax.Array:
        return self._token_losses(self._joined(state, specs), batch)


def _add(total: Arrays, grads: Arrays) -> Arrays:
    return jax.tree.map(jnp.add, total, grads)
