"""What of a layer's forward pass is saved for its backward pass, and what is computed again."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name

from mmrec_jax.config import Remat

Kind = Literal["product", "states", "dropout"]


def saveable(x: jax.Array, kind: Kind) -> jax.Array:
    """x, marked as what a policy may save: a matrix product, a recurrence's states, or a mask."""
    named: jax.Array = checkpoint_name(x, kind)  # type: ignore[no-untyped-call]
    return named


def policy(remat: Remat) -> Callable[..., Any]:
    """The policy that `jax.checkpoint` takes."""
    kinds: dict[Remat, tuple[Kind, ...]] = {
        "elementwise": ("product", "states", "dropout"),
        "products": ("states", "dropout"),
        "layers": (),
    }
    return jax.checkpoint_policies.save_only_these_names(*kinds[remat])
