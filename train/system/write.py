"""Replaces small files in one step, so that a reader never finds half of one."""

import json
from pathlib import Path
from typing import Any

from bridge import replacing_file


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content, in UTF-8; raises OSError where it cannot be written."""
    with replacing_file(path) as file:
        # The name of a file may have bytes that are no text.
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Replaces a file's content by a JSON document; raises OSError where it cannot be written."""
    write_text(path, json.dumps(value, indent=1) + "\n")
