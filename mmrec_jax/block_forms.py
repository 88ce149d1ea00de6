"""The two forms of a model's blocks, and how to convert one into the other.

The blocks may be a list with one module per layer, which has the checkpoint's names. Or they may be
stacked: one module whose arrays have a leading axis of layers. Training uses the stacked form,
because then neither the model nor the optimizer takes longer to compile if there are more layers.
Every model runs in both forms.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block import MMRecBlock

Blocks = nnx.List[MMRecBlock] | MMRecBlock
Model = TypeVar("Model", bound=nnx.Module)


def stack_blocks(model: Model) -> Model:
    """A copy of the model whose lists of blocks are stacked."""
    return _convert_blocks(model, lambda blocks: nnx.merge(*stacked(blocks)))


def unstack_blocks(model: Model) -> Model:
    """A copy of the model whose stacked blocks are lists."""

    def unstack(blocks: Blocks) -> nnx.List[MMRecBlock]:
        if not isinstance(blocks, MMRecBlock):
            return blocks
        graphdef, layers = nnx.split(blocks)
        count = jax.tree.leaves(layers)[0].shape[0]
        return nnx.List([nnx.merge(graphdef, item(layers, i)) for i in range(count)])

    return _convert_blocks(model, unstack)


def _convert_blocks(model: Model, convert: Callable[[Blocks], Any]) -> Model:
    model = nnx.clone(model)
    for _, module in list(nnx.iter_modules(model)):
        if hasattr(module, "blocks"):
            module.blocks = convert(module.blocks)
    return model


def stacked(blocks: Blocks) -> tuple[nnx.GraphDef[MMRecBlock], nnx.State]:
    """A block's structure, and the arrays of all layers stacked [L, ...]."""
    if isinstance(blocks, MMRecBlock):
        return nnx.split(blocks)
    graphdef, layers = listed(blocks)
    return graphdef, jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)


def listed(blocks: nnx.List[MMRecBlock]) -> tuple[nnx.GraphDef[MMRecBlock], list[nnx.State]]:
    """A block's structure, and the arrays of each layer."""
    graphdefs, layers = zip(*(nnx.split(block) for block in blocks), strict=True)
    return graphdefs[0], list(layers)


def item(arrays: Any, index: int) -> Any:
    """The item at `index` of each array in a tree, such as one layer of stacked arrays."""
    return jax.tree.map(lambda array: array[index], arrays)
