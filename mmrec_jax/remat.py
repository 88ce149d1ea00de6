"""What a layer saves in its forward pass, and what its backward pass computes again."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name

from mmrec_jax.config import Remat

Kind = Literal["product", "states", "dropout"]


def saveable(x: jax.Array, kind: Kind) -> jax.Array:
    """x, with a name by which a policy may save it: a product, a recurrence's states, or a mask."""
    named: jax.Array = checkpoint_name(x, kind)
    return named


def policy(remat: Remat) -> Callable[..., Any]:
    """The policy that `jax.checkpoint` takes."""
    kinds: dict[Remat, tuple[Kind, ...]] = {
        "elementwise": ("product", "states", "dropout"),
        "products": ("states", "dropout"),
        "layers": (),
    }
    return jax.checkpoint_policies.save_only_these_names(*kinds[remat])
