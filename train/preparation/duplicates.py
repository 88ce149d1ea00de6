"""Documents that repeat others: the same bytes, or nearly the same words.

Of equal documents the first stays, in the order in which the sources are read. datatrove's MinHash
finds near-duplicates, with 14 bands of 8 hashes over runs of five words. Two documents that share
72 % of these runs are found with a probability of one half; with 85 % it is 99.6 %. One document of
each group of near-duplicates stays.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datatrove.data import Document as DatatroveDocument
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from train.preparation import shards
from train.preparation.meter import Meter
from train.preparation.window_hashes import window_hashes

BANDS = 14
_RANGE_DOCUMENTS = 8_000_000
_CONFIG = MinhashConfig(num_buckets=BANDS, hash_config=HashConfig(precision=64, hash_fc="sha1"))
_WORD = re.compile(r"\w+")


def hash_ranges(folder: Path) -> int:
    """The number of ranges of hashes, so that each fits in memory."""
    paths = [folder / "read" / f"{name}.npy" for name in shards.names(folder)]
    documents = sum(len(np.load(path, mmap_mode="r")) for path in paths)
    return documents // _RANGE_DOCUMENTS + 1


class FindExact:
    """One task per range of hashes: finds documents whose hash came before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Writes the (shard, index) of every document except the first with its hash."""
        parts = []
        for shard, name in enumerate(shards.names(self._folder)):
            hashes = np.load(self._folder / "read" / f"{name}.npy")
            hash_range = ((hashes[:, 0] >> np.uint64(32)) * np.uint64(world_size)) >> np.uint64(32)
            index = np.flatnonzero(hash_range == rank)
            places = np.stack([np.full_like(index, shard), index], 1).astype(np.uint64)
            parts.append(np.concatenate([hashes[index], places], 1))
        rows = np.concatenate(parts)
        rows = rows[np.lexsort(rows.T[::-1])]
        repeats = np.flatnonzero(np.all(rows[1:, :2] == rows[:-1, :2], 1)) + 1
        pairs = rows[repeats, 2:]
        pairs = pairs[np.lexsort(pairs.T[::-1])]
        shards.save_array(self._folder / "duplicates" / f"{rank:05d}.npy", pairs)


class ReadShard:
    """A shard's documents in datatrove's form."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: Any, rank: int, world_size: int) -> Iterator[DatatroveDocument]:
        """Yields them in the order in which the shard's near-duplicates are numbered."""
        with Meter(self._folder, "signatures", rank) as meter:
            for document in shards.without_exact_duplicates(self._folder, rank):
                yield DatatroveDocument(text=document.text, id=document.name)
                meter.add(1, document.size)


class Signatures(MinhashDedupSignature):
    """datatrove's signatures of runs of words; words are the same for text and code."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "signatures"), _CONFIG, language=_NoWords())

    def get_shingles(self, text: str) -> npt.NDArray[np.uint64]:
        """The hashes of a text's runs of words, [N, 1]."""
        words = _WORD.findall(text.lower())
        if not words:
            return np.zeros((0, 1), np.uint64)
        known: dict[str, int] = {}
        ids = [known.setdefault(word, len(known)) for word in words]
        hashes = np.array([_word_hash(word) for word in known], np.uint64)[ids]
        return np.unique(window_hashes(hashes, min(_CONFIG.n_grams, len(words)))).reshape(-1, 1)

    def get_signature(self, shingles: npt.NDArray[np.uint64]) -> list[list[int]]:
        """The smallest hashes of a document, computed in pieces, as each run takes a kilobyte."""
        pieces = np.split(shingles, range(4096, len(shingles), 4096))
        least = np.array([super(Signatures, self).get_signature(piece) for piece in pieces])
        return least.min(axis=0).tolist()


class Buckets(MinhashDedupBuckets):
    """datatrove's pairs of documents that agree in one band."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "signatures"), str(folder / "pairs"), config=_CONFIG)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes the pairs of band `rank`."""
        shards.allow_many_files()
        super().run(data, rank, world_size)


class Cluster(MinhashDedupCluster):
    """datatrove's groups of near-duplicates, and which documents to remove."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "pairs"), str(folder / "near"), config=_CONFIG)


class _NoWords(WordTokenizer):
    """Replaces a network that datatrove would load to split English into words."""

    word_tokenize = sent_tokenize = span_tokenize = None


def _word_hash(word: str) -> int:
    data = word.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
