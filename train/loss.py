"""The training loss (section 5.1), without ever holding the logits of a whole batch."""

from typing import Any

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


def model_loss(
    model: Network,
    tokens: jax.Array,
    memory: Any = None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross entropy plus the auxiliary loss of a batch.

    Args:
        model: in either form of its blocks.
        tokens: [B, T + 1]; each token but the first is predicted from those before it.
        memory: the long-term memory, as the model takes it; None for zeros.
        options: those of the model's `features`.

    Returns:
        The total loss, and beside it: token_losses [B, T], auxiliary_loss, max_state, mean_decay.
    """
    out = model.features(tokens[:, :-1], memory, **options)
    losses = token_losses(out.y, model.head_kernel, tokens[:, 1:])
    auxiliary_loss = model.config.lambda_P * out.planning_loss
    return losses.mean() + auxiliary_loss, {
        "token_losses": losses,
        "auxiliary_loss": auxiliary_loss,
        "max_state": out.max_state.max(),
        "mean_decay": out.mean_decay.mean(),
    }
