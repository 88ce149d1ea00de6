"""Batches for training and validation, from the prepared token files, through Grain."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import numpy.typing as npt

from train.data.data_folder import Manifest
from train.data.token_files import read_tokens
from train.settings.config import Config
from train.system.errors import UserError

_PADDING = -1
"""Stands where a row has no token."""

_BLOCK = 1 << 20
"""Documents that are packed at once: their positions take some megabytes."""


class Batch(NamedTuple):
    """What a model reads and what it is to predict from it: numpy arrays, under jit JAX's.

    Attributes:
        inputs: the tokens that the model reads [B, T].
        labels: the token after each of them [B, T].
        weights: what each label counts in a mean [B, T]: 0 where it is padding, which only follows
            other labels, else 1; None where there is no padding.
    """

    inputs: jax.Array
    labels: jax.Array
    weights: jax.Array | None

    @property
    def label_count(self) -> int:
        """The labels that are no padding."""
        return int(self.labels.size if self.weights is None else np.count_nonzero(self.weights))


def batch_of(rows: npt.NDArray[np.int32], *, padded: bool = False) -> Batch:
    """Rows [B, T + 1] as a batch: each token but a row's first is predicted from those before it.

    Args:
        rows: token ids.
        padded: rows may end with padding, negative numbers; at least one label is none.
    """
    inputs: Any = rows[:, :-1]
    labels: Any = rows[:, 1:]
    if not padded:
        return Batch(inputs, labels, None)
    weights: Any = (labels >= 0).astype(np.float32)
    # Any token may stand for padding: nothing before it sees it.
    inputs, labels = np.maximum(inputs, 0), np.maximum(labels, 0)
    return Batch(inputs, labels, weights)


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


class DocumentRows:
    """The documents of a token file in rows, as a Grain source.

    A row holds a run of whole documents in the order of the file, as many as fit. It begins with
    the end-of-text before them, from which their first token is predicted; the file's first
    document has none before it. A document that does not fit in a row is cut into rows of its own,
    each of which begins with the last token of the one before. So every token but the file's first
    is predicted once, as in `Windows`. What is left of a row is padding.

    Attributes:
        padding: the share of the rows' labels that is padding.
    """

    def __init__(self, data_dir: str, domain: str, length: int) -> None:
        """Packs the split "train" into rows of `length` + 1 tokens."""
        self.tokens, ends = vars(read_tokens(data_dir, domain, "train")).values()
        self.length = length
        self._bounds = row_bounds(ends, length)
        if not len(self):
            raise UserError(f"{data_dir}: {domain}/train has one token: prepare more documents")
        self.padding = 1 - (len(self.tokens) - 1) / (len(self) * length)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """Row `index`, [length + 1], at its end padding, -1."""
        first, last = self._bounds[index : index + 2]
        row = np.full(self.length + 1, _PADDING, np.int32)
        row[: last - first + 1] = self.tokens[first : last + 1]
        return row


def row_bounds(ends: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """The first token of every row of `DocumentRows`, and the last row's last token.

    Args:
        ends: each document's end, exclusive [documents].
        length: labels in a row.

    Returns:
        [rows + 1], rising: row i holds the tokens from bounds[i] to bounds[i + 1], inclusive.
    """
    runs = [np.zeros(1, np.int64)]  # the same bounds, with documents that do not fit still whole
    document = 0
    for start in range(0, len(ends), _BLOCK):
        own = ends[start : start + _BLOCK]
        before = np.concatenate([ends[start - 1 : start] if start else [1], own[:-1]]) - 1
        # For a row that begins with each of the documents, the first document that is too much.
        fitting = np.searchsorted(ends, before + length + 1, side="right")
        following = np.maximum(fitting, np.arange(start, start + len(own)) + 1).tolist()
        taken = []
        while document < start + len(own):
            document = following[document - start]
            taken.append(document)
        runs.append(ends[np.array(taken, np.int64) - 1] - 1)
    run_bounds = np.concatenate(runs)
    sizes = np.diff(run_bounds)
    pieces = -(-sizes // length)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.append(np.repeat(run_bounds[:-1], pieces) + piece * length, run_bounds[-1])


Rows = Windows | DocumentRows


class _OwnRows(grain.transforms.DatasetSelectionMap):  # type: ignore[misc]
    """Picks the rows of one process out of all rows."""

    def __init__(self, length: int, batch_size: int, index: int, count: int) -> None:
        self._length = length // count
        self._whole = batch_size
        self._own = batch_size // count
        self._first = index * self._own

    def __len__(self) -> int:
        """The number of the process's rows."""
        return self._length

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The dataset, of which there is one, and the place in it."""
        batch, row = divmod(index, self._own)
        return 0, batch * self._whole + self._first + row


def order_seed(config: Config, stage: str) -> int:
    """The seed of the order of a stage's data.

    A stage that continues from the base on the same windows must not see them in the same order.
    """
    if stage == "base":
        return config.seed
    digest = hashlib.sha256(f"{config.seed} {stage}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def training_rows(config: Config) -> dict[str, Rows]:
    """What training draws its rows from: by domain, one source, or two that are to be mixed.

    Raises:
        UserError: the token files cannot be read, or have fewer tokens than one sequence.
    """
    training = config.training
    length = training.sequence_length
    return {
        domain: Windows(config.data_dir, domain, "train", length)
        if training.packing == "contiguous"
        else DocumentRows(config.data_dir, domain, length)
        for domain in training.mix or (training.domain,)
    }


def training_batches(
    config: Config,
    stage: str,
    rows: Mapping[str, Rows],
    process_index: int | None = None,
    process_count: int | None = None,
) -> grain.DatasetIterator[Batch]:
    """Endless batches of a stage, every epoch of a source in an order of its own.

    Sources are mixed evenly: of any B rows in succession, each source has its share of B, rounded
    up or down. Grain rounds the ratio of two weights down to hundredths.

    Args:
        config: the run's.
        stage: gives the order, see `order_seed`.
        rows: from `training_rows`.
        process_index, process_count: B is the share of one of many processes, and the batches are
            its consecutive rows of the batches of one process; None asks JAX.

    Raises:
        UserError: the batch cannot be shared evenly.
    """
    training = config.training
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if training.batch_size % count:
        raise UserError(
            f"training.batch_size must be a multiple of the number of processes, {count}, not "
            f"{training.batch_size}"
        )
    seed = order_seed(config, stage)
    datasets = [
        grain.MapDataset.source(source).seed(seed).shuffle().repeat() for source in rows.values()
    ]
    dataset = datasets[0]
    if training.mix is not None:
        # Grain's integer weights are of the smallest times 100. It is 1 here, since rounding it
        # down would take its last row from a batch.
        smallest = min(training.mix.values())
        weights = [training.mix[domain] / smallest for domain in rows]
        dataset = grain.MapDataset.mix(datasets, weights)
    own = _OwnRows(len(dataset), training.batch_size, index, count)
    dataset = grain.MapDataset.select_from_datasets([dataset], own)
    # Reading a memory map is so fast that threads would only slow it down.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    # Without end there is no remainder; where one is asked for, Grain rounds the length by floats.
    batches = dataset.batch(training.batch_size // count, drop_remainder=True)
    batches = batches.map(functools.partial(batch_of, padded=training.packing == "documents"))
    return iter(batches.to_iter_dataset(options))


def check_batch(config: Config, rows: Mapping[str, Rows]) -> None:
    """Raises UserError where each batch would hold a sequence twice; rows are `training_rows`."""
    training = config.training
    weights = training.mix or dict.fromkeys(rows, 1.0)
    for domain, source in rows.items():
        share = weights[domain] / sum(weights.values())
        if training.batch_size * share > len(source):
            of_mix = "" if training.mix is None else f" with {share:.0%} {domain}"
            raise UserError(
                f"training.batch_size: {training.batch_size} sequences{of_mix} are more than the "
                f"{len(source)} of {config.data_dir}/{domain}/train: set it to "
                f"{int(len(source) / share)} or less, lower training.sequence_length, or prepare "
                "more documents"
            )


def padding_share(config: Config, rows: Mapping[str, Rows]) -> float:
    """The share of the labels in training batches that is padding; rows are `training_rows`."""
    weights = config.training.mix or dict.fromkeys(rows, 1.0)
    shares = {
        domain: source.padding if isinstance(source, DocumentRows) else 0.0
        for domain, source in rows.items()
    }
    return sum(weights[domain] * share for domain, share in shares.items()) / sum(weights.values())


def validation_rows(
    windows: Windows, batch_size: int, limit: int
) -> Iterator[npt.NDArray[np.int32]]:
    """Windows [B, T + 1] spread evenly over the split, B at a time; the last may be fewer.

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
    # What has its default is left out, so that runs older than a setting can resume.
    if training.packing != "contiguous":
        identity["packing"] = training.packing
    if training.mix is not None:
        identity["mix"] = training.mix
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
