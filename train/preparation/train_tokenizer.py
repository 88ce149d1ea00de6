"""Trains the tokenizer on a share of the training documents."""

import zlib
from collections.abc import Iterator
from pathlib import Path

from train.data.tokenizer import Tokenizer
from train.preparation import reading, shards
from train.preparation.splits import Borders


def train_tokenizer(
    path: Path, vocab_size: int, folder: Path, borders: Borders, seed: int, share: float
) -> None:
    """Writes a tokenizer.

    Args:
        path: the file.
        vocab_size: its tokens.
        folder: the preparation's.
        borders: of the splits.
        seed: of the splits.
        share: of the training documents that are read.

    Raises:
        UserError: the documents do not have that many tokens in them.
    """
    Tokenizer.train(_texts(folder, borders, seed, share), vocab_size).save(path)


def _texts(folder: Path, borders: Borders, seed: int, share: float) -> Iterator[str]:
    limit = int(share * 2**32)
    for rank in range(len(shards.names(folder))):
        for split, document in reading.documents_with_splits(folder, rank, borders, seed):
            name = f"{document.domain}/{document.name}".encode(errors="surrogatepass")
            if split == "train" and zlib.crc32(name) < limit:
                yield document.text
