"""The account of a preparation: what happened to every document."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from train.preparation.label_words import Label

Reason = Literal[
    "bad JSON",  # a line or a notebook that is not JSON
    "missing field",  # a record without a value in any of prepare.text_fields and chat_fields
    "wrong type",  # a record that is no string or object, or whose text or chat is none
    "empty",  # only white space
    "binary",  # a zero byte
    "undecodable",  # neither UTF-8, nor UTF-16 or UTF-32 with a byte-order mark
    "too long",  # larger than prepare.max_document_bytes
    "not parseable",  # a module of Python's library that cannot be parsed
    "unreadable",  # a file that cannot be opened, or a damaged archive or table
    "duplicate",  # the same text as an earlier document
    "near-duplicate",  # nearly the same words as another document
    "in training",  # a document of validation or test that training has completely
]
"""Why a document was rejected."""

EXAMPLES = 3  # how many names to keep per reason and source


class Source(NamedTuple):
    """One entry of the config.

    Attributes:
        key: the config key that lists it, such as `prepare.text`.
        path: the file, folder or pattern.
        label: what its documents are; None where each is labelled on its own.
    """

    key: str
    path: str
    label: Label | None


@dataclasses.dataclass
class SourceAccount:
    """What happened to the documents of one source.

    Attributes:
        files: the number of files that were opened.
        bytes: their sizes together.
        sha256: of their names and contents; where there is more than one, of the list of these.
        documents: the number of documents by label; those labelled "data" are dropped.
        rejected: the number of rejected documents, by reason.
        skipped: what is not a document: hidden files, special files, links to folders.
        examples: the first names for each reason.
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
        """The number of all documents, including rejected ones."""
        return self.documents.total() + self.rejected.total()

    def reject(self, reason: Reason, name: str) -> None:
        """Counts a rejected document; `name` is its file with its line or row."""
        self.rejected[reason] += 1
        self._add_example(reason, name)

    def withdraw(self, label: str, reason: Reason, name: str) -> None:
        """Rejects a document that was counted as accepted before."""
        self.documents[label] -= 1
        self.reject(reason, name)

    def add(self, other: "SourceAccount") -> None:
        """Adds the numbers of a later part of the same source."""
        self.files += other.files
        self.bytes += other.bytes
        self.sha256 += other.sha256
        self.documents.update(other.documents)
        self.rejected.update(other.rejected)
        self.skipped.update(other.skipped)
        for reason, names in other.examples.items():
            for name in names:
                self._add_example(reason, name)

    def _add_example(self, reason: str, name: str) -> None:
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES:
            # A file's name may hold bytes that are not text.
            names.append(name.encode(errors="backslashreplace").decode())


class Account:
    """The accounts of all sources, in their order."""

    def __init__(self, sources: Iterable[Source]) -> None:
        """An account in which nothing is counted yet."""
        self.sources = list(sources)
        self.parts = [SourceAccount() for _ in self.sources]

    def add(self, content: list[dict[str, Any]]) -> None:
        """Adds what `to_json` gave for a later part of the work."""
        for part, values in zip(self.parts, content, strict=True):
            counters = {key: Counter(values[key]) for key in ("documents", "rejected", "skipped")}
            part.add(SourceAccount(**(values | counters)))

    def to_json(self) -> list[dict[str, Any]]:
        """One object per source."""
        return [vars(part) for part in self.parts]

    @property
    def total(self) -> SourceAccount:
        """All sources together."""
        whole = SourceAccount()
        for part in self.parts:
            whole.add(part)
        return whole
