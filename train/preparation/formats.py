"""Reads the documents in a file: plain text, notebooks, JSON records, Parquet, Python's library.

Text is UTF-8, or UTF-16 or UTF-32 with a byte-order mark. Other encodings are not guessed, because
nobody would notice a wrong guess. Blank lines between lines of JSON are not documents.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from train.preparation import python_library
from train.preparation.account import Source, SourceAccount
from train.preparation.labels import Labeller
from train.preparation.lines import open_lines, read_lines
from train.preparation.listing import File
from train.preparation.records import (
    MARKS,
    Rejected,
    Spans,
    begins_an_array,
    holds_records,
    parsed,
    read_elements,
    text_of,
)
from train.settings.prepare_config import PrepareConfig

_LINES = (".jsonl", ".jsonlines", ".ndjson")
_JSON_LINES = tuple(f"{name}{packing}" for name in _LINES for packing in ("", ".gz", ".zst"))
_COMPRESSED_JSON = (".json.gz", ".json.zst")
_DAMAGED = (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError)


class Document(NamedTuple):
    """One text.

    Attributes:
        text: the whole document, with its original newlines.
        domain: "text" or "code".
        name: its file, with its line or row, for messages; unique within its domain and source.
        group: documents of one group are never in different splits. A file is a group. In JSON and
            Parquet files each record is one, because such a file may be a whole corpus.
        source: the index of its source.
        learned: where the parts of the text begin and end that are learned; None where all is.
    """

    text: str
    domain: str
    name: str
    group: str
    source: int
    learned: Spans | None = None

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        return len(self.text.encode())


class Reader:
    """Reads documents from files, and counts what happened to them."""

    def __init__(
        self, prepare: PrepareConfig, sources: list[Source], parts: list[SourceAccount]
    ) -> None:
        """Counts into `parts`, one per source; `roles` gets those of chats, see `text_of`."""
        self._prepare, self._sources, self._parts = prepare, sources, parts
        self.roles: set[str] = set()
        self._labeller: Labeller | None = None

    def read(self, file: File) -> Iterator[Document]:
        """The documents of a file; everything else in it is counted."""
        source, part = self._sources[file.source], self._parts[file.source]
        if not file.path:
            for topic, text in python_library.topics().items():
                group = f"python_library/topics/{topic}"
                part.documents["text"] += 1
                yield Document(text, "text", group, group, file.source)
            return
        name = os.path.normpath(file.path)
        try:
            with open(file.path, "rb") as stream:
                contents = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            part.reject("unreadable", name)
            return
        part.files += 1
        part.bytes += file.size
        part.sha256.append(f"{name}\0{contents}")
        lower = name.lower()
        if source.key == "prepare.python_library":
            yield from self._module(file, source.path)
        elif lower.endswith(_JSON_LINES):
            yield from self._records(file, name)
        elif lower.endswith(_COMPRESSED_JSON):
            yield from self._records(file, name, array=self._is_array(file))
        elif lower.endswith(".parquet"):
            yield from self._parquet(file, name)
        elif lower.endswith(".json") and self._is_array_of_records(file):
            yield from self._records(file, name, array=True)
        else:
            yield from self._plain(file, name)

    def _plain(self, file: File, name: str) -> Iterator[Document]:
        notebook = name.lower().endswith(".ipynb")
        longest = self._prepare.max_document_bytes
        # The pictures in a notebook are no part of its document.
        text = self._file_text(file, name, 64 * longest + 64_000_000 if notebook else longest)
        if text is None:
            return
        label = self._label(file.source, os.path.basename(name), text)
        if notebook:
            try:
                text = self._check_text(notebook_text(text))
            except Rejected as rejected:
                self._parts[file.source].reject(rejected.reason, name)
                return
        yield from self._accept(text, label, name, name, file.source)

    def _module(self, file: File, root: str) -> Iterator[Document]:
        name = os.path.relpath(file.path, root).replace(os.sep, "/")
        group = f"python_library/{name}"
        text = self._file_text(file, group, self._prepare.max_document_bytes)
        if text is None:
            return
        try:
            code, written = python_library.module_documents(text, name)
        except (SyntaxError, ValueError):
            self._parts[file.source].reject("not parseable", group)
            return
        for label, part in (("code", code), ("text", written)):
            if part.strip():
                yield from self._accept(part, label, group, group, file.source)

    def _is_array(self, file: File) -> bool:
        try:
            with contextlib.closing(open_lines(file.path)) as stream:
                return begins_an_array(stream)
        except _DAMAGED:  # as will be said when it is read
            return False

    def _is_array_of_records(self, file: File) -> bool:
        if not self._is_array(file):
            return False
        # Where documents are labelled one by one, an array of strings is data.
        labelled = self._sources[file.source].label is not None
        with open(file.path, "rb") as stream:
            return holds_records(stream, self._longest, self._prepare, strings=labelled)

    @property
    def _longest(self) -> int:
        """Bytes of a record: it may have other fields, and write a character as six or twelve."""
        return 16 * self._prepare.max_document_bytes + 1_000_000

    def _records(self, file: File, name: str, *, array: bool = False) -> Iterator[Document]:
        """The documents of a file that holds one per line, or one per element of an array."""
        part = self._parts[file.source]
        kind, number = "record" if array else "line", 0
        try:
            with contextlib.closing(open_lines(file.path)) as stream:
                records = (read_elements if array else read_lines)(stream, self._longest)
                for number, record in enumerate(records, 1):
                    place = f"{name} {kind} {number}"
                    try:
                        if record is None:
                            raise Rejected("too long")
                        if not array and not record.strip():
                            continue
                        content, learned = text_of(parsed(record), self._prepare, self.roles)
                        text = self._check_text(content)
                    except Rejected as rejected:
                        part.reject(rejected.reason, place)
                        continue
                    label = self._label(file.source, "", text)
                    yield from self._accept(text, label, place, place, file.source, learned)
        except _DAMAGED:
            part.reject("unreadable", f"{name} after {kind} {number}")

    def _parquet(self, file: File, name: str) -> Iterator[Document]:
        import pyarrow
        import pyarrow.parquet

        part = self._parts[file.source]
        row = 0
        try:
            with pyarrow.parquet.ParquetFile(file.path) as table:
                present = set(table.schema_arrow.names)
                chats = self._prepare.chat_fields
                wanted = dict.fromkeys([*self._prepare.text_fields, *chats])
                fields = [field for field in wanted if field in present]
                if not fields:
                    for number in range(table.metadata.num_rows):
                        part.reject("missing field", f"{name} row {number + 1}")
                    return
                for batch in table.iter_batches(64, columns=fields, use_threads=False):
                    names = batch.schema.names  # two may have the same name: the first counts
                    columns = [
                        _values(batch.column(names.index(field)), chat=field in chats)
                        for field in fields
                    ]
                    for values in zip(*columns, strict=True):
                        row += 1
                        place = f"{name} row {row}"
                        try:
                            record = dict(zip(fields, values, strict=True))
                            content, learned = text_of(record, self._prepare, self.roles)
                            text = self._check_text(content)
                        except Rejected as rejected:
                            part.reject(rejected.reason, place)
                            continue
                        label = self._label(file.source, "", text)
                        yield from self._accept(text, label, place, place, file.source, learned)
        except (OSError, ValueError, LookupError, pyarrow.ArrowException):
            # In a damaged table even the names of columns may be invalid text.
            part.reject("unreadable", f"{name} after row {row}")

    def _file_text(self, file: File, name: str, longest: int) -> str | None:
        """A plain file's text, or None if it was rejected and counted."""
        try:
            if file.size > longest:
                raise Rejected("too long")
            try:
                return self._check_text(Path(file.path).read_bytes(), longest)
            except OSError:
                raise Rejected("unreadable") from None
        except Rejected as rejected:
            self._parts[file.source].reject(rejected.reason, name)
            return None

    def _check_text(self, content: Any, longest: int | None = None) -> str:
        """A document's text, from its bytes or its string."""
        if isinstance(content, bytes):
            content = decode(content)
        if not isinstance(content, str):
            raise Rejected("wrong type")
        try:
            size = len(content.encode())
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can contain
            raise Rejected("undecodable") from None
        if size > (longest or self._prepare.max_document_bytes):
            raise Rejected("too long")
        if "\0" in content:
            raise Rejected("binary")
        if not content.strip():
            raise Rejected("empty")
        return content

    def _label(self, source: int, name: str, text: str) -> str:
        given = self._sources[source].label
        if given is not None:
            return given
        if self._labeller is None:  # loading its network takes a second
            self._labeller = Labeller()
        return self._labeller.label(name, text)

    def _accept(
        self,
        text: str,
        label: str,
        name: str,
        group: str,
        source: int,
        learned: Spans | None = None,
    ) -> Iterator[Document]:
        self._parts[source].documents[label] += 1
        if label != "data":
            yield Document(text, label, name, group, source, learned)


def decode(content: bytes) -> str:
    """The text of bytes, without the byte-order mark.

    Raises:
        Rejected: they are binary, or not in one of the encodings above.
    """
    encoding = "utf-8"
    for mark, marked in MARKS:
        if content.startswith(mark):
            content, encoding = content.removeprefix(mark), marked
            break
    if encoding == "utf-8" and b"\0" in content:
        raise Rejected("binary")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise Rejected("undecodable") from None


def notebook_text(text: str) -> str:
    """The cells of a notebook, one after the other, without their output.

    Raises:
        Rejected: it is not a notebook.
    """
    try:
        parsed = json.loads(
            text, parse_int=float
        )  # Python limits an integer's digits, JSON does not
    except (ValueError, RecursionError):
        raise Rejected("bad JSON") from None
    cells = parsed.get("cells") if isinstance(parsed, dict) else None
    if not isinstance(cells, list):
        raise Rejected("missing field")
    sources = []
    for cell in cells:
        source = cell.get("source") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str):
            raise Rejected("wrong type")
        sources.append(source.rstrip() + "\n")
    return "\n".join(source for source in sources if source.strip())


def _values(column: Any, *, chat: bool) -> list[Any]:
    """A Parquet column's values; texts as bytes, as they need not be UTF-8."""
    import pyarrow

    types, kind = pyarrow.types, column.type
    if chat and types.is_nested(kind):
        return column.to_pylist()
    if types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        column = column.cast(pyarrow.large_binary())
    elif not (types.is_null(kind) or _is_binary(kind)):  # which may hold text
        return [valid or None for valid in column.is_valid().to_pylist()]
    return column.to_pylist()


def _is_binary(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    named = types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary
    return any(is_named(kind) for is_named in named)
