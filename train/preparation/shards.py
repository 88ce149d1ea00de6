"""The folder of an unfinished preparation: documents between steps, in shards of similar size.

    tasks/00000.jsonl            what each task reads (listing.py)
    read/00000-00000.zst         documents: task, number within it
    read/00000-00000.npy         [n, 2] uint64, the first half of each document's SHA-256
    read/00000.json              the account of a task, and the bytes of its documents
    duplicates/00000.npy         exact duplicates of one range of hashes: (shard, index)
    near/000000.remove           near-duplicates of a shard, by datatrove
    survey/00000.json, .npy      what was removed of a shard, and the groups that are left
    encoded/00000.*              a shard's token ids, and the hashes for finding leaks
    progress/STEP/00000          the progress of a task (meter.py)
    logs/STEP/...                what datatrove writes about each task

A shard fits in memory, even if it comes from a larger file. Results are written under another name
and then renamed, so leftovers of a killed task are never mistaken for results.
"""

import hashlib
import json
import resource
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import zstandard

from bridge import replacing_file
from train.preparation.formats import Document

SHARD_BYTES = 64_000_000


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; its folder is created if needed. See `bridge.replacing_file`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as stream:
        yield stream


def allow_many_files() -> None:
    """Lets this process open a file or more of every shard at once."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes an array completely or not at all."""
    with writing(path) as stream:
        # Of a file itself, numpy would only say how much of it could not be written, and not why.
        np.save(types.SimpleNamespace(write=stream.write), array)


def write(folder: Path, rank: int, documents: Iterator[Document]) -> int:
    """Writes a task's documents as shards, with their hashes; a group stays in one shard.

    Returns:
        The bytes of their texts.
    """
    following = next(documents, None)
    number = total = 0
    while following is not None:
        path = folder / "read" / f"{rank:05d}-{number:05d}.zst"
        size, group, hashes = 0, following.group, []
        compressor = zstandard.ZstdCompressor(level=1)
        with writing(path) as file, compressor.stream_writer(file, closefd=False) as stream:
            while following and (size < SHARD_BYTES or following.group == group):
                text, group = following.text.encode(), following.group
                hashes.append(hashlib.sha256(text).digest()[:16])
                line = json.dumps(following, ensure_ascii=False) + "\n"
                stream.write(line.encode(errors="surrogatepass"))  # names of files may have them
                size += len(text)
                following = next(documents, None)
        total += size
        array = np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 2)
        save_array(path.with_suffix(".npy"), array.astype(np.uint64))
        number += 1
    return total


def encoded_path(folder: Path, rank: int, name: str) -> Path:
    """The path of a file about a shard's token ids."""
    return folder / "encoded" / f"{rank:05d}.{name}"


def names(folder: Path) -> list[str]:
    """The shards in the order of their documents; a shard's index here is its rank."""
    return sorted(path.stem for path in (folder / "read").glob("*.zst"))


def read(folder: Path, rank: int) -> Iterator[Document]:
    """All documents of a shard."""
    path = folder / "read" / f"{names(folder)[rank]}.zst"
    with zstandard.open(path, "rt", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for line in file:
            yield Document(*json.loads(line))


def without_exact_duplicates(folder: Path, rank: int) -> Iterator[Document]:
    """The documents of a shard without exact duplicates."""
    removed = exact_duplicates(folder, rank)
    for index, document in enumerate(read(folder, rank)):
        if index not in removed:
            yield document


def without_duplicates(folder: Path, rank: int) -> Iterator[Document]:
    """The documents of a shard without exact duplicates and near-duplicates."""
    removed = near_duplicates(folder, rank)
    for index, document in enumerate(without_exact_duplicates(folder, rank)):
        if index not in removed:
            yield document


def exact_duplicates(folder: Path, rank: int) -> set[int]:
    """The indices of a shard's exact duplicates."""
    found: set[int] = set()
    for path in sorted((folder / "duplicates").glob("*.npy")):
        pairs = np.load(path, mmap_mode="r")
        begin, end = np.searchsorted(pairs[:, 0], [rank, rank + 1])
        found.update(pairs[begin:end, 1].tolist())
    return found


def near_duplicates(folder: Path, rank: int) -> set[int]:
    """The indices of a shard's near-duplicates, where exact duplicates are not counted."""
    path = folder / "near" / f"{rank:06d}.remove"
    return set(np.fromfile(path, "<u4").tolist()) if path.exists() else set()
