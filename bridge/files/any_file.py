"""Any file of a checkpoint, by its content: a .pt or .safetensors file, or the index of several."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge.errors import (
    BridgeError,
    FileWarning,
    FormatError,
    MismatchError,
    UnreadableFileError,
    errors_about,
)
from bridge.files import disk, safetensors_file, shards, torch_file
from bridge.files.disk import PathLike
from bridge.files.plain_data import check_extent, safe_name
from bridge.files.refused import Needed, Refused, all_of_it
from bridge.files.tensors import Tensor

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_SAFETENSORS = ".safetensors"

_KINDS = {torch_file: ".pt", safetensors_file: _SAFETENSORS}


def is_named_so(path: PathLike) -> bool:
    """Whether a file has the name of a checkpoint."""
    return Path(path).suffix.lower() in (*_TORCH_SUFFIXES, _SAFETENSORS)


def format_of(path: PathLike) -> str:
    """The format of a file, ".pt" or ".safetensors", or of the files that an index names."""
    if not shards.is_index(path):
        return _KINDS[_container(path)]
    with errors_about(path):
        first = shards.files_of(shards.read_index(path))[0]
    return f"{_KINDS[_container(Path(path).with_name(first))]}, several files"


def files_of(path: PathLike) -> list[Path]:
    """The file itself, and those that it names if it is an index."""
    if not shards.is_index(path):
        return [Path(path)]
    with errors_about(path):
        names = shards.files_of(shards.read_index(path))
    return [Path(path), *(Path(path).with_name(name) for name in names)]


@contextlib.contextmanager
def reading(path: PathLike, needed: Needed = all_of_it) -> Iterator[Any]:
    """What a checkpoint's file holds, its tensors as Tensor, readable until the block ends.

    Args:
        path: the file, or the index of several.
        needed: what must be readable; the rest has a Refused in the place of what is not read.

    Raises:
        BridgeError: as for the `reading` of its format.

    Warns:
        FileWarning: its name is of another format, or of a part of a checkpoint.
    """
    if shards.is_index(path):
        with _reading_all(path, needed) as content:
            yield content
        return
    odd = shards.refuse_part(path)
    if odd is not None:
        warnings.warn(odd, FileWarning, stacklevel=2)
    container = _container(path)
    suffix = Path(path).suffix.lower()
    wrong = _TORCH_SUFFIXES if container is safetensors_file else (_SAFETENSORS,)
    if suffix in wrong:
        name = _KINDS[container]
        warnings.warn(
            f"read as a {name} file, which it is in spite of its name", FileWarning, stacklevel=2
        )
    with container.reading(path, needed) as content:
        yield content


def _container(path: PathLike) -> Any:
    """The module for a file's format: what its first bytes show, else what its name says."""
    start, size, is_text = b"", 0, False
    with contextlib.suppress(BridgeError), disk.opened(path) as file:
        size, is_text = disk.size(file), disk.is_text(file)
        start = bytes(disk.read(file, 0, min(9, size)))
    if start.startswith(b"PK\3\4"):
        return torch_file
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return safetensors_file
    if is_text:
        raise UnreadableFileError(
            "a text file, not a checkpoint: name a .pt or .safetensors file, the index of several "
            "(*.index.json), or a run's folder"
        )
    return safetensors_file if Path(path).suffix.lower() == _SAFETENSORS else torch_file


@contextlib.contextmanager
def _reading_all(path: PathLike, needed: Needed) -> Iterator[dict[str, Any]]:
    """The tensors of all files that an index names, each from the file that it says."""
    places = shards.read_index(path)
    content: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for name in shards.files_of(places):
            part = Path(path).with_name(name)
            with errors_about(part):
                tensors = stack.enter_context(_container(part).reading(part, needed))
                if not isinstance(tensors, Mapping) or not all(
                    isinstance(tensor, Tensor | Refused) for tensor in tensors.values()
                ):
                    raise FormatError("holds more than tensors, as a part of a checkpoint")
            content |= {
                key: tensor for key, tensor in tensors.items() if places.get(key, name) == name
            }
        missing = [
            f"{safe_name(key)} in {safe_name(name)}"
            for key, name in places.items()
            if key not in content
        ]
        if missing:
            raise MismatchError("the files do not hold what their index says", {"missing": missing})
        check_extent(content, sum(file.stat().st_size for file in files_of(path)))
        yield content
