"""The training loss (section 5.1), without ever holding the logits of a whole batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train.parameters import Network

CHUNK_TOKENS = 1024
"""Tokens whose logits are held at once: few enough for them to stay in a CPU's cache."""


def token_losses(hidden: jax.Array, head_kernel: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy of each token in nats [B, T].

    Args:
        hidden: the model's normalised output [B, T, D].
        head_kernel: [D, V].
        labels: the tokens to predict [B, T].
    """
    tokens = labels.size
    chunk = min(CHUNK_TOKENS, tokens)
    padding = -tokens % chunk

    def chunks(array: jax.Array, *shape: int) -> jax.Array:
        flat = array.reshape(tokens, *shape)
        return jnp.pad(flat, [(0, padding)] + [(0, 0)] * len(shape)).reshape(-1, chunk, *shape)

    @jax.checkpoint
    def losses(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden, labels = chunk
        logits = hidden @ head_kernel
        target = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - target

    out = jax.lax.map(losses, (chunks(hidden, hidden.shape[-1]), chunks(labels)))
    return out.reshape(-1)[:tokens].reshape(labels.shape)


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
        padded: see `examples`; padding has no part in any result but token_losses.
        options: those of the model's `features`.

    Returns:
        The total loss, and beside it: loss, the mean cross entropy, token_losses [B, T],
        auxiliary_loss, max_state, mean_decay.
    """
    batch = examples(tokens, padded)
    out = model.features(batch.inputs, memory, weights=batch.weights, **options)
    losses = token_losses(out.y, model.head_kernel, batch.labels)
    loss = batch.mean(losses)
    auxiliary_loss = model.config.lambda_P * out.planning_loss
    return loss + auxiliary_loss, {
        "loss": loss,
        "token_losses": losses,
        "auxiliary_loss": auxiliary_loss,
        "max_state": out.max_state.max(),
        "mean_decay": out.mean_decay.mean(),
    }
