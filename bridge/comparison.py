"""Compares two checkpoints: every tensor, the training state, and the models' outputs."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bridge import weights
from bridge.checkpoint import LoadedCheckpoint
from bridge.config.metadata import in_full
from bridge.files.tensors import Array
from bridge.keys import Model, entries
from mmrec_jax import FusionLayer, LongTermMemory, MMRec100M, MMRecModel
from mmrec_jax.config import MEMORY_SLOTS
from mmrec_jax.layer_paths import AnyArray

Shape = tuple[int, ...]

KINDS = ("weight", "exp_avg", "exp_avg_sq")
"""The kinds of tensors that are compared; the last two are AdamW's moments."""

_BATCH, _TOKENS = 2, 33

_HOW = ("foreach", "fused", "capturable", "differentiable")
"""torch's switches that choose how AdamW is computed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One tensor that both checkpoints have, with the same shape.

    Attributes:
        name: the checkpoint's name for the weight, or for the moment's parameter.
        kind: one of KINDS.
        difference: the largest absolute difference, see `largest_difference`.
        dtypes: the dtypes in A and in B.
    """

    name: str
    kind: str
    difference: float
    dtypes: tuple[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """How two checkpoints, A and B, differ.

    Attributes:
        different: differences of class, config and training state, one line each.
        only_in_a: names of tensors; for moments the kind comes first.
        only_in_b: the same for B.
        misshapen: tensors that have a different shape in B, one line each.
        tensors: all tensors that both have, the largest difference first.
        outputs: the largest absolute differences of the models' outputs for random tokens and
            memories; empty if the models have different classes or shapes.
    """

    different: tuple[str, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    misshapen: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]
    outputs: dict[str, float]

    def __repr__(self) -> str:
        missing = len(self.only_in_a) + len(self.only_in_b) + len(self.misshapen)
        return (
            f"{len(self.tensors)} tensors compared, {missing} missing or misshapen, largest "
            f"difference {self.largest:.3g}, {len(self.different)} other differences"
        )

    def of_kind(self, kind: str) -> tuple[TensorDifference, ...]:
        """The tensors of one kind, the largest difference first."""
        return tuple(item for item in self.tensors if item.kind == kind)

    @property
    def largest(self) -> float:
        """The largest difference of all tensors and outputs."""
        return max([0.0, *(item.difference for item in self.tensors), *self.outputs.values()])

    @property
    def other_dtypes(self) -> tuple[TensorDifference, ...]:
        """The tensors whose dtype is different in B."""
        return tuple(item for item in self.tensors if item.dtypes[0] != item.dtypes[1])

    def agrees(self, tolerance: float = 0.0) -> bool:
        """Whether A and B are the same checkpoint.

        Args:
            tolerance: for weights, moments and outputs; with 0 the dtypes must be the same too.
                Config and training state must always be equal.
        """
        if self.different or self.only_in_a or self.only_in_b or self.misshapen:
            return False
        if tolerance == 0 and self.other_dtypes:
            return False
        return self.largest <= tolerance

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {"largest": self.largest, **dataclasses.asdict(self)}


def compare(
    a: LoadedCheckpoint,
    b: LoadedCheckpoint,
    seed: int = 0,
    tolerance: float = 0.0,
    *,
    outputs: bool = True,
) -> Comparison:
    """Compares everything in two checkpoints, except additional entries in their metadata.

    Args:
        a: the first.
        b: the second.
        seed: for the random tokens [2, 33] and memories that both models get, in float32.
        tolerance: numbers of the training state (the loss, rates) that differ by no more count as
            equal. Above 0, torch's switches that only choose how AdamW is computed are ignored.
        outputs: run both models too; equal weights have equal outputs, which takes seconds to see.
    """
    with_moments = a.optimizer_state is not None and b.optimizer_state is not None
    in_a, in_b = (dict(_arrays(side, with_moments)) for side in (a, b))
    tensors, misshapen = [], []
    for (kind, name), (shape, array) in in_a.items():
        if (kind, name) not in in_b:
            continue
        other_shape, other = in_b[kind, name]
        if shape != other_shape:
            shapes = f"{list(shape)} in A, {list(other_shape)} in B"
            misshapen.append(f"{_words(kind, name)}: {shapes}")
            continue
        tensors.append(
            TensorDifference(
                name=name,
                kind=kind,
                difference=largest_difference(np.asarray(array), np.asarray(other)),
                dtypes=(str(array.dtype), str(other.dtype)),
            )
        )
    alike = type(a.model) is type(b.model) and _weight_shapes(in_a) == _weight_shapes(in_b)
    return Comparison(
        different=tuple(_different(a, b, tolerance)),
        only_in_a=tuple(_words(*key) for key in in_a if key not in in_b),
        only_in_b=tuple(_words(*key) for key in in_b if key not in in_a),
        misshapen=tuple(misshapen),
        tensors=tuple(sorted(tensors, key=lambda item: -item.difference)),
        outputs=_output_differences(a.model, b.model, seed) if alike and outputs else {},
    )


def largest_difference(a: Array, b: Array) -> float:
    """The largest absolute difference of two arrays of the same shape.

    NaN differs infinitely from everything except the same bits in the same dtype.
    """
    same_dtype = a.dtype == b.dtype
    if same_dtype and a.tobytes() == b.tobytes():
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        differences = np.abs(x - y)
    same = x == y  # infinities too, whose difference would be NaN
    if same_dtype:
        bits = np.dtype(f"u{a.dtype.itemsize}")
        same |= a.view(bits) == b.view(bits)
    differences = np.where(same, 0.0, differences)
    return float(np.where(np.isnan(differences), np.inf, differences).max(initial=0.0))


def _arrays(
    checkpoint: LoadedCheckpoint, with_moments: bool
) -> Iterator[tuple[tuple[str, str], tuple[Shape, AnyArray]]]:
    """The arrays in JAX's layout by kind and name, with their shapes in the file."""
    trees = {"weight": weights.variables(checkpoint.model)}
    if with_moments:
        trees |= {kind: getattr(checkpoint.optimizer_state, kind) for kind in KINDS[1:]}
    table = entries(weights.class_name(checkpoint.model), checkpoint.config)
    for kind, tree in trees.items():
        for entry in table:
            if entry.kind in ("parameter", "buffer") and entry.path in tree:
                yield (kind, entry.key), (entry.shape, tree[entry.path])


def _weight_shapes(arrays: Mapping[tuple[str, str], tuple[Shape, Any]]) -> dict[str, Shape]:
    return {name: shape for (kind, name), (shape, _) in arrays.items() if kind == "weight"}


def _words(kind: str, name: str) -> str:
    return name if kind == "weight" else f"{kind} of {name}"


def _different(a: LoadedCheckpoint, b: LoadedCheckpoint, tolerance: float) -> Iterator[str]:
    """All differences except those of arrays."""
    classes = [weights.class_name(side.model) for side in (a, b)]
    if classes[0] != classes[1]:
        yield f"model class: {classes[0]} in A, {classes[1]} in B"
    else:
        yield from _unequal("config.", _config(a), _config(b))
    in_a, in_b = ({"step": side.counter, "avg_loss": side.avg_loss} for side in (a, b))
    yield from _unequal("", in_a, in_b, tolerance)
    for name, states in (
        ("optimizer", [_optimizer(side) for side in (a, b)]),
        ("schedule", [_schedule(side) for side in (a, b)]),
    ):
        first, second = states
        if first is not None and second is not None:
            if tolerance:
                first, second = (_computed(state) for state in (first, second))
            yield from _unequal(f"{name}.", first, second, tolerance)
        elif first is not None or second is not None:
            yield f"{name}: only in {'A' if second is None else 'B'}"


def _config(checkpoint: LoadedCheckpoint) -> dict[str, Any]:
    return in_full(weights.class_name(checkpoint.model), checkpoint.config)


def _optimizer(checkpoint: LoadedCheckpoint) -> dict[str, Any] | None:
    state = checkpoint.optimizer_state
    return None if state is None else {"step": state.step, **state.hyperparameters}


def _schedule(checkpoint: LoadedCheckpoint) -> dict[str, Any] | None:
    state = checkpoint.scheduler_state
    return None if state is None else dataclasses.asdict(state)


def _computed(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in _HOW}


def _unequal(
    prefix: str, a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = 0.0
) -> Iterator[str]:
    for key in dict.fromkeys([*a, *b]):
        first, second = (_comparable(side.get(key)) for side in (a, b))
        numbers = isinstance(first, float) and isinstance(second, float)
        if first != second and not (numbers and abs(first - second) <= tolerance):
            yield f"{prefix}{key}: {first!r:.80} in A, {second!r:.80} in B"


def _comparable(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return tuple(value) if isinstance(value, list) else value


def _output_differences(a: Model, b: Model, seed: int) -> dict[str, float]:
    with jax.default_matmul_precision("highest"):
        first, second = (_outputs(_in_float32(model), seed) for model in (a, b))
    return {
        name: max(
            largest_difference(np.asarray(x), np.asarray(y))
            for x, y in zip(
                jax.tree.leaves(first[name]), jax.tree.leaves(second[name]), strict=True
            )
        )
        for name in first
    }


def _in_float32(model: Model) -> Model:
    arrays = {path: array.astype(jnp.float32) for path, array in weights.variables(model).items()}
    return weights.assemble(weights.class_name(model), model.config, arrays)


def _outputs(model: Model, seed: int) -> dict[str, Any]:
    """A model's outputs by name; its inputs depend only on the seed and the shapes."""
    config = model.config
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    def memory() -> list[LongTermMemory]:
        shape = MEMORY_SLOTS, config.model_dim
        return [LongTermMemory(normal(*shape), normal(*shape)) for _ in range(config.num_layers)]

    hidden = _BATCH, _TOKENS, config.model_dim
    if isinstance(model, FusionLayer):
        return {"output": model(normal(*hidden), normal(*hidden))}
    if not isinstance(model, MMRecModel | MMRec100M):
        output, after = model(normal(*hidden), memory())
        return {"output": output, "memory": after}
    ids = jnp.asarray(rng.integers(0, config.vocab_size, (_BATCH, _TOKENS)), jnp.int32)
    if isinstance(model, MMRecModel):
        outs = {"": model(ids, memory())}
    else:
        memories = {"text": memory(), "code": memory()}
        outs = {
            " (both)": model(ids, memories),
            " (text)": model(ids, memories, expert_type="text"),
            " (code)": model(ids, memories, expert_type="code"),
        }
    results: dict[str, Any] = {}
    for routing, out in outs.items():
        results |= {f"logits{routing}": out.logits, f"memory{routing}": out.memory}
        if config.use_uboo:
            results[f"auxiliary loss{routing}"] = out.auxiliary_loss
    return results
