"""From a base model to experts, and from two experts to one model (section 3.6).

These are functions of models in memory: arrays are shared, never copied, as nothing changes an
array in place.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax.block import MMRecBlock
from mmrec_jax.config import ModelConfig
from mmrec_jax.expert import ExpertModule
from mmrec_jax.fusion import MMRec100M
from mmrec_jax.model import Embedding, MMRecModel
from mmrec_jax.stack import BlockStack

Stack = TypeVar("Stack", MMRecModel, ExpertModule)

_SHAPELESS = ("num_heads", "sparse_chunk_size", "use_uboo", "use_dpg", "use_hem", "use_sparse")
"""Settings that change what equal arrays compute."""


class Transfer(NamedTuple):
    """What `transfer_base_to_expert` did, and what is asked of the expert's training.

    Attributes:
        expert: the expert that was given, its arrays replaced.
        frozen: for each block of the expert, whether it is to stay as it is.
        rates: for each block of the expert, the share of the learning rate that it is to be
            trained with; 0 for frozen ones.
        copied: names of what is the base's now, such as "blocks.0" and "norm".
        new: names of the expert's blocks that the base has no counterpart of; they keep their
            initial values.
        left_out: names of the base's blocks that the expert has no place for.
    """

    expert: ExpertModule
    frozen: tuple[bool, ...]
    rates: tuple[float, ...]
    copied: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]


def transfer_base_to_expert(
    base: MMRecModel,
    expert: ExpertModule,
    *,
    freeze_blocks: int = 0,
    slow_blocks: int = 0,
    slow_rate: float = 0.1,
) -> Transfer:
    """Gives an expert the base's blocks, one by one, and its final norm.

    Their depths may differ: the first blocks of both are paired.

    Args:
        base: where the arrays come from; it stays as it is.
        expert: where they go to; both have lists of blocks.
        freeze_blocks: the expert's first blocks that are not to be trained.
        slow_blocks: the expert's first blocks that are to be trained at a smaller rate, unless
            they are frozen.
        slow_rate: their share of the learning rate.

    Raises:
        ValueError: arrays or settings of the two do not fit, all listed; then nothing is changed.
            Or a number of blocks is out of its range, or blocks are stacked.
    """
    sources, targets = _listed(base), _listed(expert)
    depth = len(targets)
    for name, count in (("freeze_blocks", freeze_blocks), ("slow_blocks", slow_blocks)):
        if not 0 <= count <= depth:
            raise ValueError(f"{name} must lie in [0, {depth}], the expert's blocks, not {count}")
    if freeze_blocks > len(sources):
        raise ValueError(
            f"freeze_blocks must be at most the base's {len(sources)} blocks, not {freeze_blocks}: "
            "others are new, and would stay at random"
        )
    if not 0 < slow_rate <= 1:
        raise ValueError(f"slow_rate must lie in (0, 1], not {slow_rate}")
    problems = list(_mismatches(base, expert))
    if problems:
        raise ValueError(f"the base does not fit the expert: {'; '.join(problems)}")
    for source, target in zip(sources, targets, strict=False):
        nnx.update(target, nnx.state(source))
    nnx.update(expert.norm, nnx.state(base.norm))

    shared = min(len(sources), depth)
    names = [f"blocks.{i}" for i in range(max(len(sources), depth))]
    frozen = tuple(i < freeze_blocks for i in range(depth))
    slow = (slow_rate if i < slow_blocks else 1.0 for i in range(depth))
    return Transfer(
        expert,
        frozen,
        tuple(0.0 if held else rate for held, rate in zip(frozen, slow, strict=True)),
        (*names[:shared], "norm"),
        tuple(names[shared:depth]),
        tuple(names[shared : len(sources)]),
    )


def with_embedding(expert: ExpertModule, embedding: Embedding) -> MMRecModel:
    """The language model that an expert is with an embedding and its tied head."""
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
    """Both experts and an embedding in one model; its fusion layer, norm and head are drawn anew.

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
    model = MMRec100M(_replaced(config, num_layers=1), rngs=rngs)  # its own experts are not kept
    model.config = config
    model.text_expert, model.code_expert, model.embedding = text_expert, code_expert, embedding
    return nnx.clone(model)


def start_as_ensemble(model: MMRec100M, size: float) -> None:
    """Makes both experts' mean out of a model's fusion layer, norm and head, in place.

    With the identity as projection and half the embedding's table under each expert's output, the
    logits are about the mean of the experts' own. A gate begins at one half.

    Args:
        model: with any fusion layer.
        size: root mean square of the experts' outputs, which the final norm restores.
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
    """A model whose parts are to be replaced, so that it needs no more than one block of shapes."""
    model = nnx.eval_shape(lambda: kind(_replaced(config, num_layers=1), rngs=nnx.Rngs(0)))
    model.config = config
    return model


def _listed(stack: BlockStack) -> list[MMRecBlock]:
    if isinstance(stack.blocks, MMRecBlock):
        raise ValueError("the blocks are stacked: give unstack_blocks(model)")
    return list(stack.blocks)


def _mismatches(base: MMRecModel, expert: ExpertModule) -> Iterator[str]:
    for key in _SHAPELESS:
        there, here = getattr(base.config, key), getattr(expert.config, key)
        if there != here:
            yield f"{key} is {there} in the base and {here} in the expert"
    pairs = [
        (f"blocks.{i}", *pair)
        for i, pair in enumerate(zip(_listed(base), _listed(expert), strict=False))
    ]
    for name, source, target in (*pairs, ("norm", base.norm, expert.norm)):
        there, here = _shapes(source), _shapes(target)
        for path in dict.fromkeys([*there, *here]):
            if there.get(path) != here.get(path):
                a, b = (
                    "missing" if shapes.get(path) is None else list(shapes[path])
                    for shapes in (there, here)
                )
                yield f"{name}.{path} is {a} in the base and {b} in the expert"


def _shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): leaf.shape for path, leaf in flat}
