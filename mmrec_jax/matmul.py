"""The linear layers' products, at the precision that `jax.default_matmul_precision` asks for.

Under "bfloat16", operands are rounded to bfloat16 and sums are kept in float32; everything else
stays float32, including the parameters and the recurrence. The operands are rounded here, because
JAX leaves that to the backend: CPUs would multiply in float32, GPUs in TensorFloat-32.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from mmrec_jax.remat import saveable


def dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., I] @ kernel [I, O] -> [..., O], in float32, or in bfloat16 if that is asked for.

    Arrays that are not float32 are multiplied as they are.
    """
    if x.dtype == kernel.dtype == jnp.float32:
        flat = x.reshape(-1, x.shape[-1])
        y = _dot(flat, kernel).reshape(*x.shape[:-1], kernel.shape[-1])
    else:
        y = x @ kernel
    return saveable(y, "product")


def product(a: jax.Array, b: jax.Array, precision: jax.lax.Precision | None = None) -> jax.Array:
    """a [M, K] @ b [K, N] -> [M, N], in float32 or better; a and b come from `operand`."""
    result = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, precision=precision, preferred_element_type=result)


def kernel_gradient(
    x: jax.Array, d: jax.Array, precision: jax.lax.Precision | None = None
) -> jax.Array:
    """x [M, I], d [M, O], operands -> x.T @ d [I, O]; the narrower one is transposed."""
    if x.shape[1] <= d.shape[1]:
        return product(transposed(x), d, precision)
    return transposed(product(transposed(d), x, precision))


def operand(x: jax.Array) -> jax.Array:
    """x as the operand of a product: rounded to bfloat16 if that is asked for."""
    asked_for = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    # XLA's CPU backend multiplies in bfloat16 only if operands are stored row by row.
    return _by_rows(x.astype(jnp.bfloat16)) if asked_for == "bfloat16" else x


def transposed(x: jax.Array) -> jax.Array:
    """An operand [M, N] -> [N, M], row by row in memory on a CPU."""
    # Otherwise XLA's CPU backend makes the transposition part of the product. Then the product
    # takes up to a third longer in float32, and is done in float32 even if bfloat16 is asked for.
    # Or it becomes part of what computed x, which is then written column by column.
    return _by_rows(_by_rows(x).T)


def _by_rows(x: jax.Array) -> jax.Array:
    if jax.default_backend() != "cpu":  # other backends choose better themselves
        return x
    rows: jax.Array = with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
    return rows


@jax.custom_vjp
def _dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return product(operand(x), operand(kernel))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _dot(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = map(operand, saved)
    d = operand(d)
    return product(d, transposed(kernel)), kernel_gradient(x, d)


_dot.defvjp(_forward, _backward)
