"""The progress of a step's tasks, wherever they run: each writes its counts to a small file."""

import os
import time
from pathlib import Path

_INTERVAL = 0.5  # seconds between updates


class Meter:
    """Counts a task's documents and bytes."""

    def __init__(self, folder: Path, step: str, rank: int) -> None:
        """For one task of a step; `folder` is the preparation's folder."""
        path = folder / "progress" / step / f"{rank:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "wb")  # noqa: SIM115 - closed in __exit__
        self._documents = self._bytes = 0
        self._next = 0.0

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._file.close()

    def add(self, documents: int, size: int) -> None:
        """Counts documents that are done, and their bytes."""
        self._documents += documents
        self._bytes += size
        if time.monotonic() >= self._next:
            self._write()
            self._next = time.monotonic() + _INTERVAL

    def _write(self) -> None:
        # Always the same length, over the old text: a reader always finds two complete numbers.
        os.pwrite(self._file.fileno(), f"{self._documents:20} {self._bytes:20}".encode(), 0)


def counts(folder: Path, step: str) -> tuple[int, int]:
    """The documents and bytes that all tasks of a step have done so far."""
    documents = size = 0
    for path in (folder / "progress" / step).glob("[0-9]*"):
        if done := path.read_text(encoding="utf-8").split():
            documents, size = documents + int(done[0]), size + int(done[1])
    return documents, size
