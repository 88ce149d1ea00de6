"""Documents: read from folders and from Python's own library, and split by source file.

A document is the smallest thing that is trained on or held out as a whole. All documents that come
from one source file form a group, and a group never straddles splits: a module's docstrings
(text) must not be in training while its code is in validation.
"""

import ast
import contextlib
import dataclasses
import hashlib
import inspect
import os
import re
import stat
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from train.config import PrepareConfig
from train.errors import UserError

DocumentDomain = Literal["text", "code"]
Split = Literal["train", "validation", "test"]

DOMAINS: tuple[DocumentDomain, ...] = ("text", "code")

_PYTHON_LIBRARY = "prepare.python_library"
_SKIPPED_PACKAGES = frozenset(
    ("test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "__pycache__")
)


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        text: the whole document, with its newlines as they were.
        domain: the token files that it goes to.
        source: what it was made from, unique within its domain.
        group: the source file; documents of one group are in the same split.
    """

    text: str
    domain: DocumentDomain
    source: str
    group: str

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        return len(self.text.encode())


@dataclasses.dataclass
class SourceCounts:
    """What one entry of the config gave.

    Attributes:
        key: the config key that lists it, such as `prepare.text`.
        path: the file or folder.
        documents: how many documents were read from it, by domain.
        skipped: how many files or documents were not taken, by reason.
    """

    key: str
    path: str
    documents: Counter[str] = dataclasses.field(default_factory=Counter)
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)


def read_documents(
    prepare: PrepareConfig, counts: list[SourceCounts], exclude: Iterable[str | Path] = ()
) -> Iterator[Document]:
    """Every usable document of the configured sources, each text once.

    Args:
        prepare: which files and folders, and the longest document that is taken.
        counts: receives one entry a source, complete when the iterator is exhausted.
        exclude: folders that are not entered, such as the one that is being written.

    Raises:
        UserError: a listed path does not exist, a listed folder has no usable document, or a
            domain has none at all.
    """
    excluded = {os.path.realpath(path) for path in exclude}
    seen: set[bytes] = set()
    totals: Counter[str] = Counter()
    for source, documents in _open_sources(prepare, excluded):
        counts.append(source)
        found = 0
        for document in documents:
            found += 1
            digest = hashlib.sha256(document.text.encode()).digest()
            if digest in seen:
                source.skipped["duplicate"] += 1
                continue
            seen.add(digest)
            source.documents[document.domain] += 1
            totals[document.domain] += 1
            yield document
        if not found and os.path.isdir(source.path):
            raise UserError(
                f"{source.key}: no usable document in {source.path}{_reasons([source])}"
            )
    for domain in DOMAINS:
        if totals[domain]:
            continue
        listed = [source for source in counts if source.key == f"prepare.{domain}"]
        if listed:
            paths = ", ".join(source.path for source in listed)
            raise UserError(f"prepare.{domain}: no usable document in {paths}{_reasons(listed)}")
        raise UserError(
            f"prepare.{domain} lists no file or folder: add some, or set {_PYTHON_LIBRARY}: true"
        )


def inputs_digest(prepare: PrepareConfig, exclude: Iterable[str | Path] = ()) -> str:
    """A digest of the names, sizes and times of all files that the config lists.

    It changes when a file is changed, added or removed; files are not read.

    Args:
        prepare: which files and folders.
        exclude: folders that are not entered.
    """
    digest = hashlib.sha256()
    excluded = {os.path.realpath(path) for path in exclude}
    paths = [(domain, path) for domain in DOMAINS for path in sorted(getattr(prepare, domain))]
    for domain, root in paths:
        for path in _files(root, SourceCounts(domain, root), excluded):
            with contextlib.suppress(OSError):  # what cannot be read is reported when it is read
                status = os.stat(path)
                digest.update(
                    f"{domain}\0{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(
                        errors="surrogateescape"
                    )
                )
    if prepare.python_library:
        digest.update(f"{sys.version}\0{sysconfig.get_path('stdlib')}\n".encode())
    return digest.hexdigest()


def split_groups(
    documents: Iterable[Document], validation_fraction: float, test_fraction: float, seed: int
) -> Mapping[str, Split]:
    """The split of every group.

    The splits depend on the seed and the names of the groups alone, not on their order, and each
    has documents of both domains. Groups that hold text and code, text only and code only are
    split apart from each other, each at the given fractions.

    Args:
        documents: all documents.
        validation_fraction: the share of the groups that goes to validation.
        test_fraction: the share of the groups that goes to the test split.
        seed: chooses which.

    Raises:
        UserError: a domain has fewer groups than there are splits.
    """
    shares: dict[Split, float] = {"validation": validation_fraction, "test": test_fraction}
    domains_of: dict[str, set[str]] = {}
    for document in documents:
        domains_of.setdefault(document.group, set()).add(document.domain)
    splits: tuple[Split, ...] = get_args(Split)
    shared = [group for group, domains in domains_of.items() if len(domains) > 1]
    sides: dict[str, Split] = {}

    def divide(groups: list[str], needy: set[Split]) -> None:
        """Gives each split its share, and a needy one a group at least; train has the rest."""
        left = sorted(groups, key=lambda group: shuffle_key(seed, group))
        for split, share in shares.items():
            fewest, most = int(split in needy), len(left) - len(needy - {split})
            count = min(max(round(share * len(groups)), fewest), most)
            sides.update(dict.fromkeys(left[:count], split))
            left, needy = left[count:], needy - {split}
        sides.update(dict.fromkeys(left, "train"))

    # Three shared groups serve all splits of both domains; fewer serve the first splits.
    divide(shared, set(splits[: len(shared)]))
    missing = set(splits) - set(sides.values())
    for domain in DOMAINS:
        own = [group for group, domains in domains_of.items() if domains == {domain}]
        if len(shared) + len(own) < len(splits):
            raise UserError(
                f"prepare.{domain}: the {len(splits)} splits {', '.join(splits)} need documents "
                f"from at least {len(splits)} files, found {len(shared) + len(own)}: add files"
            )
        divide(own, missing)
    return sides


def shuffle_key(seed: int, name: str) -> bytes:
    """A sort key that orders names at random, the same on every machine for one seed."""
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogateescape")).digest()


def cut_docstrings(source: str) -> tuple[str, list[tuple[str, str]]]:
    """Separates a module's docstrings from its code.

    Args:
        source: a Python module.

    Returns:
        The source without its docstrings: their lines are cut out and every other byte stays, and
        a body that has nothing else gets `pass`. And the docstrings in their order, each with its
        qualified name ("" is the module) and as `inspect.cleandoc` leaves it.

    Raises:
        SyntaxError: the source is not Python.
        ValueError: the source cannot be parsed for another reason, such as its nesting.
    """
    data = source.encode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in the source, which is not ours to mend
        tree = ast.parse(source)
    starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", data))]
    spans: list[tuple[int, int, bytes]] = []
    docstrings: list[tuple[str, str]] = []

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                docstrings.append((name, inspect.cleandoc(text)))
                spans.append(_docstring_span(data, starts, node))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                own = getattr(child, "name", None) if isinstance(child, ast.stmt) else None
                visit(child, f"{name}.{own}".lstrip(".") if own else name)

    try:
        visit(tree, "")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    pieces, end = [], 0
    for begin, stop, replacement in sorted(spans):
        pieces += [data[end:begin], replacement]
        end = stop
    return b"".join([*pieces, data[end:]]).decode(), docstrings


def _docstring_span(
    data: bytes,
    starts: list[int],
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> tuple[int, int, bytes]:
    """The bytes [begin, stop) of a node's docstring, and what takes their place."""
    statement = node.body[0]
    assert statement.end_lineno is not None and statement.end_col_offset is not None
    begin = starts[statement.lineno - 1] + statement.col_offset
    stop = starts[statement.end_lineno - 1] + statement.end_col_offset
    line_begin = starts[statement.lineno - 1]
    line_stop = starts[statement.end_lineno] if statement.end_lineno < len(starts) else len(data)
    after = data[stop:line_stop].strip()
    # Where more statements follow on other lines, none stands before it on its own.
    if after[:1] in (b"", b"#") and (len(node.body) > 1 or isinstance(node, ast.Module)):
        return line_begin, line_stop, b""
    return begin, stop, b"pass"


def _open_sources(
    prepare: PrepareConfig, excluded: set[str]
) -> Iterator[tuple[SourceCounts, Iterator[Document]]]:
    for domain in DOMAINS:
        for path in sorted(getattr(prepare, domain)):
            source = SourceCounts(f"prepare.{domain}", path)
            yield source, _read_path(source, domain, prepare.max_document_bytes, excluded)
    if prepare.python_library:
        source = SourceCounts(_PYTHON_LIBRARY, sysconfig.get_path("stdlib"))
        yield source, _read_python_library(source, prepare.max_document_bytes)


def _read_path(
    source: SourceCounts, domain: DocumentDomain, max_bytes: int, excluded: set[str]
) -> Iterator[Document]:
    if not os.path.exists(source.path):
        raise UserError(
            f"{source.key}: {source.path} does not exist: correct the path or remove it"
        )
    for file in _files(source.path, source, excluded):
        text = _read_file(file, max_bytes, source)
        if text is not None:
            name = os.path.normpath(file)
            yield Document(text, domain, name, name)


def _files(path: str, source: SourceCounts, excluded: set[str]) -> Iterator[str]:
    """The files at or below a path, sorted; links to folders may loop and are not entered."""
    if not os.path.isdir(path):
        yield path
        return
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:
        source.skipped["unreadable"] += 1
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            source.skipped["hidden"] += 1
        elif entry.is_dir(follow_symlinks=False):
            if os.path.realpath(entry.path) not in excluded:
                yield from _files(entry.path, source, excluded)
        elif entry.is_dir():
            source.skipped["link to a folder"] += 1
        else:
            yield entry.path


def _read_file(path: str, max_bytes: int, source: SourceCounts) -> str | None:
    """The text of a file, or None after counting why it is not taken."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            source.skipped["not a regular file"] += 1
            return None
        if status.st_size > max_bytes:
            source.skipped["too long"] += 1
            return None
        data = Path(path).read_bytes()
    except OSError:
        source.skipped["unreadable"] += 1
        return None
    if b"\0" in data:
        source.skipped["binary"] += 1
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        source.skipped["not UTF-8"] += 1
        return None
    if not text.strip():
        source.skipped["empty"] += 1
        return None
    return text


def _read_python_library(source: SourceCounts, max_bytes: int) -> Iterator[Document]:
    """Modules as code without docstrings; docstrings and documentation topics as text."""
    root = source.path
    if not os.path.isdir(root):
        raise UserError(f"{source.key}: this Python has no library folder {root}: list folders")
    for path in _library_modules(root):
        text = _read_file(path, max_bytes, source)
        if text is None:
            continue
        name = os.path.relpath(path, root).replace(os.sep, "/")
        group = f"python_library/{name}"
        try:
            code, docstrings = cut_docstrings(text)
        except (SyntaxError, ValueError):
            source.skipped["not parseable"] += 1
            continue
        if code.strip():
            yield Document(code, "code", group, group)
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        parts = [f"{module}.{own}".rstrip(".") + f"\n\n{doc}\n" for own, doc in docstrings if doc]
        if parts:
            yield Document("\n".join(parts), "text", group, group)
    for topic, text in _documentation_topics().items():
        group = f"python_library/topics/{topic}"
        yield Document(text, "text", group, group)


def _library_modules(root: str) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        # Installed packages and build files lie in folders that no import statement can name.
        folders[:] = sorted(
            name for name in folders if name.isidentifier() and name not in _SKIPPED_PACKAGES
        )
        for name in sorted(files):
            path = os.path.join(folder, name)
            if name.endswith(".py") and not _is_generated(path):
                yield path


def _is_generated(path: str) -> bool:
    """Whether a module is a table of a character encoding, or the variables of Python's build."""
    folder, name = os.path.split(path)
    if os.path.basename(folder) != "encodings":
        return name.startswith("_sysconfigdata")
    source = Path(path).read_bytes()
    return b"decoding_table = (" in source or b"decoding_map = codecs" in source


def _documentation_topics() -> dict[str, str]:
    """The language reference by topic, less the topics that longer ones repeat.

    A third of the topics are sections of others; kept, they would straddle the splits.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it apart
        return {}
    seen: set[str] = set()
    kept = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        paragraphs = {" ".join(part.split()) for part in re.split(r"\n\s*\n", topics[name])}
        repeated = sum(len(paragraph) for paragraph in paragraphs & seen)
        if 2 * repeated < sum(map(len, paragraphs)):
            kept[name] = topics[name]
            seen |= paragraphs
    return {name: kept[name] for name in sorted(kept)}


def _reasons(sources: list[SourceCounts]) -> str:
    skipped: Counter[str] = Counter()
    for source in sources:
        skipped += source.skipped
    if not skipped:
        return ""
    return " (skipped: " + ", ".join(f"{n} {reason}" for reason, n in sorted(skipped.items())) + ")"
