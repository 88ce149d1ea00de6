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
"""Stands where a row has no token. A token that is read and not learned is -2 minus its id."""

_BLOCK = 1 << 20
"""How many documents are packed at once; their positions take some megabytes."""


class Batch(NamedTuple):
    """What a model reads and what it must predict: numpy arrays, or JAX's under jit.

    Attributes:
        inputs: the tokens that the model reads [B, T].
        labels: the token after each of them [B, T].
        weights: what each label counts in a mean [B, T]: 0 where it is padding or not learned, else
            1; None where all are learned.
        real: which labels are no padding [B, T], which only follows other labels; None where there
            is none.
    """

    inputs: jax.Array
    labels: jax.Array
    weights: jax.Array | None
    real: jax.Array | None = None

    @property
    def label_count(self) -> int:
        """The labels that are learned."""
        return int(self.labels.size if self.weights is None else np.count_nonzero(self.weights))


def batch_of(rows: npt.NDArray[np.int32], *, padded: bool = False) -> Batch:
    """Rows [B, T + 1] as a batch: every token except a row's first is predicted from those before.

    Args:
        rows: token ids.
        padded: rows may have tokens that are not learned, and end with padding; see _PADDING.
    """
    inputs: Any = rows[:, :-1]
    labels: Any = rows[:, 1:]
    if not padded:
        return Batch(inputs, labels, None)
    weights: Any = (labels >= 0).astype(np.float32)
    real: Any = labels != _PADDING
    # Any token may stand for padding: nothing before it sees it.
    inputs, labels = (
        np.where(ids < _PADDING, _PADDING - 1 - ids, np.maximum(ids, 0)) for ids in (inputs, labels)
    )
    return Batch(inputs, labels, weights, real)


def _row_of(source: "Rows", begin: int, end: int) -> npt.NDArray[np.int32]:
    """Tokens of a source; those that are not learned are as _PADDING says."""
    ids = np.asarray(source.tokens[begin:end], np.int32)
    if source.learned is None:
        return ids
    return np.where(source.learned[begin:end], ids, _PADDING - 1 - ids)


def _check_learned(source: "Rows", labels: int, name: str) -> None:
    """Raises UserError if none of a source's labels is learned: each would have a loss of 0."""
    if source.learned is not None and not np.any(source.learned[1 : labels + 1]):
        raise UserError(
            f"{name} has no token to learn from: prepare chats with answers there, correct "
            "prepare.answer_roles, or set prepare.answers_only: false, and run python -m "
            "train.prepare again"
        )


class Windows:
    """The contiguous windows of a token file, as a Grain source.

    Item i has `length` + 1 tokens, and its last token is also the first of item i + 1. So every
    token is predicted once, except the file's first and less than a window at its end.
    """

    learned: npt.NDArray[np.bool_] | None = None

    def __init__(self, data_dir: str, domain: str, split: str, length: int) -> None:
        self.tokens, self.ends, self.learned = vars(read_tokens(data_dir, domain, split)).values()
        self.length = length
        if not len(self):
            raise UserError(
                f"{data_dir}: {domain}/{split} has {len(self.tokens)} tokens, fewer than one "
                f"sequence: lower training.sequence_length ({length}) or prepare more documents"
            )
        _check_learned(self, len(self) * length, f"{data_dir}: {domain}/{split}")

    def __len__(self) -> int:
        """The number of windows."""
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """Window `index`, [length + 1]."""
        start = index * self.length
        return _row_of(self, start, start + self.length + 1)


class DocumentRows:
    """The documents of a token file in rows, as a Grain source.

    A row has as many whole documents as fit, in the order of the file. It begins with the
    end-of-text token before them, from which their first token is predicted; the file's first
    document has none before it. A document that does not fit in a row is cut into several rows,
    each of which begins with the last token of the row before. So every token except the file's
    first is predicted once, as in `Windows`. The rest of a row is padding.

    Attributes:
        bounds: the first token of every row, see `row_bounds`.
        padding: the share of the rows' labels that is padding.
    """

    def __init__(self, data_dir: str, domain: str, length: int) -> None:
        """Packs the split "train" into rows of `length` + 1 tokens."""
        self.tokens, self.ends, self.learned = vars(read_tokens(data_dir, domain, "train")).values()
        self.length = length
        self.bounds = row_bounds(self.ends, length)
        if not len(self):
            raise UserError(f"{data_dir}: {domain}/train has one token: prepare more documents")
        _check_learned(self, len(self.tokens) - 1, f"{data_dir}: {domain}/train")
        self.padding = 1 - (len(self.tokens) - 1) / (len(self) * length)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """Row `index`, [length + 1], with padding, -1, at its end."""
        first, last = self.bounds[index : index + 2]
        row = np.full(self.length + 1, _PADDING, np.int32)
        row[: last - first + 1] = _row_of(self, first, last + 1)
        return row


def row_bounds(ends: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """The first token of every row of `DocumentRows`, and the last row's last token.

    Args:
        ends: each document's end, exclusive [documents].
        length: labels in a row.

    Returns:
        [rows + 1], ascending: row i has the tokens from bounds[i] to bounds[i + 1], inclusive.
    """
    runs = [np.zeros(1, np.int64)]  # the same bounds, but documents that do not fit are still whole
    document = 0
    for start in range(0, len(ends), _BLOCK):
        own = ends[start : start + _BLOCK]
        before = np.concatenate([ends[start - 1 : start] if start else [1], own[:-1]]) - 1
        # For every document: if a row begins with it, the first document that no longer fits.
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
    """Picks the rows of one process from all rows."""

    def __init__(self, length: int, batch_size: int, index: int, count: int) -> None:
        self._length = length // count
        self._whole = batch_size
        self._own = batch_size // count
        self._first = index * self._own

    def __len__(self) -> int:
        """The number of the process's rows."""
        return self._length

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The dataset (there is only one) and the place in it."""
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
    """The sources of training rows by domain: one, or two that will be mixed.

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
    """Endless batches of a stage, with a new order in every epoch of a source.

    Sources are mixed evenly: in any B consecutive rows, each source has its share of B, rounded up
    or down. Grain rounds the ratio of two weights down to hundredths.

    Args:
        config: the run's config.
        stage: decides the order, see `order_seed`.
        rows: from `training_rows`.
        process_index, process_count: with several processes, B is the share of one, and it gets
            its consecutive rows of every batch; None asks JAX.

    Raises:
        UserError: the batch cannot be divided evenly.
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
        # Grain makes integers of 100 times the weights. The smallest weight is 1 here: if it were
        # rounded down, its source could lose the only row that it has in a batch.
        smallest = min(training.mix.values())
        weights = [training.mix[domain] / smallest for domain in rows]
        dataset = grain.MapDataset.mix(datasets, weights)
    own = _OwnRows(len(dataset), training.batch_size, index, count)
    dataset = grain.MapDataset.select_from_datasets([dataset], own)
    # Reading a memory map is so fast that threads would only make it slower.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    # Endless data have no remainder. To keep one, Grain would compute the length in floats.
    batches = dataset.batch(training.batch_size // count, drop_remainder=True)
    padded = training.packing == "documents" or any(
        source.learned is not None for source in rows.values()
    )
    batches = batches.map(functools.partial(batch_of, padded=padded))
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
    """The share of padding in the labels of training batches; rows are `training_rows`."""
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
        limit: the largest number of batches; 0 reads the whole split.
    """
    count = min(len(windows), limit * batch_size or len(windows))
    chosen = np.arange(count) * len(windows) // count
    for start in range(0, count, batch_size):
        yield np.stack([windows[int(i)] for i in chosen[start : start + batch_size]])


def fingerprint(config: Config, manifest: Manifest, stage: str) -> str:
    """Identifies the order of a stage's training batches.

    Grain silently accepts the position of a different pipeline, so a checkpoint keeps this with
    the position.
    """
    training = config.training
    identity: dict[str, Any] = {
        "files": {name: entry["sha256"] for name, entry in manifest.files.items()},
        "domain": training.domain,
        "sequence_length": training.sequence_length,
        "batch_size": training.batch_size,
        "seed": order_seed(config, stage),
    }
    # Defaults are left out, so that runs from before a setting existed can resume.
    if training.packing != "contiguous":
        identity["packing"] = training.packing
    if training.mix is not None:
        identity["mix"] = training.mix
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
