"""The account: what became of every document, so that none is lost without a word."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from train.preparation.label_words import Label

Reason = Literal[
    "bad JSON",  # a line or a notebook that is no JSON
    "missing field",  # a record without a value in any of prepare.text_fields
    "wrong type",  # a record that is no object, or whose text is no string
    "empty",  # nothing but white space
    "binary",  # a zero byte
    "undecodable",  # not UTF-8, and no mark of UTF-16 or UTF-32 before it
    "too long",  # above prepare.max_document_bytes
    "not parseable",  # a module of Python's library whose docstrings cannot be cut out
    "unreadable",  # a file that cannot be opened, or a damaged archive or table
    "duplicate",  # the same text as a document before it
    "near-duplicate",  # nearly the words of another document
    "in training",  # held out, and nothing is left without what training has too
]
"""Why a document was rejected."""

EXAMPLES = 3  # kept of each reason and source


class Source(NamedTuple):
    """One entry of the config.

    Attributes:
        key: the config key that lists it, such as `prepare.text`.
        path: the file, folder or pattern.
        label: what its documents are; None where they are told apart one by one.
    """

    key: str
    path: str
    label: Label | None


@dataclasses.dataclass
class SourceAccount:
    """What one source gave.

    Attributes:
        files: files that were opened.
        bytes: their sizes together.
        sha256: of their names and contents; where there is more than one, of the list of these.
        documents: by label; those of "data" are dropped.
        rejected: documents that were not taken, by reason.
        skipped: what is no document: hidden files, special files, links to folders.
        examples: the first names of each reason.
    """

    files: int = 0
    bytes: int = 0
    sha256: list[str] = dataclasses.field(default_factory=list)
    documents: Counter[str] = dataclasses.field(default_factory=Counter)
    rejected: Counter[str] = dataclasses.field(default_factory=Counter)
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> int:
        """All documents, the rejected ones included."""
        return self.documents.total() + self.rejected.total()

    def reject(self, reason: Reason, name: str) -> None:
        """Counts a document that was not taken; `name` tells its file and its line or row."""
        self.rejected[reason] += 1
        self._example(reason, name)

    def withdraw(self, label: str, reason: Reason, name: str) -> None:
        """Rejects a document that was counted before."""
        self.documents[label] -= 1
        self.reject(reason, name)

    def add(self, other: "SourceAccount") -> None:
        """Adds a later part of the same source."""
        self.files += other.files
        self.bytes += other.bytes
        self.sha256 += other.sha256
        self.documents.update(other.documents)
        self.rejected.update(other.rejected)
        self.skipped.update(other.skipped)
        for reason, names in other.examples.items():
            for name in names:
                self._example(reason, name)

    def _example(self, reason: str, name: str) -> None:
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES:
            # A file's name may hold bytes that no terminal shows.
            names.append(name.encode(errors="backslashreplace").decode())


class Account:
    """The accounts of all sources, in their order."""

    def __init__(self, sources: Iterable[Source]) -> None:
        """Of nothing yet."""
        self.sources = list(sources)
        self.parts = [SourceAccount() for _ in self.sources]

    def add(self, content: list[dict[str, Any]]) -> None:
        """Adds what `to_json` gave for a later part of the work."""
        for part, values in zip(self.parts, content, strict=True):
            counters = {key: Counter(values[key]) for key in ("documents", "rejected", "skipped")}
            part.add(SourceAccount(**(values | counters)))

    def to_json(self) -> list[dict[str, Any]]:
        """One object a source."""
        return [vars(part) for part in self.parts]

    @property
    def total(self) -> SourceAccount:
        """All sources together."""
        whole = SourceAccount()
        for part in self.parts:
            whole.add(part)
        return whole
