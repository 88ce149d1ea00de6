"""The training loss (section 5.1), without ever holding the logits of a whole batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmrec_jax.matmul import dot, operand, product, transposed
from train.step.frozen import Network

CHUNK_TOKENS = 1024
"""Tokens whose logits are held at once: few enough for them to stay in a CPU's cache."""


def token_losses(hidden: jax.Array, head_kernel: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy of each token in nats [B, T], to be looked at; `mean_loss` is for training.

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
    """The mean over all tokens of cross entropy times weight.

    Its gradient, by `hidden` and `head_kernel`, is formed in the forward pass, while a chunk's
    logits are there: they are neither kept nor computed twice.

    Args:
        hidden: the model's normalised output [B, T, D].
        head_kernel: [D, V].
        labels: the tokens to predict [B, T].
        weights: [B, T].
    """
    return (token_losses(hidden, head_kernel, labels) * weights).mean()


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
        # The gradient by the logits is weights * (exponentials / sums - 1 at the label): the
        # division is left to the small side of the products, and the label to the end.
        scales = weights / sums
        exponentials = operand(exponentials)
        d_hidden = product(exponentials, kernel_T) * scales
        d_kernel += product(transposed(operand(hidden * scales)), exponentials)
        return (total + (losses * weights).sum(), d_kernel), d_hidden

    weights = weights / labels.size
    zeros = jnp.zeros(()), jnp.zeros(head_kernel.shape)
    (total, d_kernel), d_hidden = jax.lax.scan(chunk, zeros, _chunks(hidden, labels, weights))
    d_hidden = d_hidden.reshape(-1, hidden.shape[-1])[: labels.size].reshape(hidden.shape)
    # Rounded as in the products, so that both cancel where the model is sure of the label.
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


def _chunks(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays [B, T, ...] as [chunks, CHUNK_TOKENS, ...], with zeros behind their ends."""
    tokens = arrays[-1].size
    chunk = min(CHUNK_TOKENS, tokens)

    def cut(array: jax.Array) -> jax.Array:
        flat = array.reshape(tokens, *array.shape[2:])
        padded = jnp.pad(flat, [(0, -tokens % chunk)] + [(0, 0)] * (flat.ndim - 1))
        return padded.reshape(-1, chunk, *array.shape[2:])

    return tuple(map(cut, arrays))


class Examples(NamedTuple):
    """What a batch of tokens asks of a model.

    Attributes:
        inputs: the tokens that the model reads [B, T].
        labels: the tokens to predict from them [B, T].
        weights: [B, T], how much each label counts in a mean: 0 where it is padding, and alike
            elsewhere, 1 on average; None where there is no padding.
    """

    inputs: jax.Array
    labels: jax.Array
    weights: jax.Array | None

    def mean(self, values: jax.Array) -> jax.Array:
        """The mean of [B, T] over all labels but padding."""
        return (values if self.weights is None else values * self.weights).mean()


def examples(tokens: jax.Array, padded: bool = False) -> Examples:
    """Takes a batch apart.

    Args:
        tokens: [B, T + 1]; each token but the first is predicted from those before it.
        padded: rows may end with padding, negative numbers; the batch has a label all the same.
    """
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    if not padded:
        return Examples(inputs, labels, None)
    real = jnp.asarray(labels >= 0, jnp.float32)
    # Any token may stand for padding: nothing before it sees it.
    return Examples(jnp.maximum(inputs, 0), jnp.maximum(labels, 0), real / real.mean())


def model_loss(
    model: Network,
    tokens: jax.Array,
    memory: Any = None,
    *,
    padded: bool = False,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross entropy plus the auxiliary loss of a batch.

    Args:
        model: in either form of its blocks.
        tokens: [B, T + 1]; each token but the first is predicted from those before it.
        memory: the long-term memory, as the model takes it; None for zeros.
        padded: see `examples`; padding has no part in any result.
        options: those of the model's `features`.

    Returns:
        The total loss, and beside it: loss, the mean cross entropy, auxiliary_loss, max_state,
        mean_decay.
    """
    batch = examples(tokens, padded)
    out = model.features(batch.inputs, memory, weights=batch.weights, **options)
    weights = jnp.ones(batch.labels.shape) if batch.weights is None else batch.weights
    loss = mean_loss(out.y, model.head_kernel, batch.labels, weights)
    auxiliary_loss = model.config.lambda_P * out.planning_loss
    return loss + auxiliary_loss, {
        "loss": loss,
        "auxiliary_loss": auxiliary_loss,
        "max_state": out.max_state.max(),
        "mean_decay": out.mean_decay.mean(),
    }


def model_token_losses(model: Network, tokens: jax.Array, **options: Any) -> jax.Array:
    """Cross entropies [B, T] of a batch [B, T + 1] without padding; options as for `model_loss`."""
    batch = examples(tokens)
    out = model.features(batch.inputs, **options)
    return token_losses(out.y, model.head_kernel, batch.labels)
