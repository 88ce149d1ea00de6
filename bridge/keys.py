"""The key table: every tensor of a checkpoint, and its place in the JAX model.

`entries` expands the table for a config, in the order of the original's state dict. Reading and
writing both use it, so a file fits a model exactly when they have the same names and shapes
(docs/model.md section 6.2).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Literal

from mmrec_jax import ExpertModule, FusionLayer, MMRec100M, MMRecModel, ModelConfig
from mmrec_jax.layer_paths import VariablePath

Model = MMRecModel | ExpertModule | FusionLayer | MMRec100M

MODEL_CLASSES: dict[str, type[Model]] = {
    "MMRecModel": MMRecModel,
    "ExpertModule": ExpertModule,
    "FusionLayer": FusionLayer,
    "MMRec100M": MMRec100M,
}
"""The model classes by the name that a checkpoint's metadata.model_class gives them."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
        key: its name in model_state_dict.
        path: the variable that holds it in the JAX model; None for a constant.
        shape: its shape in PyTorch's layout.
        transpose: whether one layout is the transpose of the other (kernels of Linears).
        kind: "parameter" is trained; "buffer" is not; "tied" is another name of the parameter
            at the same path; "constant" follows from the shape (the router's powers of two,
            int64) and is not stored in the JAX model.
    """

    key: str
    path: VariablePath | None
    shape: tuple[int, ...]
    transpose: bool = False
    kind: Literal["parameter", "buffer", "tied", "constant"] = "parameter"


def entries(model_class: str, config: ModelConfig) -> list[Entry]:
    """All tensors of a model's checkpoint, in the order of the original's state dict."""
    return list(_TABLES[model_class](config))


def named_parameters(table: list[Entry]) -> list[Entry]:
    """The entries in the order of torch's named_parameters(); a tied tensor has its first name."""
    return [entry for entry in table if entry.kind == "parameter"]


def parameter_counts(
    model_class: str,
    config: ModelConfig,
    counted: Callable[[VariablePath], bool] = lambda path: True,
) -> dict[str, int]:
    """The numbers of parameters of a model's parts, in the order of the model.

    Args:
        model_class: its name.
        config: its config.
        counted: says by its path in the JAX model whether an array counts.
    """
    counts: dict[str, int] = {}
    for entry in named_parameters(entries(model_class, config)):
        if entry.path is not None and counted(entry.path):
            part = str(entry.path[0])
            counts[part] = counts.get(part, 0) + math.prod(entry.shape)
    return counts


def _mmrec_model(c: ModelConfig) -> Iterator[Entry]:
    D, V = c.model_dim, c.vocab_size
    yield Entry("embedding.weight", ("embedding", "embedding"), (V, D))
    yield from _blocks_and_norm(c)
    yield Entry("lm_head.weight", ("embedding", "embedding"), (V, D), kind="tied")


def _blocks_and_norm(c: ModelConfig) -> Iterator[Entry]:
    for i in range(c.num_layers):
        yield from _under(f"blocks.{i}", ("blocks", i), _block(c))
    yield _norm("norm", c.model_dim)


def _fusion_layer(c: ModelConfig) -> Iterator[Entry]:
    D = c.model_dim
    yield from _linear("fusion_proj", ("fusion_proj",), 2 * D, c.fusion_dim)
    if c.fusion_method == "weighted":
        yield from _linear("gate.0", ("gate",), 2 * D, D)


def _mmrec_100m(c: ModelConfig) -> Iterator[Entry]:
    D, V = c.model_dim, c.vocab_size
    yield Entry("embedding.weight", ("embedding", "embedding"), (V, D))
    yield from _under("text_expert", ("text_expert",), _blocks_and_norm(c))
    yield from _under("code_expert", ("code_expert",), _blocks_and_norm(c))
    yield from _under("fusion", ("fusion",), _fusion_layer(c))
    yield _norm("final_norm", 2 * D)
    yield Entry("lm_head.weight", ("lm_head", "kernel"), (V, 2 * D), transpose=True)


_TABLES = {
    "MMRecModel": _mmrec_model,
    "ExpertModule": _blocks_and_norm,
    "FusionLayer": _fusion_layer,
    "MMRec100M": _mmrec_100m,
}


def _block(c: ModelConfig) -> Iterator[Entry]:
    D, I = c.model_dim, c.inner_dim  # noqa: E741 (the letters of docs/model.md)
    if c.use_hem:
        yield from _linear("W_fused", ("W_fused",), D, c.fused_projection_dim)
    else:
        for name in ("W_q", "W_k", "W_v", "W_z"):
            yield from _linear(name, (name,), D, D)
    yield from _linear("W_g", ("W_g",), D, D)
    yield _norm("norm1", D)
    yield _norm("norm2", D)
    if c.use_dpg:
        yield from _linear("W_gamma_down", ("W_gamma_down",), D, c.dpg_rank)
        yield from _linear("W_gamma_up", ("W_gamma_up",), c.dpg_rank, D)
    yield from _linear("mdi.W_g", ("mdi", "W_g"), 2 * D, D)
    yield from _mlp("mdi.W_gamma", ("mdi", "W_gamma"), (D, I, D))
    yield from _mlp("mdi.W_context", ("mdi", "W_context"), (D, I, D))
    if c.use_uboo:
        yield from _mlp("mdi.W_planning_error", ("mdi", "W_planning_error"), (D, D, D))
        yield from _mlp("mdi.W_planning_target", ("mdi", "W_planning_target"), (D, D, D))
    for name in ("W_q", "W_o"):
        yield from _linear(f"multi_mem_attention.{name}", ("multi_mem_attention", name), D, D)
    if c.use_sparse:
        bits = c.num_experts.bit_length() - 1
        yield Entry("ffn.expert_weights", ("ffn", "expert_weights"), (c.num_experts, D, D))
        yield Entry(
            "ffn.router.hyperplanes", ("ffn", "router", "hyperplanes"), (D, bits), kind="buffer"
        )
        yield Entry("ffn.router.powers", None, (bits,), kind="constant")
    else:
        yield from _mlp("ffn", ("ffn",), (D, c.ffn_dim, D), second="3")


def _linear(key: str, path: VariablePath, inputs: int, outputs: int) -> Iterator[Entry]:
    yield Entry(f"{key}.weight", (*path, "kernel"), (outputs, inputs), transpose=True)
    yield Entry(f"{key}.bias", (*path, "bias"), (outputs,))


def _mlp(
    key: str, path: VariablePath, dims: tuple[int, int, int], *, second: str = "2"
) -> Iterator[Entry]:
    inputs, hidden, outputs = dims
    yield from _linear(f"{key}.0", (*path, "linear_in"), inputs, hidden)
    yield from _linear(f"{key}.{second}", (*path, "linear_out"), hidden, outputs)


def _norm(name: str, dim: int) -> Entry:
    return Entry(f"{name}.weight", (name, "scale"), (dim,))


def _under(key: str, path: VariablePath, inner: Iterator[Entry]) -> Iterator[Entry]:
    for entry in inner:
        yield dataclasses.replace(
            entry,
            key=f"{key}.{entry.key}",
            path=None if entry.path is None else (*path, *entry.path),
        )
