"""Encodes documents: writes each shard's token ids, and the hashes of all runs of tokens."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from train.data.token_files import DOMAINS, SPLITS, token_dtype
from train.data.tokenizer import Tokenizer
from train.preparation import leaks, reading, shards
from train.preparation.formats import Document
from train.preparation.meter import Meter
from train.preparation.splits import Borders, shuffle_key

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
    """One task per shard: the token ids of its documents, sorted by split, then by place in it."""

    def __init__(self, folder: Path, borders: Borders, seed: int, tokenizer: Path) -> None:
        self._folder = folder
        self._borders = borders
        self._seed = seed
        self._tokenizer = tokenizer

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Writes tokens, records, the names of held-out documents, and the hashes of runs."""
        tokenizer = Tokenizer.load(self._tokenizer)
        dtype = token_dtype(tokenizer.vocab_size)
        records, arrays, names, masks = [], [], [], []
        documents = reading.documents_with_splits(self._folder, rank, self._borders, self._seed)
        with Meter(self._folder, "encode", rank) as meter:
            while batch := list(itertools.islice(documents, 64)):  # enough for all cores
                encoded = _encoded(tokenizer, [document for _, document in batch])
                for (split, document), (ids, learned) in zip(batch, encoded, strict=True):
                    key = shuffle_key(self._seed, f"{document.domain}/{document.name}")
                    domain = _DOMAINS.index(document.domain)
                    records.append((SPLITS.index(split), key, domain, document.source, 0, len(ids)))
                    arrays.append(np.array(ids, dtype))
                    masks.append(learned)
                    names.append(document.name)
                    meter.add(1, document.size)
        table = np.array(records, _RECORD)
        order = np.lexsort([table["key"], table["split"]])
        table = table[order]
        table["end"] = np.cumsum(table["end"])
        table["begin"][1:] = table["end"][:-1]
        tokens = np.concatenate([np.zeros(0, dtype), *(arrays[i] for i in order)])
        del arrays  # the hashes need as much
        shards.save_array(shards.encoded_path(self._folder, rank, "tokens.npy"), tokens)
        shards.save_array(shards.encoded_path(self._folder, rank, "records.npy"), table)
        mask = np.concatenate([np.zeros(0, bool), *(masks[i] for i in order)])
        if not mask.all():
            shards.save_array(shards.encoded_path(self._folder, rank, "learned.npy"), mask)
        training = int(np.searchsorted(table["split"], 1))  # training comes first
        with shards.writing(shards.encoded_path(self._folder, rank, "names.json")) as file:
            file.write(json.dumps([names[i] for i in order[training:]]).encode())
        for name, rows in (("training", table[:training]), ("held-out", table[training:])):
            hashes = leaks.sorted_run_hashes(tokens, rows["begin"], rows["end"])
            shards.save_array(shards.encoded_path(self._folder, rank, f"{name}.npy"), hashes)


def _batches(
    documents: Iterator[tuple[str, Document]],
) -> Iterator[list[tuple[str, Document]]]:
    """Enough documents for all cores, and few enough for Ctrl-C to be heard soon."""
    batch, size = [], 0
    for item in documents:
        batch.append(item)
        size += item[1].size
        if len(batch) == 64 or size > 4_000_000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class EncodedDocument(NamedTuple):
    """A document as token ids.

    Attributes:
        key: decides its place in its split: documents are sorted by key, then by `shard`.
        shard: the shard that it is in.
        domain: "text" or "code".
        source: the index of its source.
        name: for messages; "" for training documents, which no message is about.
        ids: its tokens, without END_OF_TEXT.
        learned: which of them are learned.
    """

    key: int
    shard: int
    domain: str
    source: int
    name: str
    ids: npt.NDArray[Any]
    learned: npt.NDArray[np.bool_]


def _encoded(
    tokenizer: Tokenizer, documents: list[Document]
) -> Iterator[tuple[list[int], npt.NDArray[np.bool_]]]:
    """The ids of each document, and which are learned: no token is in two parts of a document."""
    parts = [_parts(document) for document in documents]
    encoded = iter(tokenizer.encode_batch([text for part in parts for text, _ in part]))
    for part in parts:
        found = [(next(encoded), learned) for _, learned in part]
        mask = [np.full(len(ids), learned) for ids, learned in found]
        yield [token for ids, _ in found for token in ids], np.concatenate(mask)


def _parts(document: Document) -> list[tuple[str, bool]]:
    """A document cut where what is learned begins and ends, and whether each part is learned."""
    if document.learned is None:
        return [(document.text, True)]
    borders = [0, *(place for span in document.learned for place in span), len(document.text)]
    return [
        (document.text[begin:end], index % 2 == 1)
        for index, (begin, end) in enumerate(itertools.pairwise(borders))
    ]


def encoded_documents(folder: Path, rank: int, split: str) -> Iterator[EncodedDocument]:
    """A shard's documents of one split, sorted by their place in it."""
    tokens = np.load(shards.encoded_path(folder, rank, "tokens.npy"), mmap_mode="r")
    path = shards.encoded_path(folder, rank, "learned.npy")
    all_learned = np.broadcast_to(np.True_, len(tokens))
    mask = np.load(path, mmap_mode="r") if path.exists() else all_learned
    table = np.load(shards.encoded_path(folder, rank, "records.npy"))
    index = SPLITS.index(split)
    begin, end = np.searchsorted(table["split"], [index, index + 1])
    names: Iterator[str] = itertools.repeat("")
    if split != "train":
        training = int(np.searchsorted(table["split"], 1))
        path = shards.encoded_path(folder, rank, "names.json")
        content = json.loads(path.read_text(encoding="utf-8"))
        names = iter(content[begin - training :])
    for record, name in zip(table[begin:end], names, strict=False):
        ids, learned = (
            np.asarray(array[record["begin"] : record["end"]]) for array in (tokens, mask)
        )
        domain = _DOMAINS[record["domain"]]
        key, source = int(record["key"]), int(record["source"])
        yield EncodedDocument(key, rank, domain, source, name, ids, learned)
