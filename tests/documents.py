"""Files to prepare, and what is read of them."""

from pathlib import Path

from train.preparation import listing
from train.preparation.account import SourceAccount
from train.preparation.formats import Reader


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
