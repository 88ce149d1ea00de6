"""How far the tasks of a stage are, wherever they run: each keeps a small file of its counts."""

import time
from pathlib import Path
from types import TracebackType

from train.preparation import shards

_INTERVAL = 0.5  # seconds between updates


class Meter:
    """Counts a task's documents and bytes."""

    def __init__(self, folder: Path, stage: str, rank: int) -> None:
        """A task of a stage; `folder` is that of the preparation."""
        self._path = folder / "progress" / stage / f"{rank:05d}"
        self._documents = self._bytes = 0
        self._next = 0.0

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._write()

    def add(self, documents: int, size: int) -> None:
        """That many more documents and bytes are done."""
        self._documents += documents
        self._bytes += size
        if time.monotonic() >= self._next:
            self._write()
            self._next = time.monotonic() + _INTERVAL

    def _write(self) -> None:
        with shards.writing(self._path) as stream:
            stream.write(f"{self._documents} {self._bytes}".encode())


def counts(folder: Path, stage: str) -> tuple[int, int]:
    """The documents and bytes of all tasks of a stage until now."""
    documents = size = 0
    for path in (folder / "progress" / stage).glob("[0-9]*"):
        done = path.read_text().split()
        documents, size = documents + int(done[0]), size + int(done[1])
    return documents, size
