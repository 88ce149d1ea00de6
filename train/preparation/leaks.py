"""Finds passages that training and the held-out splits share.

Validation and test, the held-out splits, must not have 50 tokens in a row that training has too: a
model that had memorised such a text would seem to understand it. Runs of `WINDOW` tokens in one
document that training has too are cut out of held-out documents. What is left before or after a cut
becomes a separate document if it has at least `WINDOW` tokens, and is dropped otherwise. So a short
document may be dropped completely. If the end of one document and the beginning of the next
together are such 50 tokens, that beginning is cut too.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.data.token_files import DOMAINS, TokenFile, read_tokens
from train.preparation import shards
from train.preparation.window_hashes import Hashes, window_hashes

WINDOW = 49
"""Tokens in a shared run; with the end-of-text token beside it, these are 50."""

_CHUNK_TOKENS = 1_000_000
_CHUNK_BORDERS = 50_000


class FindShared:
    """One task per range of hashes: finds runs in both training and held-out documents."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Writes the hashes that are found, of the `rank`-th of `world_size` ranges."""
        shards.allow_many_files()
        training = self._in_range("training", rank, world_size)
        training.sort()
        held_out = np.unique(self._in_range("held-out", rank, world_size))
        shared = held_out[_is_among(held_out, training)]
        shards.save_array(shards.encoded_path(self._folder, rank, "shared.npy"), shared)

    def _in_range(self, name: str, rank: int, count: int) -> Hashes:
        first, last = (2**64 * rank) // count, (2**64 * (rank + 1)) // count - 1
        parts = []
        for shard in range(count):
            path = shards.encoded_path(self._folder, shard, f"{name}.npy")
            hashes = np.load(path, mmap_mode="r")
            begin = np.searchsorted(hashes, np.uint64(first), "left")
            end = np.searchsorted(hashes, np.uint64(last), "right")
            parts.append(hashes[begin:end])
        return np.concatenate(parts)


def shared_hashes(folder: Path) -> Hashes:
    """The sorted hashes of all runs that training and the held-out documents share."""
    ranks = range(len(shards.names(folder)))
    found = [np.load(shards.encoded_path(folder, rank, "shared.npy")) for rank in ranks]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))


def sorted_run_hashes(
    tokens: npt.NDArray[Any], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> Hashes:
    """The sorted hashes of all runs of WINDOW tokens within documents.

    Args:
        tokens: the tokens of all documents [N].
        begins: where each document begins, ascending.
        ends: where it ends, exclusive: where the next one begins.
    """
    hashes = np.empty(int(np.maximum(ends - begins - WINDOW + 1, 0).sum()), np.uint64)
    count = 0
    for part in _run_hashes(tokens, begins, ends):
        hashes[count : count + len(part)] = part
        count += len(part)
    hashes.sort()
    return hashes


def _run_hashes(
    tokens: npt.NDArray[Any], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> Iterator[Hashes]:
    """The hashes of all runs of WINDOW tokens within documents, some documents at a time."""
    index = 0
    while index < len(begins):
        after = max(int(np.searchsorted(ends, begins[index] + _CHUNK_TOKENS)), index + 1)
        first, last = begins[index], ends[after - 1]
        hashes = window_hashes(np.asarray(tokens[first:last]), WINDOW)
        # A window that begins fewer than WINDOW tokens before a document's end is in two documents.
        inside = np.ones(last - first + 1, bool)
        for end in ends[index : after - 1] - first:
            inside[max(end - WINDOW + 1, 0) : end] = False
        yield hashes[inside[: len(hashes)]]
        index = after


def clean_pieces(ids: npt.NDArray[Any], shared: Hashes) -> list[tuple[int, int]]:
    """What is left of a document without the runs whose hashes are in `shared`, sorted.

    Returns:
        Where each piece of it begins and ends.
    """
    starts = np.flatnonzero(_is_among(window_hashes(ids, WINDOW), shared))
    if not len(starts):
        return [(0, len(ids))]
    # +1 where a run begins, -1 behind its end: a token is in one where the sum is above zero.
    changes = np.zeros(len(ids) + 1, np.int64)
    np.add.at(changes, starts, 1)
    np.add.at(changes, starts + WINDOW, -1)
    clean = np.concatenate([[False], np.cumsum(changes[:-1]) == 0, [False]])
    borders = np.flatnonzero(clean[1:] != clean[:-1]).reshape(-1, 2)
    return [(begin, end) for begin, end in borders.tolist() if end - begin >= WINDOW]


def pieces_that_leak(
    data_dir: Path, split: str, pieces: Mapping[str, Sequence[int]], trained: Iterable[str]
) -> set[int]:
    """The pieces of a held-out split that begin inside 50 tokens that training also has.

    Args:
        data_dir: the folder with the token files of the split and of training.
        split: its name.
        pieces: by domain, the number of the piece that each document in its token file is.
        trained: the domains that have training documents.
    """
    chunks = (
        (domain, first, hashes)
        for domain in DOMAINS
        if pieces[domain]
        for first, hashes in _border_hashes(read_tokens(data_dir, domain, split))
    )
    leaking: set[int] = set()
    while some := list(itertools.islice(chunks, len(DOMAINS))):  # training is read once for them
        wanted = np.unique(np.concatenate([hashes.ravel() for _, _, hashes in some]))
        found = [np.zeros(0, np.uint64)]
        for domain in trained:
            for _, hashes in _border_hashes(read_tokens(data_dir, domain, "train")):
                found.append(hashes[_is_among(hashes, wanted)])
        shared = np.unique(np.concatenate(found))
        for domain, first, hashes in some:
            places = np.flatnonzero(_is_among(hashes, shared).any(axis=1))
            leaking.update(pieces[domain][first + int(place) + 1] for place in places)
    return leaking


def _border_hashes(file: TokenFile) -> Iterator[tuple[int, Hashes]]:
    """The hashes of all WINDOW + 1 tokens in a row with an end of text and a token after it.

    Yields:
        The index of a document, and for it and those after it [documents, WINDOW + 1], some at a
        time; the last document, which none follows, is left out.
    """
    ends = file.ends[:-1]
    for first in range(0, len(ends), _CHUNK_BORDERS):
        around = ends[first : first + _CHUNK_BORDERS, None] - 1 + np.arange(-WINDOW, WINDOW + 1)
        # Near the file's ends a token is repeated, which no row of another file looks like.
        tokens = file.tokens[np.clip(around, 0, len(file.tokens) - 1)]
        yield first, window_hashes(tokens, WINDOW + 1)


def _is_among(values: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each value, in an array of any shape, is among the known ones (sorted)."""
    if not len(known):
        return np.zeros(values.shape, bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)
