"""Models from state dicts and state dicts from models, both through the key table."""

import types
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, cast

import jax
import numpy as np
import torch
from flax import nnx

from bridge import model_config
from bridge.errors import FormatError, MismatchError, NonFiniteWarning
from bridge.keys import MODEL_CLASSES, Entry, Model, Path, entries
from bridge.tensors import FLOATS, layout, to_jax, to_numpy, to_torch
from mmrec_jax import ModelConfig
from mmrec_jax.stack import BlockStack, unstack_blocks

_WRAPPERS = {"module", "_orig_mod"}
"""Names that DataParallel and torch.compile put into keys; no tensor of ours is named so."""


def unwrapped(state_dict: Mapping[Any, Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors under their own names, and the names that came more than once.

    Raises:
        FormatError: something in it is not a tensor with a name.
    """
    tensors: dict[str, torch.Tensor] = {}
    duplicates = []
    for key, tensor in state_dict.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise FormatError(f"{key!r} in the state dict is a {type(tensor).__name__}, no tensor")
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if name in tensors:
            duplicates.append(name)
        tensors[name] = tensor
    return tensors, duplicates


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def model_from_tensors(
    model_class: str,
    config: ModelConfig,
    tensors: MutableMapping[str, torch.Tensor],
    *,
    duplicates: list[str] | None = None,
) -> Model:
    """A model that holds these tensors, of their dtypes, bit for bit.

    Args:
        model_class: a name of MODEL_CLASSES.
        config: the model's.
        tensors: by the names of docs/model.md section 6.2; emptied on the way, so that a model
            and its file need not both fit into memory.
        duplicates: names that the state dict held more than once.

    Raises:
        MismatchError: the tensors are not exactly the model's.

    Warns:
        NonFiniteWarning: some values are NaN or infinite; the warning says where.
    """
    table = entries(model_class, config)
    problems = _problems(table, tensors) | {"duplicate": duplicates or []}
    if any(problems.values()):
        shapes = shapes_of(tensors)
        contradictory = model_config.contradictions(model_class, config, shapes)
        raise MismatchError(
            f"the tensors are not those of a {model_class}",
            {"contradictory": contradictory} | problems,
        )
    arrays: dict[Path, jax.Array] = {}
    not_finite = []
    for entry in table:
        tensor = tensors.pop(entry.key)
        if entry.path is None or entry.kind == "tied":
            continue
        # In numpy, as JAX would compile one program for each shape.
        wrong = tensor.numel() - int(np.isfinite(to_numpy(tensor)).sum())
        if wrong:
            not_finite.append(f"{entry.key} ({wrong} of {tensor.numel()} values)")
        arrays[entry.path] = to_jax(tensor, transpose=entry.transpose)
        del tensor
    if not_finite:
        warnings.warn(
            f"NaN or infinite weights: {', '.join(not_finite)}", NonFiniteWarning, stacklevel=2
        )
    return _assemble(model_class, config, arrays)


def state_dict(model: Model) -> dict[str, torch.Tensor]:
    """The model's tensors by the original's names, in its order, tied ones as one tensor.

    Args:
        model: with its blocks in either form, a list or stacked.
    """
    arrays = variables(model)
    tensors: dict[Path, torch.Tensor] = {}
    result = {}
    for entry in entries(class_name(model), model.config):
        if entry.path is None:
            result[entry.key] = _powers(entry)
            continue
        if entry.kind != "tied":
            array = arrays[entry.path]
            tensors[entry.path] = to_torch(array, transpose=entry.transpose)
        result[entry.key] = tensors[entry.path]
    return result


def variables(model: Model) -> dict[Path, jax.Array]:
    """Every array of a model by its path, the blocks' as of a list of blocks."""
    stacks = [module for _, module in nnx.iter_modules(model) if isinstance(module, BlockStack)]
    if not all(isinstance(stack.blocks, nnx.List) for stack in stacks):
        model = unstack_blocks(model)
    return {path: leaf[...] for path, leaf in _flat(nnx.state(model))}


def class_name(model: Model) -> str:
    """The name of the model's class.

    Raises:
        TypeError: it is none of ours.
    """
    for name, cls in MODEL_CLASSES.items():
        if type(model) is cls:
            return name
    raise TypeError(f"expected one of {', '.join(MODEL_CLASSES)}, not {type(model).__name__}")


def _problems(table: list[Entry], tensors: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    expected = {entry.key: entry for entry in table}
    problems: dict[str, list[str]] = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "misshapen": [],
        "of the wrong type": [],
        "of wrong values": [],
    }
    first_names = {entry.path: entry.key for entry in table if entry.kind != "tied"}
    for key, entry in expected.items():
        if key not in tensors:
            continue
        tensor = tensors[key]
        right_type = (tensor.dtype == torch.int64) if entry.path is None else tensor.dtype in FLOATS
        if tuple(tensor.shape) != entry.shape:
            found, wanted = list(tensor.shape), list(entry.shape)
            problems["misshapen"].append(f"{key} is {found}, not {wanted}")
        elif not right_type or layout(tensor):
            found_type = layout(tensor) or str(tensor.dtype).removeprefix("torch.")
            problems["of the wrong type"].append(f"{key} ({found_type})")
        elif entry.kind == "constant" and not torch.equal(tensor, _powers(entry)):
            problems["of wrong values"].append(f"{key} is not 1, 2, 4, ...")
        elif entry.kind == "tied":
            first = tensors.get(first_names[entry.path])
            if first is not None and not layout(first) and not _same_bits(tensor, first):
                problems["of wrong values"].append(f"{key} is not {first_names[entry.path]}")
    return problems


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    integers = {4: torch.int32, 2: torch.int16}[a.element_size()]
    return torch.equal(a.detach().view(integers), b.detach().view(integers))


def _powers(entry: Entry) -> torch.Tensor:
    return 2 ** torch.arange(entry.shape[0], dtype=torch.int64)


def _assemble(model_class: str, config: ModelConfig, arrays: dict[Path, jax.Array]) -> Model:
    graphdef, leaves = _abstract(model_class, config)
    wanted = {path: tuple(leaf.shape) for path, leaf in leaves}
    if wanted != {path: array.shape for path, array in arrays.items()}:
        raise AssertionError(f"the key table and {model_class} disagree about the variables")
    state = nnx.from_flat_state([(path, leaf.replace(arrays[path])) for path, leaf in leaves])
    return nnx.merge(graphdef, state)


def _abstract(
    model_class: str, config: ModelConfig
) -> tuple[nnx.GraphDef[Model], list[tuple[Path, nnx.Variable[jax.Array]]]]:
    """A model's structure; no initial values are drawn that would only be thrown away."""
    # In place of nnx.Rngs, whose counters take ten times as long to trace as all the rest.
    key = jax.random.key(0)
    rngs = cast(nnx.Rngs, types.SimpleNamespace(params=lambda: key))
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: MODEL_CLASSES[model_class](config, rngs=rngs))
    )
    return graphdef, list(_flat(state))


def _flat(state: nnx.State) -> Iterator[tuple[Path, nnx.Variable[jax.Array]]]:
    return cast(Iterator[tuple[Path, nnx.Variable[jax.Array]]], iter(nnx.to_flat_state(state)))
