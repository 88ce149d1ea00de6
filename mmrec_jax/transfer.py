"""From a base model to experts, and from two experts to one model (section 3.6).

These functions work on models in memory. They share arrays instead of copying them, because nothing
changes an array in place.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block import MMRecBlock
from mmrec_jax.block_rates import block_rates
from mmrec_jax.config import ModelConfig
from mmrec_jax.expert import ExpertModule
from mmrec_jax.fusion import MMRec100M
from mmrec_jax.model import Embedding, MMRecModel
from mmrec_jax.stack import BlockStack

Stack = TypeVar("Stack", MMRecModel, ExpertModule)

_SHAPELESS = ("num_heads", "sparse_chunk_size", "use_uboo", "use_dpg", "use_hem", "use_sparse")
"""Settings that change the results of a model with the same arrays."""


class Transfer(NamedTuple):
    """What `transfer_base_to_expert` did, and how to train the expert's blocks.

    Attributes:
        expert: the expert that was passed in, with its arrays replaced.
        rates: for each block of the expert, its share of the learning rate; 0 if it is frozen.
        copied: names of the parts that now are the base's, such as "blocks.0" and "norm".
        new: names of the expert's blocks that the base does not have; they keep their initial
            values.
        left_out: names of the base's blocks that the expert does not have.
    """

    expert: ExpertModule
    rates: tuple[float, ...]
    copied: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def frozen(self) -> tuple[bool, ...]:
        """For each block of the expert, whether it is frozen."""
        return tuple(rate == 0 for rate in self.rates)


def transfer_base_to_expert(
    base: MMRecModel,
    expert: ExpertModule,
    *,
    freeze_blocks: int = 0,
    slow_blocks: int = 0,
    slow_rate: float = 0.1,
) -> Transfer:
    """Gives an expert the base's blocks, one by one, and its final norm.

    Their depths may differ: the first blocks of one become the first blocks of the other.

    Args:
        base: the model that the arrays come from; it is not changed.
        expert: the model that gets them. Both must have lists of blocks.
        freeze_blocks, slow_blocks, slow_rate: how to train the expert's first blocks, see
            `block_rates`.

    Raises:
        ValueError: arrays or settings of the two do not fit, all listed; then nothing is changed.
            Or an argument is out of its range, or blocks are stacked.
    """
    sources, targets = _listed(base), _listed(expert)
    depth = len(targets)
    rates = block_rates(
        depth, freeze_blocks=freeze_blocks, slow_blocks=slow_blocks, slow_rate=slow_rate
    )
    if freeze_blocks > len(sources):
        raise ValueError(
            f"freeze_blocks must be at most the base's {len(sources)} blocks, not {freeze_blocks}: "
            "the others are new, and would keep their random values"
        )
    problems = list(_mismatches(base, expert))
    if problems:
        raise ValueError(f"the base does not fit the expert: {'; '.join(problems)}")
    for source, target in zip(sources, targets, strict=False):
        nnx.update(target, nnx.state(source))
    nnx.update(expert.norm, nnx.state(base.norm))

    shared = min(len(sources), depth)
    names = [f"blocks.{i}" for i in range(max(len(sources), depth))]
    return Transfer(
        expert,
        rates,
        (*names[:shared], "norm"),
        tuple(names[shared:depth]),
        tuple(names[shared : len(sources)]),
    )


def with_embedding(expert: ExpertModule, embedding: Embedding) -> MMRecModel:
    """The language model of an expert, an embedding and the head tied to it."""
    vocab_size = embedding.embedding.shape[0]
    config = _replaced(expert.config, vocab_size=vocab_size)
    model = _structure(MMRecModel, config)
    model.blocks, model.norm, model.embedding = expert.blocks, expert.norm, embedding
    return nnx.clone(model)


def without_embedding(model: MMRecModel) -> ExpertModule:
    """The expert in a language model."""
    expert = _structure(ExpertModule, model.config)
    expert.blocks, expert.norm = model.blocks, model.norm
    return nnx.clone(expert)


def join_experts(
    text_expert: ExpertModule,
    code_expert: ExpertModule,
    embedding: Embedding,
    config: ModelConfig,
    *,
    rngs: nnx.Rngs,
) -> MMRec100M:
    """Both experts and an embedding in one model; its fusion layer, norm and head are random.

    Raises:
        ValueError: an expert is not built as the config says.
    """
    for name, expert in (("text", text_expert), ("code", code_expert)):
        different = [
            f"{key} is {value} in the expert and {getattr(config, key)} in the config"
            for key, value in vars(expert.config).items()
            if key in (*_SHAPELESS, "model_dim", "num_layers", "ffn_dim", "lambda_P")
            and value != getattr(config, key)
        ]
        if different:
            raise ValueError(f"the {name} expert does not fit: {'; '.join(different)}")
    model = MMRec100M(_replaced(config, num_layers=1), rngs=rngs)  # its own experts are replaced
    model.config = config
    model.text_expert, model.code_expert, model.embedding = text_expert, code_expert, embedding
    return nnx.clone(model)


def start_as_ensemble(model: MMRec100M, size: float) -> None:
    """Sets a model's fusion layer, norm and head so that they give both experts' mean, in place.

    With the identity as projection and half the embedding's table under each expert's output, the
    logits are about the mean of both experts' logits. A gate begins at one half.

    Args:
        model: with any fusion layer.
        size: the root mean square of the experts' outputs, which the final norm restores.
    """
    dim = 2 * model.config.model_dim
    table = model.embedding.embedding[...].T / 2
    projection = model.fusion.fusion_proj
    projection.kernel[...] = jnp.eye(dim)
    _zero(projection.bias)
    if model.config.fusion_method == "weighted":
        _zero(model.fusion.gate.kernel)
        _zero(model.fusion.gate.bias)
    model.final_norm.scale[...] = jnp.full(dim, size)
    model.lm_head.kernel[...] = jnp.concatenate([table, table])


def _zero(parameter: nnx.Param[jax.Array] | None) -> None:
    assert parameter is not None
    parameter[...] = jnp.zeros_like(parameter[...])


def _replaced(config: ModelConfig, **changes: int) -> ModelConfig:
    return type(config)(**(vars(config) | changes))


def _structure(kind: type[Stack], config: ModelConfig) -> Stack:
    """A model whose parts will be replaced, so it needs the shapes of only one block."""
    model = nnx.eval_shape(lambda: kind(_replaced(config, num_layers=1), rngs=nnx.Rngs(0)))
    model.config = config
    return model


def _listed(stack: BlockStack) -> list[MMRecBlock]:
    if isinstance(stack.blocks, MMRecBlock):
        raise ValueError("the blocks are stacked: give unstack_blocks(model)")
    return list(stack.blocks)


def _mismatches(base: MMRecModel, expert: ExpertModule) -> Iterator[str]:
    for key in _SHAPELESS:
        of_base, of_expert = getattr(base.config, key), getattr(expert.config, key)
        if of_base != of_expert:
            yield f"{key} is {of_base} in the base and {of_expert} in the expert"
    pairs = [
        (f"blocks.{i}", *pair)
        for i, pair in enumerate(zip(_listed(base), _listed(expert), strict=False))
    ]
    for name, source, target in (*pairs, ("norm", base.norm, expert.norm)):
        shapes = _shapes(source), _shapes(target)
        for path in dict.fromkeys([*shapes[0], *shapes[1]]):
            if shapes[0].get(path) != shapes[1].get(path):
                of_base, of_expert = (
                    list(each[path]) if path in each else "missing" for each in shapes
                )
                yield f"{name}.{path} is {of_base} in the base and {of_expert} in the expert"


def _shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): leaf.shape for path, leaf in flat}
