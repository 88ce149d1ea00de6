"""The last stages: token ids, passages that training and the held-out splits share, token files.

The held-out splits, validation and test, hold no 50 tokens in a row that training has too: a text
that was learnt by heart would pass for one that was understood. Runs of `WINDOW` tokens within a
document that training has are cut out of it; what is left on either side of them stays, each piece
of at least `WINDOW` tokens a document of its own. Where the end of a document and the beginning of
the next are such 50 tokens, that beginning is cut too. What is left under `WINDOW` tokens goes with
what is cut, so that a short document may go whole.
"""

import heapq
import itertools
import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from train.data.token_files import (
    DOMAINS,
    SPLITS,
    SplitCounts,
    SplitWriter,
    TokenFile,
    read_tokens,
    token_dtype,
)
from train.data.tokenizer import Tokenizer
from train.preparation import reading, shards
from train.preparation.account import Account
from train.preparation.meter import Meter
from train.preparation.splits import Borders, shuffle_key
from train.preparation.window_hashes import Hashes, window_hashes

WINDOW = 49
"""Tokens of a shared run. With the end of a document on one side of it, it makes 50."""

_CHUNK_TOKENS = 1_000_000
_CHUNK_BORDERS = 50_000
_DOMAINS = DOMAINS[:2]
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
        del arrays  # the hashes need as much
        shards.save(_path(self._folder, rank, "tokens.npy"), tokens)
        shards.save(_path(self._folder, rank, "records.npy"), table)
        held_out = int(np.searchsorted(table["split"], 1))  # training comes first
        with shards.writing(_path(self._folder, rank, "names.json")) as file:
            file.write(json.dumps([names[i] for i in order[held_out:]]).encode())
        for name, rows in (("training", table[:held_out]), ("held-out", table[held_out:])):
            shards.save(_path(self._folder, rank, f"{name}.npy"), _sorted_runs(tokens, rows))


class FindShared:
    """A task a range of hashes: which runs training and the held-out documents both have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Writes the hashes that are found, of the `rank`-th of `world_size` ranges."""
        shards.allow_many_files()
        training = self._in_range("training", rank, world_size)
        training.sort()
        held_out = np.unique(self._in_range("held-out", rank, world_size))
        common = held_out[_among(held_out, training)]
        shards.save(_path(self._folder, rank, "shared.npy"), common)

    def _in_range(self, name: str, rank: int, count: int) -> Hashes:
        first, last = (2**64 * rank) // count, (2**64 * (rank + 1)) // count - 1
        parts = []
        for shard in range(count):
            hashes = np.load(_path(self._folder, shard, f"{name}.npy"), mmap_mode="r")
            begin = np.searchsorted(hashes, np.uint64(first), "left")
            end = np.searchsorted(hashes, np.uint64(last), "right")
            parts.append(hashes[begin:end])
        return np.concatenate(parts)


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
    shards.allow_many_files()
    count = len(shards.names(folder))
    shared = [np.load(_path(folder, rank, "shared.npy")) for rank in range(count)]
    leaked = np.unique(np.concatenate([np.zeros(0, np.uint64), *shared]))
    counts: dict[str, dict[str, SplitCounts]] = {domain: {} for domain in DOMAINS}
    cut = 0
    for split in SPLITS:
        beginnings: Counter[int] = Counter()
        while True:
            written = _write_split(folder, data_dir, tokenizer, split, leaked, beginnings)
            meeting: set[int] = set()
            if split != "train":
                trained = [domain for domain in DOMAINS if counts[domain]["train"].documents]
                meeting = _meeting(data_dir, split, written.pieces, trained)
            if not meeting:
                break
            beginnings.update(dict.fromkeys(meeting, WINDOW))
            for domain in DOMAINS:
                shutil.rmtree(data_dir / domain / split)
        for domain, numbers in written.counts.items():
            counts[domain][split] = numbers
        for source, domain, name in written.gone:
            account.parts[source].withdraw(domain, "in training", name)
        cut += written.cut
    return Assembled(counts, cut)


class _Written(NamedTuple):
    """One split as it was written.

    Attributes:
        counts: the sizes by domain.
        pieces: by domain, for each document that was written, which piece it is: all pieces of the
            split's documents are numbered in their order.
        gone: source, domain and name of the documents of which nothing was left.
        cut: documents that lost a part.
    """

    counts: dict[str, SplitCounts]
    pieces: Mapping[str, Sequence[int]]
    gone: list[tuple[int, str, str]]
    cut: int


def _write_split(
    folder: Path,
    data_dir: Path,
    tokenizer: Tokenizer,
    split: str,
    leaked: Hashes,
    beginnings: Mapping[int, int],
) -> _Written:
    """Writes a split's token files.

    Args:
        folder: the preparation's.
        data_dir: receives the files.
        tokenizer: gave the tokens.
        split: its name.
        leaked: the hashes, sorted, of the runs that are cut out of held-out documents.
        beginnings: by the number of a piece, the tokens to cut from its beginning.
    """
    end = np.array([tokenizer.end_of_text], token_dtype(tokenizer.vocab_size))
    token_bytes = tokenizer.token_bytes
    ordinals: dict[str, array[int]] = {domain: array("q") for domain in DOMAINS}
    gone, number, cut = [], 0, 0
    documents = heapq.merge(
        *(_documents(folder, rank, split) for rank in range(len(shards.names(folder)))),
        key=lambda document: document[:2],
    )
    with SplitWriter(data_dir, split, end.dtype) as writer:
        for _, _, domain, source, name, ids in documents:
            pieces = [ids]
            if split != "train":
                pieces = _pieces(ids, leaked)
            left = 0
            for piece in pieces:
                kept = piece[beginnings.get(number, 0) :]
                if len(kept) == len(piece) or len(kept) >= WINDOW:
                    size = int(token_bytes[kept].sum())
                    writer.add(domain, size, np.concatenate([kept, end]))
                    for own in (domain, "mixed"):
                        ordinals[own].append(number)
                    left += len(kept)
                number += 1
            cut += left != len(ids)
            if not left:
                gone.append((source, domain, name))
    return _Written(writer.counts, ordinals, gone, cut)


def _meeting(
    data_dir: Path, split: str, pieces: Mapping[str, Sequence[int]], trained: Sequence[str]
) -> set[int]:
    """The pieces of a held-out split that begin within 50 tokens which training has in a row.

    Args:
        data_dir: has the token files of the split and of training.
        split: its name.
        pieces: see `_Written`.
        trained: the domains that have training documents.
    """
    found: set[int] = set()
    for domain in DOMAINS:
        if not pieces[domain]:
            continue
        for first, hashes in _border_hashes(read_tokens(data_dir, domain, split)):
            wanted = np.unique(hashes)
            known = [np.zeros(0, np.uint64)]
            for other in trained:
                for _, theirs in _border_hashes(read_tokens(data_dir, other, "train")):
                    known.append(theirs[_among(theirs, wanted)])
            shared = np.unique(np.concatenate(known))
            places = np.flatnonzero(_among(hashes, shared).any(axis=1))
            found.update(pieces[domain][first + int(place) + 1] for place in places)
    return found


def _border_hashes(file: TokenFile) -> Iterator[tuple[int, Hashes]]:
    """The hashes of all WINDOW + 1 tokens in a row that hold an end of text and what follows it.

    Yields:
        The index of a document, and for it and those after it [documents, WINDOW + 1], some at a
        time; the last document, which none follows, is left out.
    """
    ends = file.ends[:-1]
    for first in range(0, len(ends), _CHUNK_BORDERS):
        around = ends[first : first + _CHUNK_BORDERS, None] - 1 + np.arange(-WINDOW, WINDOW + 1)
        # Near the file's ends a token is repeated; no row of another file looks like that.
        tokens = file.tokens[np.clip(around, 0, len(file.tokens) - 1)]
        yield first, window_hashes(tokens, WINDOW + 1)


def _documents(
    folder: Path, rank: int, split: str
) -> Iterator[tuple[int, int, str, int, str, npt.NDArray[Any]]]:
    """A shard's documents of a split: key, shard, domain, source, name if held out, ids."""
    tokens, table = _load(folder, rank)
    index = SPLITS.index(split)
    begin, end = np.searchsorted(table["split"], [index, index + 1])
    names: Iterator[str] = itertools.repeat("")
    if split != "train":
        held_out = int(np.searchsorted(table["split"], 1))
        content = json.loads(_path(folder, rank, "names.json").read_text())
        names = iter(content[begin - held_out :])
    for record, name in zip(table[begin:end], names, strict=False):
        ids = tokens[record["begin"] : record["end"]]
        domain = _DOMAINS[record["domain"]]
        yield int(record["key"]), rank, domain, int(record["source"]), name, np.asarray(ids)


def _sorted_runs(tokens: npt.NDArray[Any], records: npt.NDArray[Any]) -> Hashes:
    """The hashes of all runs of WINDOW tokens within documents."""
    lengths = records["end"] - records["begin"]
    found = np.empty(int(np.maximum(lengths - WINDOW + 1, 0).sum()), np.uint64)
    filled = 0
    for hashes in _runs(tokens, records):
        found[filled : filled + len(hashes)] = hashes
        filled += len(hashes)
    found.sort()
    return found


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


def _among(values: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """For each of the values, of any shape, whether it is among the known ones, sorted."""
    if not len(known):
        return np.zeros(values.shape, bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)


def _pieces(ids: npt.NDArray[Any], leaked: Hashes) -> list[npt.NDArray[Any]]:
    """What is left of a document without the runs whose hashes are in `leaked`, sorted."""
    starts = np.flatnonzero(_among(window_hashes(ids, WINDOW), leaked))
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
