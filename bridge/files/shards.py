"""A checkpoint in several files, with an index in JSON that says which tensor lies in which.

Hugging Face's libraries write them: model.safetensors.index.json beside
model-00001-of-00003.safetensors and so on, or pytorch_model.bin.index.json.
"""

import contextlib
import re
from pathlib import Path

from bridge.errors import BridgeError, FormatError, UnreadableFileError, listed
from bridge.files import disk
from bridge.files.disk import PathLike
from bridge.files.plain_data import parsed, safe_name, unique

_INDEX = ".index.json"
_SAFETENSORS_INDEX = ".safetensors.index.json"

_LARGEST_INDEX = 2**25
"""Bytes; a name and a file take a hundred."""

_MOST_FILES = 500
"""Of one checkpoint; all are open at once."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.")


def is_index(path: PathLike) -> bool:
    """Whether a file's name says that it is an index."""
    return str(path).lower().endswith(_INDEX)


def index_in(folder: PathLike) -> Path | None:
    """The index in a folder, of .safetensors files if there are several; None if there is none.

    Raises:
        FormatError: several are of .safetensors files, or several are not.
    """
    found = sorted(path for path in Path(folder).iterdir() if is_index(path))
    found = [path for path in found if str(path).lower().endswith(_SAFETENSORS_INDEX)] or found
    if len(found) > 1:
        names = listed([path.name for path in found])
        raise FormatError(f"has several checkpoints in it: name the index of one of them ({names})")
    return found[0] if found else None


def read_index(path: PathLike) -> dict[str, str]:
    """The file of each tensor, by the tensor's name.

    Raises:
        UnreadableFileError: it is missing, damaged or no index.
        FormatError: it has too much, or files that are not beside it.
    """
    with disk.opened(path) as file:
        if disk.size(file) > _LARGEST_INDEX:
            raise FormatError(f"is larger than {_LARGEST_INDEX} bytes, and no index is")
        data = bytes(disk.read(file, 0, disk.size(file)))
    try:
        content = parsed(data.decode(), unique)
    except ValueError:
        raise UnreadableFileError(
            "not an index of a checkpoint's files, or a damaged one"
        ) from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise UnreadableFileError("not an index of a checkpoint's files: it has no weight_map")
    for name in places.values():
        usable = isinstance(name, str) and name.isprintable() and Path(name).name == name
        if not usable or is_index(name):
            raise FormatError(f"names a file that is not beside it: {name!r:.80}")
    return places


def files_of(places: dict[str, str]) -> list[str]:
    """The files that an index names.

    Raises:
        FormatError: they are too many.
    """
    files = sorted(set(places.values()))
    if len(files) > _MOST_FILES:
        raise FormatError(f"names {len(files)} files, and no checkpoint has so many")
    return files


def refuse_part(path: PathLike) -> str | None:
    """Makes sure that a file is no part of a checkpoint whose index lies beside it.

    Returns:
        What is odd where its name says that it is a part and there is no index; else None.

    Raises:
        FormatError: it is such a part.
    """
    place = Path(path)
    indices: list[Path] = []
    with contextlib.suppress(OSError, ValueError):
        indices = sorted(other for other in place.parent.iterdir() if is_index(other))
    for index in indices:
        files: list[str] = []
        with contextlib.suppress(BridgeError):
            files = files_of(read_index(index))
        if place.name in files and len(files) > 1:
            raise FormatError(
                f"is one of the {len(files)} files of a checkpoint: give {index}, which names all"
            )
    part = _PART.search(place.name)
    if part is None or int(part[2]) < 2:
        return None
    return (
        f"its name says that it is part {int(part[1])} of {int(part[2])}, and no index beside it "
        f"({safe_name(place.name[: part.start()])}{place.suffix}{_INDEX}) names the others: they "
        "are not read"
    )
