"""Models from state dicts and state dicts from models, both through the key table."""

import functools
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import jax
import numpy as np
from flax import nnx

from bridge.config.resolve import contradictions
from bridge.errors import MismatchError, NonFiniteWarning, listed
from bridge.files.tensors import FLOATS, Array, Tensor, computed_ahead, host_array, tensor_of
from bridge.keys import MODEL_CLASSES, Entry, Model, entries
from mmrec_jax import ModelConfig
from mmrec_jax.layer_paths import AnyArray, VariablePath, unstack


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by name."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def model_from_tensors(
    model_class: str,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    duplicates: Sequence[str] = (),
) -> Model:
    """A model that holds these tensors, of their dtypes, bit for bit.

    Args:
        model_class: a name of MODEL_CLASSES.
        config: the model's.
        tensors: by the names of docs/model.md section 6.2.
        duplicates: names that the state dict held more than once.

    Raises:
        MismatchError: the tensors are not exactly the model's.

    Warns:
        NonFiniteWarning: some values are NaN or infinite; the warning says where.
    """
    table = entries(model_class, config)
    found = problems(table, tensors) | {"duplicate": list(duplicates)}
    if not any(found.values()):
        found = {"of wrong values": list(wrong_values(table, tensors))}
    if any(found.values()):
        contradictory = contradictions(model_class, config, shapes_of(tensors))
        raise MismatchError(
            f"the tensors are not those of the class {model_class}",
            {"contradictory": contradictory} | found,
            _conversion(table, tensors),
        )
    return assemble(model_class, config, arrays_of(table, tensors))


def arrays_of(
    table: Sequence[Entry], tensors: Mapping[str, Tensor]
) -> dict[VariablePath, jax.Array]:
    """The arrays of a model by path, from tensors that fit it; those that are missing are left out.

    Warns:
        NonFiniteWarning: some values are NaN or infinite; the warning says where.
    """
    stored = [
        entry
        for entry in table
        if entry.path is not None and entry.kind != "tied" and entry.key in tensors
    ]

    def convert(entry: Entry) -> tuple[jax.Array, int]:
        values = host_array(tensors[entry.key], transpose=entry.transpose)
        # Before they go to the device, which would have to send them back.
        finite = np.isfinite(values)
        return jax.device_put(values), 0 if finite.all() else values.size - int(finite.sum())

    arrays: dict[VariablePath, jax.Array] = {}
    not_finite = []
    converted = computed_ahead(functools.partial(convert, entry) for entry in stored)
    for entry, (array, wrong) in zip(stored, converted, strict=True):
        assert entry.path is not None
        arrays[entry.path] = array
        if wrong:
            not_finite.append(f"{entry.key} ({wrong} of {array.size} values)")
    if not_finite:
        warnings.warn(
            f"NaN or infinite weights: {listed(not_finite)}", NonFiniteWarning, stacklevel=2
        )
    return arrays


def tensors_of(model: Model) -> dict[str, Tensor]:
    """The model's tensors by the original's names, in its order, tied ones as one Tensor.

    Args:
        model: with its blocks in either form, a list or stacked.
    """
    arrays = variables(model)
    tensors: dict[VariablePath, Tensor] = {}
    result = {}
    for entry in entries(class_name(model), model.config):
        if entry.path is None:
            result[entry.key] = tensor_of(_powers(entry))
            continue
        if entry.kind != "tied":
            tensors[entry.path] = tensor_of(arrays[entry.path], transpose=entry.transpose)
        result[entry.key] = tensors[entry.path]
    return result


def variables(model: Model) -> dict[VariablePath, AnyArray]:
    """Every array of a model by its path, the blocks' as of a list of blocks."""
    return unstack({path: leaf[...] for path, leaf in _flat(nnx.state(model))})


def class_name(model: Model) -> str:
    """The name of the model's class.

    Raises:
        TypeError: it is none of ours.
    """
    for name, cls in MODEL_CLASSES.items():
        if type(model) is cls:
            return name
    raise TypeError(f"expected one of {', '.join(MODEL_CLASSES)}, not {type(model).__name__}")


def problems(table: Sequence[Entry], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What of a model's tensors is missing, unexpected, misshapen or of the wrong type."""
    expected = {entry.key: entry for entry in table}
    found: dict[str, list[str]] = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "misshapen": [],
        "of the wrong type": [],
    }
    for key, entry in expected.items():
        if key not in tensors:
            continue
        tensor = tensors[key]
        dtypes = (np.dtype(np.int64),) if entry.path is None else FLOATS
        if tensor.shape != entry.shape:
            wanted = list(entry.shape)
            found["misshapen"].append(f"{key} is {list(tensor.shape)}, not {wanted}")
        elif tensor.dtype not in dtypes:
            found["of the wrong type"].append(f"{key} ({tensor.dtype})")
    return found


def _conversion(table: Sequence[Entry], tensors: Mapping[str, Tensor]) -> str:
    """How to make what a model can take of tensors whose type none has."""
    found = {tensors[entry.key].dtype for entry in table if entry.path and entry.key in tensors}
    foreign = sorted(str(dtype) for dtype in found - set(FLOATS))
    if not foreign:
        return ""
    how = ".real.float()" if any(name.startswith("complex") for name in foreign) else ".float()"
    return f"MM-Rec's models have no {listed(foreign)} tensors: convert them with {how}"


def has_wrong_values(entry: Entry, tensor: Tensor, first: Tensor | None) -> bool:
    """Whether a tensor's values contradict its kind.

    Args:
        entry: of the tensor.
        tensor: of the entry's shape and of a type that it may have.
        first: for a tied tensor the one that it is tied to, None if that is missing.
    """
    if entry.kind == "constant":
        return not np.array_equal(tensor.read(), _powers(entry))
    if entry.kind != "tied" or first is None or first is tensor:
        return False
    return first.dtype != tensor.dtype or not same_values(first, tensor)


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype have the same values, bit for bit."""
    return a is b or a.read().tobytes() == b.read().tobytes()


def wrong_values(table: Sequence[Entry], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Which of a model's tensors contradict their kind; all are there and of the right shape."""
    first_names = {entry.path: entry.key for entry in table if entry.kind != "tied"}
    for entry in table:
        first = first_names[entry.path]
        if has_wrong_values(entry, tensors[entry.key], tensors[first]):
            yield f"{entry.key} is not {'1, 2, 4, ...' if entry.kind == 'constant' else first}"


def _powers(entry: Entry) -> Array:
    return 2 ** np.arange(entry.shape[0], dtype=np.int64)


def assemble(
    model_class: str, config: ModelConfig, arrays: Mapping[VariablePath, AnyArray]
) -> Model:
    """A model of all its arrays, its blocks a list."""
    graphdef, leaves = _abstract(model_class, config)
    wanted = {path: tuple(leaf.shape) for path, leaf in leaves}
    if wanted != {path: array.shape for path, array in arrays.items()}:
        raise AssertionError(f"the key table and {model_class} disagree about the variables")
    state = nnx.from_flat_state([(path, leaf.replace(arrays[path])) for path, leaf in leaves])
    return nnx.merge(graphdef, state)


@functools.lru_cache(maxsize=8)
def _abstract(
    model_class: str, config: ModelConfig
) -> tuple[nnx.GraphDef[Model], list[tuple[VariablePath, nnx.Variable[jax.Array]]]]:
    """A model's structure; no initial values are drawn that would only be thrown away."""
    # In place of nnx.Rngs, whose counters take ten times as long to trace as all the rest.
    key = jax.random.key(0)
    rngs = cast(nnx.Rngs, types.SimpleNamespace(params=lambda: key))
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: MODEL_CLASSES[model_class](config, rngs=rngs))
    )
    return graphdef, list(_flat(state))


def _flat(state: nnx.State) -> Iterator[tuple[VariablePath, nnx.Variable[jax.Array]]]:
    return cast(
        Iterator[tuple[VariablePath, nnx.Variable[jax.Array]]], iter(nnx.to_flat_state(state))
    )
