"""Files and texts to prepare, and what is read of them."""

import ctypes
import os
import signal
import time
from pathlib import Path

from train.preparation import listing
from train.preparation.account import SourceAccount
from train.preparation.formats import Reader

PROSE = (
    "The committee met on Tuesday to talk about the new library. Nobody could say why the old one "
    "had been closed, but everyone agreed that a town without books was a poor place to live.\n"
)
PYTHON = (
    "import os\n\n\ndef walk(folder):\n    for root, _, names in os.walk(folder):\n"
    "        for name in names:\n            yield os.path.join(root, name)\n"
)
LINE = "x = compute(y)\n"


def stuck_in_a_library(folder: Path) -> None:
    """Is at work where no signal's handler is called, and says which process that is."""
    (folder / "worker").write_text(str(os.getpid()), encoding="utf-8")
    ctypes.PyDLL(None).sleep(60)


class Killed:
    """A step whose task 1 is killed the first time, when task 0 is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        dying = self.folder.with_name("dying")
        if rank == 1 and not dying.exists():
            while not (self.folder / "0").exists():
                time.sleep(0.01)
            time.sleep(0.5)  # until datatrove has marked it complete
            dying.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(rank)).touch()


def write(root: Path, files: dict[str, str | bytes]) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def read(prepare, exclude=()):
    """All documents of the sources, and the account of each source."""
    listed = listing.sources(prepare)
    parts = [SourceAccount() for _ in listed]
    reader = Reader(prepare, listed, parts)
    files = listing.files(listed, exclude, [part.skipped for part in parts])
    return [document for file in files for document in reader.read(file)], parts
