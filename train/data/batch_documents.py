"""Which documents a batch of training holds, for whoever has to look at them."""

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import numpy.typing as npt

from bridge import listed
from train.data.batches import Rows, Windows, training_batches
from train.settings.config import Config

_NAMED = 20
"""The most documents of a domain that are named."""


def documents_of(
    config: Config, stage: str, rows: Mapping[str, Rows], batches: Iterable[int]
) -> dict[str, list[int]]:
    """The documents of some micro-batches by domain, each as its number in its token file.

    Args:
        config: the run's config.
        stage: decides the order of the data, see `training_batches`.
        rows: from `training_rows`.
        batches: the numbers of the micro-batches, counted from 0.
    """
    noted = {domain: _Noted(source) for domain, source in rows.items()}
    rows_of_all = cast(Mapping[str, Rows], noted)
    again = training_batches(config, stage, rows_of_all, process_index=0, process_count=1)
    for number in batches:
        again.set_state({"next_index": number})
        next(again)
    found = {}
    for domain, source in noted.items():
        ends = rows[domain].ends
        numbers: set[int] = set()
        for row in source.read:
            first, last = np.searchsorted(ends, source.span(row), side="right").tolist()
            numbers.update(range(first, last + 1))
        if numbers:
            found[domain] = sorted(numbers)
    return found


def named(documents: Mapping[str, list[int]]) -> str:
    """Documents by domain as "documents 3, 4 of text/train and 8 of code/train"."""
    parts = (
        f"{listed([str(number) for number in numbers], shown=_NAMED)} of {domain}/train"
        for domain, numbers in documents.items()
    )
    return f"documents {' and '.join(parts)}"


class _Noted:
    """A source of rows that notes which of them are read."""

    def __init__(self, source: Rows) -> None:
        self._source = source
        self.learned = source.learned
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        self.read.append(int(index))
        return self._source[index]

    def span(self, row: int) -> tuple[int, int]:
        """The first and the last token of a row."""
        if isinstance(self._source, Windows):
            first = row * self._source.length
            return first, first + self._source.length
        first, last = self._source.bounds[row : row + 2].tolist()
        return first, last
