"""Batches for training and validation, from the prepared token files, through Grain."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
import numpy.typing as npt

from train.config import Config
from train.errors import UserError
from train.token_files import read_tokens
from train.tokens import Manifest

Batch = npt.NDArray[np.int32]


class Windows:
    """The contiguous windows of a token file, as a Grain source.

    Item i holds `length` + 1 tokens, the last of which is also the first of item i + 1: every
    token but the file's first, and less than a window at its end, is predicted once.
    """

    def __init__(self, data_dir: str, domain: str, split: str, length: int) -> None:
        self.tokens = read_tokens(data_dir, domain, split).tokens
        self.length = length
        if not len(self):
            raise UserError(
                f"{data_dir}: {domain}/{split} has {len(self.tokens)} tokens, fewer than one "
                f"sequence: lower training.sequence_length ({length}) or prepare more documents"
            )

    def __len__(self) -> int:
        """The number of windows."""
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """Window `index`, [length + 1]."""
        start = index * self.length
        return np.asarray(self.tokens[start : start + self.length + 1], np.int32)


def order_seed(config: Config, stage: str) -> int:
    """The seed of the order of a stage's data.

    A stage that goes on from the base on the same windows must not see them in the same order.
    """
    if stage == "base":
        return config.seed
    digest = hashlib.sha256(f"{config.seed} {stage}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def training_batches(config: Config, stage: str) -> grain.DatasetIterator[Batch]:
    """Endless batches [B, T + 1] of a stage, every epoch in an order of its own.

    Raises:
        UserError: there are fewer tokens than one sequence.
    """
    training = config.training
    windows = Windows(config.data_dir, training.domain, "train", training.sequence_length)
    dataset = grain.MapDataset.source(windows).seed(order_seed(config, stage)).shuffle().repeat()
    # Reading a memory map is so fast that threads would only slow it down.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(dataset.batch(training.batch_size).to_iter_dataset(options))


def validation_batches(windows: Windows, batch_size: int, limit: int) -> Iterator[Batch]:
    """Batches [B, T + 1] of windows spread evenly over the split; the last may be smaller.

    Args:
        windows: the split.
        batch_size: B.
        limit: batches at most; 0 reads the whole split.
    """
    count = min(len(windows), limit * batch_size or len(windows))
    chosen = np.arange(count) * len(windows) // count
    for start in range(0, count, batch_size):
        yield np.stack([windows[int(i)] for i in chosen[start : start + batch_size]])


def fingerprint(config: Config, manifest: Manifest, stage: str) -> str:
    """Identifies the order of a stage's training batches.

    Grain accepts the position of any other pipeline without a word, so a checkpoint keeps this
    beside it.
    """
    training = config.training
    identity: dict[str, Any] = {
        "files": {name: entry["sha256"] for name, entry in manifest.files.items()},
        "domain": training.domain,
        "sequence_length": training.sequence_length,
        "batch_size": training.batch_size,
        "seed": order_seed(config, stage),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
