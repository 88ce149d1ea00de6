"""Folders with a manifest.json that lists the size and SHA-256 of every file.

Orbax and numpy read a file with a flipped bit without an error. The manifest finds it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file in a folder and its subfolders, by path."""
    return {
        path.relative_to(folder).as_posix(): _describe(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def changed_file(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first file that differs from a manifest; None if there is none.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: a file would be outside the folder.
    """
    for name, description in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name} is outside the folder")
        if not path.is_file():  # a device has no end
            raise FileNotFoundError(2, "No such file or directory", str(path))
        # The size first, because it costs nothing.
        if path.stat().st_size != description["bytes"] or _describe(path) != description:
            return name
    return None


def is_intact(folder: Path) -> bool:
    """Whether there is a manifest in a folder, and the files that it lists are as it says."""
    try:
        described = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return changed_file(folder, described) is None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def unlisted_file(folder: Path, files: Mapping[str, Any]) -> str | None:
    """The first file in a folder that its manifest does not list; None if it lists all."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return min((name for name in names if name not in files and name != MANIFEST), default=None)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
