"""The first steps: from files to the documents that stay, and the split of each."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train.preparation import listing, shards, splits
from train.preparation.account import Account, Source, SourceAccount
from train.preparation.formats import Document, Reader
from train.preparation.meter import Meter
from train.settings.prepare_config import PrepareConfig


class Read:
    """One task per list of files: writes their documents as shards, and an account."""

    def __init__(self, folder: Path, prepare: PrepareConfig, sources: list[Source]) -> None:
        self._folder = folder
        self._prepare = prepare
        self._sources = sources

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Reads the files of task `rank`."""
        parts = [SourceAccount() for _ in self._sources]
        reader = Reader(self._prepare, self._sources, parts)

        def documents(meter: Meter) -> Iterator[Document]:
            for file in listing.read_task(self._folder / "tasks", rank):
                # Each document counts for its own bytes of the file, the last one for the rest.
                counted = 0
                for document in reader.read(file):
                    size = min(document.size, file.size - counted)
                    meter.add(1, size)
                    counted += size
                    yield document
                meter.add(0, file.size - counted)

        with Meter(self._folder, "read", rank) as meter:
            size = shards.write(self._folder, rank, documents(meter))
        for part in parts:  # there may be millions of files: one hash for all of them
            listed = "\n".join(part.sha256).encode(errors="surrogatepass")
            part.sha256 = [hashlib.sha256(listed).hexdigest()] if part.sha256 else []
        _save_account(self._folder, "read", rank, size, parts, reader.roles)


class Survey:
    """One task per shard: counts what was removed, and how many groups of each kind are left."""

    def __init__(self, folder: Path, sources: list[Source], seed: int) -> None:
        self._folder = folder
        self._sources = sources
        self._seed = seed

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Writes the histogram of the groups, the bytes left, and what was removed."""
        account = Account(self._sources)
        exact = shards.exact_duplicates(self._folder, rank)
        near = shards.near_duplicates(self._folder, rank)

        def remaining(meter: Meter) -> Iterator[Document]:
            among_distinct = itertools.count()
            for index, document in enumerate(shards.read(self._folder, rank)):
                meter.add(1, document.size)
                part = account.parts[document.source]
                if index in exact:
                    part.withdraw(document.domain, "duplicate", document.name)
                elif next(among_distinct) in near:
                    part.withdraw(document.domain, "near-duplicate", document.name)
                else:
                    yield document

        histogram, size = splits.no_groups(), 0
        with Meter(self._folder, "survey", rank) as meter:
            for group, members in itertools.groupby(remaining(meter), lambda d: d.group):
                documents = list(members)
                kind = splits.kind_of(document.domain for document in documents)
                splits.count_group(histogram, kind, splits.shuffle_key(self._seed, group))
                size += sum(document.size for document in documents)
        places = np.argwhere(histogram)
        values = histogram[tuple(places.T)][:, None]
        path = _histogram_path(self._folder, rank)
        shards.save_array(path, np.concatenate([places, values], 1))
        _save_account(self._folder, "survey", rank, size, account.parts)


def add_accounts(folder: Path, step: str, tasks: int, account: Account) -> int:
    """Adds what the tasks of a step counted to an account.

    Args:
        folder: the preparation's.
        step: "read" or "survey".
        tasks: their number.
        account: the account to add to.

    Returns:
        The bytes of the documents that stayed.
    """
    size = 0
    for rank in range(tasks):
        content = _saved_account(folder, step, rank)
        account.add(content["account"])
        size += content["bytes"]
    return size


def _save_account(
    folder: Path,
    step: str,
    rank: int,
    size: int,
    parts: list[SourceAccount],
    roles: Iterable[str] = (),
) -> None:
    account = [vars(part) for part in parts]
    content = {"bytes": size, "account": account, "roles": sorted(roles)}
    with shards.writing(_account_path(folder, step, rank)) as file:
        file.write(json.dumps(content).encode())


def roles_read(folder: Path, tasks: int) -> set[str]:
    """The roles that the messages of chats have: all that are answers, and some others."""
    return {role for rank in range(tasks) for role in _saved_account(folder, "read", rank)["roles"]}


def _saved_account(folder: Path, step: str, rank: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        _account_path(folder, step, rank).read_text(encoding="utf-8")
    )
    return content


def _account_path(folder: Path, step: str, rank: int) -> Path:
    return folder / step / f"{rank:05d}.json"


def _histogram_path(folder: Path, rank: int) -> Path:
    return folder / "survey" / f"{rank:05d}.npy"


def add_surveys(folder: Path, account: Account) -> tuple[splits.Histogram, int]:
    """Adds up the surveys of all shards: the groups, and the bytes that are left.

    Args:
        folder: the preparation's.
        account: what was removed is added to it.
    """
    histogram, count = splits.no_groups(), len(shards.names(folder))
    for rank in range(count):
        kinds, places, counts = np.load(_histogram_path(folder, rank)).T
        np.add.at(histogram, (kinds, places), counts)
    return histogram, add_accounts(folder, "survey", count, account)


def documents_with_splits(
    folder: Path, rank: int, borders: splits.Borders, seed: int
) -> Iterator[tuple[str, Document]]:
    """The documents of a shard without duplicates, each with its split."""
    documents = shards.without_duplicates(folder, rank)
    for group, grouped in itertools.groupby(documents, lambda document: document.group):
        members = list(grouped)
        kind = splits.kind_of(document.domain for document in members)
        split = borders.split(kind, splits.shuffle_key(seed, group))
        for document in members:
            yield split, document
