"""The loss as the document writes it, and its gradient with a long-term memory to start from."""

import functools

import jax
import jax.numpy as jnp

from train.data.batches import batch_of
from train.step.loss import model_loss


def cross_entropies(logits, labels):
    """Of each label [B, T] by scores [B, T, V], in nats (docs/model.md section 5.1)."""
    scores = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]


def gradient_from_memory(trainer, state, rows, memory):
    """As `trainer.gradient` of rows [B, T + 1], with the memory that the original was given."""
    return _gradient(trainer.parameters, state.params, state.others, batch_of(rows), memory)


@functools.partial(jax.jit, static_argnames="parameters")
def _gradient(parameters, params, others, batch, memory):
    def loss(params):
        return model_loss(parameters.join(params, others), batch, memory)

    return jax.grad(loss, has_aux=True)(params)
