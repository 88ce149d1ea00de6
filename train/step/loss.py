"""The training loss (section 5.1), without the logits of a whole batch in memory."""

from typing import Any

import jax
import jax.numpy as jnp

from mmrec_jax.matmul import dot, operand, product, transposed
from train.data.batches import Batch
from train.step.frozen import Network

CHUNK_TOKENS = 1024
"""How many tokens' logits are in memory at once: few enough to stay in a CPU's cache."""


def token_losses(hidden: jax.Array, head_kernel: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy of each token in nats [B, T], for scoring; `mean_loss` is for training.

    Args:
        hidden: the model's normalised output [B, T, D].
        head_kernel: [D, V].
        labels: the tokens to predict [B, T].
    """
    chunks = _chunks(hidden, labels)

    def losses(chunk: tuple[jax.Array, ...]) -> jax.Array:
        hidden, labels = chunk
        logits = dot(hidden, head_kernel)
        target = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - target

    out = jax.lax.map(losses, chunks)
    return out.reshape(-1)[: labels.size].reshape(labels.shape)


@jax.custom_vjp
def mean_loss(
    hidden: jax.Array, head_kernel: jax.Array, labels: jax.Array, weights: jax.Array
) -> jax.Array:
    """The weighted mean of the cross entropy of all labels.

    The forward pass also computes the gradient for `hidden` and `head_kernel`, while a chunk's
    logits are in memory. So logits are neither kept nor computed twice.

    Args:
        hidden: the model's normalised output [B, T, D].
        head_kernel: [D, V].
        labels: the tokens to predict [B, T].
        weights: [B, T].
    """
    return (token_losses(hidden, head_kernel, labels) * weights).sum() / _sum(weights)


def _mean_loss_forward(
    hidden: jax.Array, head_kernel: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, Any]:
    kernel, kernel_T = operand(head_kernel), operand(head_kernel.T)

    def chunk(carry: tuple[jax.Array, jax.Array], inputs: Any) -> Any:
        total, d_kernel = carry
        hidden, labels, weights = inputs
        hidden, labels, weights = operand(hidden), labels[:, None], weights[:, None]
        logits = product(hidden, kernel)
        largest = logits.max(axis=1, keepdims=True)
        exponentials = jnp.exp(logits - largest)
        sums = exponentials.sum(axis=1, keepdims=True)
        losses = jnp.log(sums) + largest - jnp.take_along_axis(logits, labels, axis=1)
        # The gradient for the logits is weights * (exponentials / sums - 1 at the label). The
        # division is done on the small side of the products, and the label comes at the end.
        scales = weights / sums
        exponentials = operand(exponentials)
        d_hidden = product(exponentials, kernel_T) * scales
        d_kernel += product(transposed(operand(hidden * scales)), exponentials)
        return (total + (losses * weights).sum(), d_kernel), d_hidden

    weights = weights / _sum(weights)
    zeros = jnp.zeros(()), jnp.zeros(head_kernel.shape)
    (total, d_kernel), d_hidden = jax.lax.scan(chunk, zeros, _chunks(hidden, labels, weights))
    d_hidden = d_hidden.reshape(-1, hidden.shape[-1])[: labels.size].reshape(hidden.shape)
    # Rounded as in the products, so that both cancel if the model is sure of the label.
    weights = weights[..., None]
    at_labels = jnp.moveaxis(kernel[:, labels].astype(head_kernel.dtype), 0, -1)
    d_hidden -= at_labels * weights
    of_labels = operand(operand(hidden) * weights).astype(head_kernel.dtype)
    d_kernel = d_kernel.at[:, labels].add(-jnp.moveaxis(of_labels, -1, 0))
    return total, (d_hidden, d_kernel)


def _mean_loss_backward(saved: Any, d_loss: jax.Array) -> tuple[jax.Array | None, ...]:
    d_hidden, d_kernel = saved
    return d_loss * d_hidden, d_loss * d_kernel, None, None


mean_loss.defvjp(_mean_loss_forward, _mean_loss_backward)


def _sum(weights: jax.Array) -> jax.Array:
    """The sum to divide by: 1 where a batch has nothing to learn, whose loss is 0 then."""
    total = weights.sum()
    return jnp.where(total > 0, total, 1)


def _chunks(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays [B, T, ...] as [chunks, CHUNK_TOKENS, ...], with zeros after their ends."""
    tokens = arrays[-1].size
    chunk = min(CHUNK_TOKENS, tokens)

    def cut(array: jax.Array) -> jax.Array:
        flat = array.reshape(tokens, *array.shape[2:])
        padded = jnp.pad(flat, [(0, -tokens % chunk)] + [(0, 0)] * (flat.ndim - 1))
        return padded.reshape(-1, chunk, *array.shape[2:])

    return tuple(map(cut, arrays))


def model_loss(
    model: Network, batch: Batch, memory: Any = None, **options: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross entropy plus the auxiliary loss of a batch.

    Args:
        model: in either form of its blocks.
        batch: what the model reads and must predict; padding has no part in any result.
        memory: the long-term memory, as the model takes it; None for zeros.
        options: the options of the model's `features`.

    Returns:
        The total loss, and the metrics loss (the mean cross entropy), auxiliary_loss, max_state
        and mean_decay.
    """
    inputs, labels, weights, real = batch
    out = model.features(inputs, memory, real=real, **options)
    if weights is None:
        weights = jnp.ones(labels.shape)
    loss = mean_loss(out.y, model.head_kernel, labels, weights)
    return loss + out.auxiliary_loss, {
        "loss": loss,
        "auxiliary_loss": out.auxiliary_loss,
        "max_state": out.health.max_state.max(),
        "mean_decay": out.health.mean_decay.mean(),
    }


def model_token_losses(model: Network, batch: Batch, **options: Any) -> jax.Array:
    """Cross entropies [B, T] of a batch without padding; options as for `model_loss`."""
    out = model.features(batch.inputs, **options)
    return token_losses(out.y, model.head_kernel, batch.labels)
