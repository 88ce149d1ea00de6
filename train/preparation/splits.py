"""Decides which split a group of documents goes to, by a seeded hash of its name.

Groups with text and code, with text only and with code only are split separately, each with the
configured shares. A split is a range of hashes. Its ends are computed from the number of groups in
each small range, so memory does not grow with the corpus.
"""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from train.data.token_files import SPLITS
from train.system.errors import UserError

KINDS = ("both", "text", "code")
"""Which domains the documents of a group have."""

_BITS = 20

Histogram = npt.NDArray[np.int64]


def shuffle_key(seed: int, name: str) -> int:
    """A 64-bit number that orders names at random; on every machine the same for one seed."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8])


def kind_of(domains: Iterable[str]) -> str:
    """The kind of a group whose documents have these domains."""
    present = set(domains)
    return present.pop() if len(present) == 1 else "both"


def no_groups() -> Histogram:
    """The number of groups of each kind in each small range, [3, 2**20]: zero at first."""
    return np.zeros((len(KINDS), 1 << _BITS), np.int64)


def count_group(histogram: Histogram, kind: str, key: int) -> None:
    """Counts a group of a kind; `key` is the `shuffle_key` of its name."""
    histogram[KINDS.index(kind), key >> (64 - _BITS)] += 1


@dataclasses.dataclass(frozen=True)
class Borders:
    """The borders of the splits: for each kind, the ends of the ranges of validation and test."""

    ends: dict[str, tuple[int, int]]

    def split(self, kind: str, key: int) -> str:
        """The split of a group; `key` is the `shuffle_key` of its name."""
        place = key >> (64 - _BITS)
        validation, test = self.ends[kind]
        return "validation" if place < validation else "test" if place < test else "train"


def choose_borders(
    histogram: Histogram, validation_fraction: float, test_fraction: float
) -> Borders:
    """Borders that give each split its share, and documents from both domains.

    Args:
        histogram: the groups, [3, 2**20].
        validation_fraction: the share of the groups that goes to validation.
        test_fraction: the share of the groups that goes to the test split.

    Raises:
        UserError: a domain has fewer groups than there are splits.
    """
    shares: dict[str, float] = {"validation": validation_fraction, "test": test_fraction}
    totals = dict(zip(KINDS, histogram.sum(axis=1).tolist(), strict=True))
    shared = totals["both"]
    # Three shared groups serve all splits of both domains; fewer serve the first splits.
    served = set(SPLITS[:shared])
    ends: dict[str, tuple[int, int]] = {}
    for kind, row in zip(KINDS, histogram, strict=True):
        needy = set(served) if kind == "both" else set(SPLITS) - served
        if kind != "both" and shared + totals[kind] < len(SPLITS):
            raise UserError(
                f"{kind}: the {len(SPLITS)} splits {', '.join(SPLITS)} need {kind} documents from "
                f"at least {len(SPLITS)} files, found {shared + totals[kind]}: add files to "
                f"prepare.{kind} or prepare.detect"
            )
        cumulative = np.cumsum(row)
        done, places = 0, []
        for split, share in shares.items():
            fewest = int(split in needy)
            needy.discard(split)
            most = totals[kind] - done - len(needy)
            wanted = done + min(max(round(share * totals[kind]), fewest), most)
            place = int(np.searchsorted(cumulative, wanted)) + 1 if wanted else 0
            done = int(cumulative[place - 1]) if place else 0
            places.append(place)
        ends[kind] = places[0], places[1]
    return Borders(ends)
