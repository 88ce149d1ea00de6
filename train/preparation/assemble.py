"""Assembles the token files of all splits from the encoded shards."""

import heapq
import shutil
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.token_files import DOMAINS, SPLITS, SplitCounts, SplitWriter, token_dtype
from train.data.tokenizer import Tokenizer
from train.preparation import leaks, shards
from train.preparation.account import Account
from train.preparation.encode import encoded_documents
from train.preparation.window_hashes import Hashes


class Assembled(NamedTuple):
    """What the token files contain.

    Attributes:
        counts: their sizes by domain and split.
        cut: the number of held-out documents that lost passages because training has them too.
    """

    counts: dict[str, dict[str, SplitCounts]]
    cut: int


def assemble(
    folder: Path,
    data_dir: Path,
    tokenizer: Tokenizer,
    account: Account,
    *,
    masked: bool = False,
) -> Assembled:
    """Writes the token files of all splits, in an order that the seed gives.

    Args:
        folder: the preparation's.
        data_dir: receives the files.
        tokenizer: gave the tokens.
        account: held-out documents of which nothing is left are moved to "in training".
        masked: whether to write which tokens are learned: they may not all be.
    """
    shards.allow_many_files()
    shared = leaks.shared_hashes(folder)
    counts: dict[str, dict[str, SplitCounts]] = {domain: {} for domain in DOMAINS}
    cut = 0
    for split in SPLITS:
        beginnings: Counter[int] = Counter()
        while True:
            written = _write_split(folder, data_dir, tokenizer, split, shared, beginnings, masked)
            leaking: set[int] = set()
            if split != "train":
                trained = [domain for domain in DOMAINS if counts[domain]["train"].documents]
                leaking = leaks.pieces_that_leak(data_dir, split, written.pieces, trained)
            if not leaking:
                break
            beginnings.update(dict.fromkeys(leaking, leaks.WINDOW))
            for domain in DOMAINS:
                shutil.rmtree(data_dir / domain / split)
        for domain, numbers in written.counts.items():
            counts[domain][split] = numbers
        for source, domain, name in written.removed:
            account.parts[source].withdraw(domain, "in training", name)
        cut += written.cut
    return Assembled(counts, cut)


class _WrittenSplit(NamedTuple):
    """One split as it was written.

    Attributes:
        counts: the sizes by domain.
        pieces: by domain, the number of the piece that each written document is; the pieces of all
            the split's documents are numbered in order.
        removed: source, domain and name of the documents with nothing left.
        cut: the number of documents that lost passages.
    """

    counts: dict[str, SplitCounts]
    pieces: Mapping[str, Sequence[int]]
    removed: list[tuple[int, str, str]]
    cut: int


def _write_split(
    folder: Path,
    data_dir: Path,
    tokenizer: Tokenizer,
    split: str,
    shared: Hashes,
    beginnings: Mapping[int, int],
    masked: bool,
) -> _WrittenSplit:
    """Writes a split's token files.

    Args:
        folder: the preparation's.
        data_dir: receives the files.
        tokenizer: the one that the tokens come from.
        split: its name.
        shared: the hashes, sorted, of the runs that are cut out of held-out documents.
        beginnings: by the number of a piece, the tokens to cut from its beginning.
        masked: whether to write which tokens are learned.
    """
    end_of_text = np.array([tokenizer.end_of_text], token_dtype(tokenizer.vocab_size))
    token_bytes = tokenizer.token_bytes
    written: dict[str, array[int]] = {domain: array("q") for domain in DOMAINS}
    removed, number, cut = [], 0, 0
    documents = heapq.merge(
        *(encoded_documents(folder, rank, split) for rank in range(len(shards.names(folder)))),
        key=lambda document: (document.key, document.shard),
    )
    with SplitWriter(data_dir, split, end_of_text.dtype, masked=masked) as writer:
        for document in documents:
            pieces = [(0, len(document.ids))]
            if split != "train":
                pieces = leaks.clean_pieces(document.ids, shared)
            tokens = 0
            for begin, end in pieces:
                first = begin + beginnings.get(number, 0)
                rest, learned = document.ids[first:end], document.learned[first:end]
                if len(rest) == end - begin or len(rest) >= leaks.WINDOW:
                    size = int(token_bytes[rest].sum())
                    # The end is learned with what it ends.
                    learned = np.append(learned, learned[-1:] if len(learned) else [True])
                    writer.add(document.domain, size, np.append(rest, end_of_text), learned)
                    for domain in (document.domain, "mixed"):
                        written[domain].append(number)
                    tokens += len(rest)
                number += 1
            cut += tokens != len(document.ids)
            if not tokens:
                removed.append((document.source, document.domain, document.name))
    return _WrittenSplit(writer.counts, written, removed, cut)
