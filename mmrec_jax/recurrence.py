"""The recurrence over time (section 2.4): a pure step, the scan over it, and its backward pass.

It is the one part of a block that cannot be computed for all tokens at once. It is not linear in h,
so an associative scan cannot compute it. Each step does as little as possible: both gates come from
one [D, 2D] product, and the backward scan computes only the gradients of the pre-activations.
Everything that does not depend on the next step's gradient is computed for all steps at once; the
weights' gradient is one product after the scan.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mmrec_jax.matmul import kernel_gradient, transposed
from mmrec_jax.remat import saveable

UPDATE_SHARE = 0.1
"""How much of the update u_t is added to the new state h_t."""

_UNROLLED_ON_ACCELERATORS = 4
"""Tokens per iteration of the scan on a GPU, where an iteration takes longer to start than to
compute (docs/performance.md). On a CPU it is 1, as an iteration starts at once there."""

_HIGHEST = jax.lax.Precision.HIGHEST
"""The recurrence is always float32, whatever other products are, because its errors add up."""


def recurrence(
    z: jax.Array, decay: jax.Array, gate_z: jax.Array, W_h: jax.Array, b: jax.Array, h: jax.Array
) -> jax.Array:
    """Runs the block's recurrence over all tokens (section 2.4).

    Args:
        z: input of the recurrence [B, T, D].
        decay: g [B, T, D].
        gate_z: the part of the MDI gate that does not depend on h, including its bias [B, T, D].
        W_h: the products with h of both gates side by side, block gate first [D, 2D].
        b: bias of the block gate [D].
        h: the state before the first token [B, D].

    Returns:
        The state after each token [B, T, D].
    """
    time_major = [jnp.swapaxes(array, 0, 1) for array in (z, decay, gate_z)]
    return jnp.swapaxes(_scan(*time_major, W_h, b, h), 0, 1)


def previous_states(states: jax.Array, h: jax.Array) -> jax.Array:
    """The state before each token, from the states after each [B, T, D] and the first [B, D]."""
    return jnp.concatenate([h[:, None], states[:, :-1]], axis=1)


def gates(
    h: jax.Array, gate_z: jax.Array, W_h: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The block gate s and the MDI gate m [..., D] after the state h [..., D]; see `recurrence`."""
    from_h = jnp.matmul(h, W_h, precision=_HIGHEST)
    dim = h.shape[-1]
    return jax.nn.sigmoid(from_h[..., :dim] + b), jax.nn.sigmoid(from_h[..., dim:] + gate_z)


def update(h: jax.Array, z: jax.Array, decay: jax.Array, m: jax.Array) -> jax.Array:
    """u_t, the update of the state h before the token; all [..., D]."""
    return (1 - m) * h + m * z + decay * h


def step(h: jax.Array, z: jax.Array, decay: jax.Array, s: jax.Array, m: jax.Array) -> jax.Array:
    """h_t from the state h before the token, its input, decay and gates; all [..., D]."""
    return z * s + decay * h + UPDATE_SHARE * update(h, z, decay, m)


def _unroll() -> int:
    return 1 if jax.default_backend() == "cpu" else _UNROLLED_ON_ACCELERATORS


@jax.custom_vjp
def _scan(
    z: jax.Array, decay: jax.Array, gate_z: jax.Array, W_h: jax.Array, b: jax.Array, h: jax.Array
) -> jax.Array:
    def token(h: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        z, decay, gate_z = inputs
        h = step(h, z, decay, *gates(h, gate_z, W_h, b))
        return h, h

    return jax.lax.scan(token, h, (z, decay, gate_z), unroll=_unroll())[1]


def _scan_forward(*inputs: jax.Array) -> tuple[jax.Array, Any]:
    states = saveable(_scan(*inputs), "states")
    return states, (*inputs, states)


def _scan_backward(saved: Any, d_states: jax.Array) -> tuple[jax.Array, ...]:
    z, decay, gate_z, W_h, b, h, states = saved
    previous = jnp.concatenate([h[None], states[:-1]])
    # One product for all steps costs less than keeping the gates of every step.
    s, m = gates(previous, gate_z, W_h, b)
    # The derivatives of `step` by the pre-activations of the block gate and the MDI gate, and by
    # h outside the gates.
    by_s = z * s * (1 - s)
    by_m = UPDATE_SHARE * (z - previous) * m * (1 - m)
    by_h = (1 + UPDATE_SHARE) * decay + UPDATE_SHARE * (1 - m)
    W_h_T = transposed(W_h)

    def token(d_next: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        d_state, by_s, by_m, by_h = inputs
        d_h = d_state + d_next
        d_gates = jnp.concatenate([d_h * by_s, d_h * by_m], axis=-1)
        return d_h * by_h + jnp.matmul(d_gates, W_h_T, precision=_HIGHEST), d_h

    backward = (d_states, by_s, by_m, by_h)
    d_initial, d_h = jax.lax.scan(
        token, jnp.zeros_like(h), backward, reverse=True, unroll=_unroll()
    )
    d_gates = jnp.concatenate([d_h * by_s, d_h * by_m], axis=-1)
    dim = h.shape[-1]
    d_W_h = kernel_gradient(previous.reshape(-1, dim), d_gates.reshape(-1, 2 * dim), _HIGHEST)
    return (
        d_h * (s + UPDATE_SHARE * m),
        (1 + UPDATE_SHARE) * d_h * previous,
        d_gates[..., dim:],
        d_W_h.astype(W_h.dtype),
        d_gates[..., :dim].sum((0, 1)),
        d_initial,
    )


_scan.defvjp(_scan_forward, _scan_backward)
