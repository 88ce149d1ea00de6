"""What a file states: its content understood and checked, its tensors unread."""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from bridge.config.infer import infer_class
from bridge.config.metadata import known_class, stated_config
from bridge.config.resolve import resolve_config
from bridge.contents import advice, described, entry_of, is_weight, weights_in
from bridge.errors import BridgeError, FileWarning, FormatError, listed
from bridge.files.plain_data import plain, safe_name
from bridge.files.refused import Needed, Refused
from bridge.files.tensors import Tensor
from bridge.keys import MODEL_CLASSES
from bridge.names import own_names
from bridge.weights import shapes_of
from mmrec_jax import ModelConfig

_TRAINED = {"model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "step"}
"""The trained weights and what belongs to them."""

_TAKEN = _TRAINED | {"avg_loss", "loss", "metadata", "config", "model_config", "args"}
"""The entries of a file that are taken over, or that the model's config is read from."""

_MOST_TENSORS = 2**16
"""2000 layers; the time that names take is in proportion to their number."""

_LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatedCheckpoint:
    """What a file states, its tensors unread and nothing compared with a model yet.

    Attributes:
        stated_class: what metadata.model_class says, None if nothing.
        stated_config: the config as far as the file states it.
        tensors: the model's, by the original's names.
        duplicates: names that more than one tensor has.
        wrappers: what names in the file have besides the model's own, such as "model.".
        left_out: the file's entries that are not taken over, by name: what each is.
        optimizer: the optimizer's state dict, None if there is none.
        scheduler: the schedule's, likewise.
        step, stated_step, avg_loss, metadata: as in LoadedCheckpoint.
    """

    stated_class: Any
    stated_config: dict[str, Any]
    tensors: dict[str, Tensor]
    duplicates: list[str]
    wrappers: tuple[str, ...]
    left_out: dict[str, str]
    optimizer: Any
    scheduler: Any
    step: int
    stated_step: int | None
    avg_loss: float
    metadata: dict[str, Any]

    @property
    def model_class(self) -> str:
        """The model's, stated or inferred from the tensors' names.

        Raises:
            ConfigError: the stated one is none of ours, or no model has these names.
        """
        if self.stated_class is not None:
            return known_class(self.stated_class)
        return infer_class(shapes_of(self.tensors))

    def config(self, num_heads: int | None = None) -> ModelConfig:
        """The model's: what is stated, then what the shapes show, then the defaults.

        Args:
            num_heads: see `load_torch`.

        Raises:
            ConfigError: no model has these values, or one is missing.
        """
        shapes = shapes_of(self.tensors)
        return resolve_config(self.model_class, self.stated_config, shapes, num_heads)


def needed_of(entry: str | None = None, model_only: bool = False) -> Needed:
    """What of a file must be readable for `understand`, which gets the same arguments."""
    return _nothing if model_only or entry is not None else _taken


def _nothing(content: Any) -> Collection[Any]:
    return ()


def _taken(content: Any) -> Collection[Any] | None:
    if isinstance(content, Mapping) and "model_state_dict" in content:
        return _TAKEN
    # Where weights are called otherwise, the error names them, and is not about what is beside.
    return () if weights_in(content) else None


def understand(
    content: Any, entry: str | None = None, model_only: bool = False
) -> StatedCheckpoint:
    """What the content of a file states.

    Args:
        content: as the file holds it: plain data and Tensors.
        entry: the name of the weights, such as "ema_state_dict" or "ema.model", to take instead of
            the model_state_dict; there is no training state then.
        model_only: whatever the content has besides the model may be wrong: it is left out.

    Raises:
        FormatError: it is no checkpoint, or an entry is not what it should be.
    """
    if isinstance(content, Refused):
        raise content.error("the whole file")
    if not isinstance(content, Mapping):
        raise FormatError(f"holds a {type(content).__name__}, not a checkpoint")
    left_out = {}
    is_bare = entry is None and "model_state_dict" not in content
    if entry is None:
        content = _with_model_state(_without_nonsense(content) if model_only else content)
    else:
        left_out = {name: described(content[name]) for name in _TRAINED & content.keys()}
        taken = {entry if entry in content else entry.split(".")[0], *_TRAINED}
        kept = {name: item for name, item in content.items() if name not in taken}
        found = entry_of(content, entry)
        weights = {key: item for key, item in found.items() if is_weight(item)}
        left_out |= {
            safe_name(f"{entry}.{key}"): described(item)
            for key, item in found.items()
            if key not in weights
        }
        content = _without_nonsense(kept | {"model_state_dict": weights})
    tensors, duplicates, wrappers = _own_tensors(content["model_state_dict"])
    if is_bare:
        tensors = _with_tied_head(tensors)
    stated_class, config = stated_config(content)
    step, stated_step = _steps(content)
    return StatedCheckpoint(
        stated_class=stated_class,
        stated_config=config,
        tensors=tensors,
        duplicates=duplicates,
        wrappers=wrappers,
        left_out=left_out
        | {
            safe_name(str(name)): described(item)
            for name, item in content.items()
            if name not in _TAKEN
        },
        optimizer=content.get("optimizer_state_dict"),
        scheduler=content.get("scheduler_state_dict"),
        step=step,
        stated_step=stated_step,
        avg_loss=_number(content, "loss" if content.get("avg_loss") is None else "avg_loss", float),
        metadata=plain(dict(content.get("metadata") or {}), "metadata"),
    )


def _without_nonsense(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """The content without what is wrong besides the model."""
    kept = {key: item for key, item in content.items() if key != "step"}
    for name in ("metadata", "config", "model_config", "args"):
        if name in kept:
            item = plain(kept[name], name, lenient=True)
            kept[name] = item if isinstance(item, dict) else {}
    if kept.get("metadata", {}).get("model_class") not in (None, *MODEL_CLASSES):
        del kept["metadata"]["model_class"]
    for name in ("avg_loss", "loss"):
        try:
            _number(kept, name, float)
        except BridgeError:
            del kept[name]
    for name in ("optimizer_state_dict", "scheduler_state_dict"):
        kept.pop(name, None)
    return kept


def _with_model_state(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    if "model_state_dict" in content:
        if isinstance(content["model_state_dict"], Refused):
            raise content["model_state_dict"].error("model_state_dict")
        if not isinstance(content["model_state_dict"], Mapping):
            raise FormatError("model_state_dict is not a dictionary of tensors")
        inside = weights_in({"model_state_dict": content["model_state_dict"]})
        if inside and "model_state_dict" not in inside:
            raise FormatError(
                f"model_state_dict holds dictionaries instead of tensors: {advice(inside)}"
            )
        if not isinstance(content.get("metadata") or {}, Mapping):
            raise FormatError("metadata is not a dictionary")
        return content
    if content and all(isinstance(value, Tensor | Refused) for value in content.values()):
        return {"model_state_dict": content}
    keys = listed([safe_name(str(key)) for key in content]) or "nothing"
    raise FormatError(
        f"holds neither a model_state_dict nor the tensors of one, but {keys}: "
        f"{advice(weights_in(content))}"
    )


def _with_tied_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An MMRecModel's tensors with the head, which programs leave out that store no value twice."""
    names = tensors.keys()
    if not {"embedding.weight", "norm.weight"} <= names or "lm_head.weight" in names:
        return tensors
    warnings.warn(
        "has no lm_head.weight: it is tied to embedding.weight", FileWarning, stacklevel=2
    )
    return tensors | {"lm_head.weight": tensors["embedding.weight"]}


def _own_tensors(
    state_dict: Mapping[Any, Any],
) -> tuple[dict[str, Tensor], list[str], tuple[str, ...]]:
    """The tensors under their own names, names that came more than once, what else was in names.

    Raises:
        FormatError: something in it is not a tensor with a name that can be shown, or it is one of
            too many.
    """
    if len(state_dict) > _MOST_TENSORS:
        raise FormatError(f"has {len(state_dict)} tensors, and no model has so many")
    for key, tensor in state_dict.items():
        if isinstance(tensor, Refused):
            raise tensor.error(safe_name(str(key)))
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise FormatError(f"{key!r:.80} in the state dict is a {kind}, no tensor")
        if len(key) > _LONGEST_NAME or not key.isprintable():
            raise FormatError(f"has a tensor with the name {key[:80]!r:.80}, and no model has one")
    names, wrappers = own_names(state_dict)
    times = Counter(names.values())
    duplicates = [name for name, count in times.items() if count > 1]
    return {names[key]: tensor for key, tensor in state_dict.items()}, duplicates, wrappers


def _steps(content: Mapping[str, Any]) -> tuple[int, int | None]:
    """The steps made, and what the file's own counter says where that is something else.

    The optimizer's count is the one that its next step depends on; the file's own may count
    micro-batches, or be ahead or behind by one. Without an optimizer, the file's own counts, and
    without that the schedule's.
    """
    schedule = content.get("scheduler_state_dict")
    stated = content.get("step")
    if stated is None and isinstance(schedule, Mapping):
        stated = schedule.get("last_epoch")
    step: int = _number({"step": stated}, "step", int)
    if step < 0:
        raise FormatError(f"step is {step}, below 0")
    made = _optimizer_steps(content.get("optimizer_state_dict"))
    if made is None or made == step:
        return step, None
    return made, None if stated is None else step


def _optimizer_steps(optimizer: Any) -> int | None:
    """The steps that an optimizer's state counts; None if it counts none or is no such state."""
    state = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    if not isinstance(state, Mapping):
        return None
    if not state:
        return 0
    first = next(iter(state.values()))
    if not isinstance(first, Mapping) or first.get("step") is None:
        return None
    try:
        step: int = _number(first, "step", int)
    except FormatError:  # for `optimizer_from_torch` to refuse
        return None
    return None if step < 0 else step


def _number(content: Mapping[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if value is None:
        return kind(0)
    if isinstance(value, Tensor) and value.size == 1:
        value = value.read().item()
    if type(value) is float and kind is int and value.is_integer():
        value = int(value)
    if (type(value) is int and abs(value) < 2**63) or type(value) is kind is float:
        return kind(value)
    raise FormatError(f"{key} is {value!r:.80}, not {'a whole' if kind is int else 'a'} number")
