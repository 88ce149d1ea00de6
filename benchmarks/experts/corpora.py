"""The two corpora of `make stages`, prepared by `train.prepare`, as windows of tokens."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.peers.corpora import Tokens
from benchmarks.peers.training import windows
from train.data.data_folder import TOKENIZER
from train.data.token_files import read_tokens
from train.data.tokenizer import Tokenizer

DOMAINS = ("text", "code")
CORPORA = {"demo": "Python's library", "second": "Django and SQLAlchemy"}
"""The title of each corpus by the name of its folder in data/."""


class Domains(NamedTuple):
    """A corpus of two domains.

    Attributes:
        rows: training windows [count, length + 1], text first, then code.
        of_domain: the places in `rows` of each domain.
        document: the number of the document in which each window begins [count].
        held_out: by split and domain, windows.
        token_bytes: the bytes that each token id stands for [V].
    """

    rows: Tokens
    of_domain: dict[str, npt.NDArray[np.int32]]
    document: npt.NDArray[np.int32]
    held_out: dict[str, dict[str, Tokens]]
    token_bytes: npt.NDArray[np.int32]

    def halves(self, seed: int) -> list[npt.NDArray[np.int32]]:
        """The places of two random halves of the documents."""
        half = np.random.default_rng([seed, 7]).integers(2, size=self.document.max() + 1)
        of_window = half[self.document]
        return [np.flatnonzero(of_window == each).astype(np.int32) for each in range(2)]


def load(name: str, length: int) -> Domains:
    """A corpus in windows of `length` predictions."""
    folder = Path("data") / name
    rows, documents, of_domain, count, first = [], [], {}, 0, 0
    for domain in DOMAINS:
        file = read_tokens(str(folder), domain, "train")
        rows.append(windows(np.asarray(file.tokens, np.int32), length))
        starts = np.arange(len(rows[-1])) * length
        documents.append(first + np.searchsorted(file.ends, starts, side="right"))
        first += len(file.ends)
        of_domain[domain] = np.arange(count, count + len(rows[-1]), dtype=np.int32)
        count += len(rows[-1])
    held_out = {
        split: {
            domain: windows(
                np.asarray(read_tokens(str(folder), domain, split).tokens, np.int32), length
            )
            for domain in DOMAINS
        }
        for split in ("validation", "test")
    }
    return Domains(
        np.concatenate(rows),
        of_domain,
        np.concatenate(documents).astype(np.int32),
        held_out,
        np.asarray(Tokenizer.load(folder / TOKENIZER).token_bytes),
    )
