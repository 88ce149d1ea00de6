"""Replaces small files in one step, so that a reader never finds half of one."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bridge import replacing_file
from train.system.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """As `bridge.replacing_file`, but what a link leads to is somebody else's.

    Raises:
        UserError: the path is a link.
        OSError: it cannot be written.
    """
    refuse_link(path)
    with replacing_file(path) as file:
        yield file


def refuse_link(path: Path) -> None:
    """Raises UserError if a path of a run is a link."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a link, and nothing is written or deleted through one: move it away"
        )


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content, in UTF-8; raises what `replacing` raises."""
    with replacing(path) as file:
        # The name of a file may have bytes that are no text.
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Replaces a file's content by a JSON document; raises what `replacing` raises."""
    write_text(path, json.dumps(value, indent=1) + "\n")
