"""The last stages: token ids, passages that training and the held-out splits share, token files.

The held-out splits, validation and test, hold no run of `WINDOW` tokens that training has too: a
text that was learnt by heart would pass for one that was understood. Such runs are cut out of the
held-out document; what is left on either side of them stays, each piece of at least `WINDOW`
tokens a document of its own.
"""

import heapq
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from train.preparation import reading, shards
from train.preparation.account import Account
from train.preparation.progress import Meter
from train.preparation.splits import Borders, shuffle_key
from train.preparation.windows import Hashes, window_hashes
from train.token_files import SPLITS, SplitCounts, SplitWriter, token_dtype
from train.tokenizer import Tokenizer

WINDOW = 49
"""Tokens of a shared run. With the end of a document on one side of it, it makes 50."""

_CHUNK_TOKENS = 4_000_000
_DOMAINS = ("text", "code")
_RECORD = np.dtype(
    [
        ("split", np.uint8),
        ("key", np.uint64),
        ("domain", np.uint8),
        ("source", np.uint32),
        ("begin", np.int64),
        ("end", np.int64),
    ]
)


class Encode:
    """A task a shard: the token ids of its documents, sorted by split and place in it."""

    def __init__(self, folder: Path, borders: Borders, seed: int, tokenizer: Path) -> None:
        self._folder = folder
        self._borders = borders
        self._seed = seed
        self._tokenizer = tokenizer

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Writes tokens, records, the names of held-out documents and their runs' hashes."""
        tokenizer = Tokenizer.load(self._tokenizer)
        dtype = token_dtype(tokenizer.vocab_size)
        records, arrays, names = [], [], []
        divided = reading.divided(self._folder, rank, self._borders, self._seed)
        with Meter(self._folder, "encode", rank) as meter:
            while batch := list(itertools.islice(divided, 64)):  # enough for all cores
                encoded = tokenizer.encode_batch([document.text for _, document in batch])
                for (split, document), ids in zip(batch, encoded, strict=True):
                    key = shuffle_key(self._seed, f"{document.domain}/{document.name}")
                    domain = _DOMAINS.index(document.domain)
                    records.append((SPLITS.index(split), key, domain, document.source, 0, len(ids)))
                    arrays.append(np.array(ids, dtype))
                    names.append(document.name)
                    meter.add(1, document.size)
        table = np.array(records, _RECORD)
        order = np.lexsort([table["key"], table["split"]])
        table = table[order]
        table["end"] = np.cumsum(table["end"])
        table["begin"][1:] = table["end"][:-1]
        tokens = np.concatenate([np.zeros(0, dtype), *(arrays[i] for i in order)])
        shards.save(_path(self._folder, rank, "tokens.npy"), tokens)
        shards.save(_path(self._folder, rank, "records.npy"), table)
        held_out = int(np.searchsorted(table["split"], 1))  # training comes first
        with shards.writing(_path(self._folder, rank, "names.json")) as file:
            file.write(json.dumps([names[i] for i in order[held_out:]]).encode())
        hashes = [np.zeros(0, np.uint64), *_runs(tokens, table[held_out:])]
        shards.save(_path(self._folder, rank, "runs.npy"), np.unique(np.concatenate(hashes)))


class FindShared:
    """A task a shard: which runs of the held-out documents its training documents have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Writes the hashes that are found."""
        tokens, table = _load(self._folder, rank)
        training = table[: int(np.searchsorted(table["split"], 1))]
        found = [np.zeros(0, np.uint64)]
        held_out = [
            np.load(_path(self._folder, other, "runs.npy"), mmap_mode="r")
            for other in range(world_size)
        ]
        with Meter(self._folder, "leaks", rank) as meter:
            for hashes in _runs(tokens, training):
                ours = np.unique(hashes)
                found += [_common(ours, theirs) for theirs in held_out]
                meter.add(0, len(hashes) * tokens.itemsize)
        shards.save(_path(self._folder, rank, "shared.npy"), np.unique(np.concatenate(found)))


class Assembled(NamedTuple):
    """What the token files hold.

    Attributes:
        counts: their sizes by domain and split.
        cut: held-out documents that lost a part to training.
    """

    counts: dict[str, dict[str, SplitCounts]]
    cut: int


def assemble(folder: Path, data_dir: Path, tokenizer: Tokenizer, account: Account) -> Assembled:
    """Writes the token files of all splits, in an order that the seed gives.

    Args:
        folder: the preparation's.
        data_dir: receives the files.
        tokenizer: gave the tokens.
        account: held-out documents of which nothing is left are moved to "in training".
    """
    count = len(shards.names(folder))
    shared = [np.load(_path(folder, rank, "shared.npy")) for rank in range(count)]
    leaked = np.unique(np.concatenate([np.zeros(0, np.uint64), *shared]))
    sizes = tokenizer.token_bytes
    end = np.array([tokenizer.end_of_text], token_dtype(tokenizer.vocab_size))
    counts: dict[str, dict[str, SplitCounts]] = {}
    cut = 0
    for index, split in enumerate(SPLITS):
        with SplitWriter(data_dir, split, end.dtype) as writer:
            for _, _, domain, source, name, ids in heapq.merge(
                *(_documents(folder, rank, index) for rank in range(count)),
                key=lambda document: document[:2],
            ):
                pieces: Sequence[npt.NDArray[Any]] = [ids]
                if split != "train" and len(leaked):
                    pieces = _pieces(ids, leaked)
                    cut += len(pieces) != 1 or len(pieces[0]) != len(ids)
                    if not pieces:
                        account.parts[source].withdraw(domain, "in training", name)
                for piece in pieces:
                    size = int(sizes[piece].sum())
                    writer.add(domain, size, np.concatenate([piece, end]))
        for domain, numbers in writer.counts.items():
            counts.setdefault(domain, {})[split] = numbers
    return Assembled(counts, cut)


def _documents(
    folder: Path, rank: int, split: int
) -> Iterator[tuple[int, int, str, int, str, npt.NDArray[Any]]]:
    """A shard's documents of a split: key, shard, domain, source, name if held out, ids."""
    tokens, table = _load(folder, rank)
    begin, end = np.searchsorted(table["split"], [split, split + 1])
    names: Iterator[str] = itertools.repeat("")
    if split:
        held_out = int(np.searchsorted(table["split"], 1))
        content = json.loads(_path(folder, rank, "names.json").read_text())
        names = iter(content[begin - held_out :])
    for record, name in zip(table[begin:end], names, strict=False):
        ids = tokens[record["begin"] : record["end"]]
        domain = _DOMAINS[record["domain"]]
        yield int(record["key"]), rank, domain, int(record["source"]), name, np.asarray(ids)


def _runs(tokens: npt.NDArray[Any], records: npt.NDArray[Any]) -> Iterator[Hashes]:
    """The hashes of all runs of WINDOW tokens within documents, some documents at a time."""
    begin = 0
    while begin < len(records):
        limit = records["begin"][begin] + _CHUNK_TOKENS
        end = max(int(np.searchsorted(records["end"], limit)), begin + 1)
        first, last = records["begin"][begin], records["end"][end - 1]
        hashes = window_hashes(np.asarray(tokens[first:last]), WINDOW)
        # A window that begins fewer than WINDOW tokens before a document's end is in two of them.
        inside = np.ones(last - first + 1, bool)
        for stop in records["end"][begin : end - 1] - first:
            inside[max(stop - WINDOW + 1, 0) : stop] = False
        yield hashes[inside[: len(hashes)]]
        begin = end


def _common(ours: Hashes, theirs: Hashes) -> Hashes:
    """The values of two sorted arrays that both have."""
    if not len(ours):
        return ours
    places = np.minimum(np.searchsorted(ours, theirs), len(ours) - 1)
    return np.asarray(theirs[ours[places] == theirs])


def _pieces(ids: npt.NDArray[Any], leaked: Hashes) -> list[npt.NDArray[Any]]:
    """What is left of a document without the runs whose hashes are in `leaked`, sorted."""
    hashes = window_hashes(ids, WINDOW)
    places = np.minimum(np.searchsorted(leaked, hashes), len(leaked) - 1)
    starts = np.flatnonzero(leaked[places] == hashes)
    if not len(starts):
        return [ids]
    # +1 where a run begins, -1 behind its end: a token is in one where the sum is above zero.
    steps = np.zeros(len(ids) + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + WINDOW, -1)
    clean = np.concatenate([[False], np.cumsum(steps[:-1]) == 0, [False]])
    borders = np.flatnonzero(clean[1:] != clean[:-1]).reshape(-1, 2)
    return [ids[begin:end] for begin, end in borders if end - begin >= WINDOW]


def _load(folder: Path, rank: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    tokens = np.load(_path(folder, rank, "tokens.npy"), mmap_mode="r")
    return tokens, np.load(_path(folder, rank, "records.npy"))


def _path(folder: Path, rank: int, name: str) -> Path:
    return folder / "encoded" / f"{rank:05d}.{name}"
