"""Lists the files of the sources, without reading them."""

import contextlib
import fnmatch
import glob
import hashlib
import json
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from train.preparation import python_library
from train.preparation.account import Source
from train.settings.prepare_config import PrepareConfig
from train.system.errors import UserError

TASK_BYTES = 128_000_000
TASK_FILES = 50_000
"""The most bytes that one task reads, unless one file is larger."""


class File(NamedTuple):
    """One file to read.

    Attributes:
        source: the index of the source that lists it.
        path: where it is; "" means the documentation topics of Python's library.
        size: in bytes.
        changed: when its content and its directory entry were changed, in nanoseconds.
    """

    source: int
    path: str
    size: int
    changed: tuple[int, int]


def sources(prepare: PrepareConfig) -> list[Source]:
    """The entries of the config, in the order in which they are read.

    If two have the same document, it counts for the first.
    """
    listed = [
        *(Source("prepare.text", path, "text") for path in sorted(prepare.text)),
        *(Source("prepare.code", path, "code") for path in sorted(prepare.code)),
        *(Source("prepare.detect", path, None) for path in sorted(prepare.detect)),
    ]
    if prepare.python_library:
        listed.append(Source("prepare.python_library", python_library.root(), None))
    return listed


def files(
    listed: Iterable[Source], exclude: Iterable[str | Path], skipped: list[Counter[str]]
) -> Iterator[File]:
    """All files of the sources, sorted within each.

    Args:
        listed: the sources.
        exclude: folders to leave out, such as the one being written.
        skipped: one counter per source, which counts entries that are not read, by reason.

    Raises:
        UserError: a source does not exist, or its pattern matches nothing.
    """
    excluded = {os.path.realpath(path) for path in exclude}
    for index, source in enumerate(listed):
        if source.key == "prepare.python_library":
            paths: Iterable[str] = python_library.modules(source.path)
        else:
            paths = _source_files(source, excluded, skipped[index])
        for path in paths:
            try:
                status = os.stat(path)
            except OSError:
                skipped[index]["broken link" if os.path.islink(path) else "vanished"] += 1
                continue
            if stat.S_ISREG(status.st_mode):
                changed = status.st_mtime_ns, status.st_ctime_ns
                yield File(index, path, status.st_size, changed)
            else:
                skipped[index]["special file"] += 1
        if source.key == "prepare.python_library":
            yield File(index, "", 0, (0, 0))


def digest(prepare: PrepareConfig, exclude: Iterable[str | Path] = ()) -> str:
    """A hash that changes if a listed file is changed, added or removed; files are not read.

    Args:
        prepare: the sources.
        exclude: folders that are not entered.

    Raises:
        UserError: a source does not exist, or its pattern matches nothing.
    """
    whole = hashlib.sha256()
    listed = sources(prepare)
    for file in files(listed, exclude, [Counter() for _ in listed]):
        source = listed[file.source]
        line = json.dumps([source.key, source.label, file.path, file.size, file.changed])
        whole.update(line.encode())
    if prepare.python_library:
        whole.update(sys.version.encode())
    if prepare.tokenizer is not None:
        try:
            whole.update(hashlib.sha256(Path(prepare.tokenizer).read_bytes()).digest())
        except OSError as error:
            raise UserError(
                f"prepare.tokenizer: {prepare.tokenizer}: cannot be read: {error.strerror}"
            ) from error
    return whole.hexdigest()


def write_tasks(
    folder: Path, listed: list[Source], exclude: Iterable[str | Path]
) -> tuple[int, int, list[Counter[str]]]:
    """Divides the files among tasks, in order, the same on every machine.

    Args:
        folder: receives a file `00000.jsonl` per task.
        listed: the sources.
        exclude: folders that are not entered.

    Returns:
        The number of tasks, the bytes to read, and for each source what was skipped.

    Raises:
        UserError: a source does not exist, or its pattern matches nothing.
    """
    skipped: list[Counter[str]] = [Counter() for _ in listed]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tasks = total = size = count = 0
    with contextlib.ExitStack() as stack:
        stream: IO[str] | None = None
        for file in files(listed, exclude, skipped):
            if stream is None or size + file.size > TASK_BYTES or count == TASK_FILES:
                stack.close()
                path = folder / f"{tasks:05d}.jsonl"
                stream = stack.enter_context(open(path, "w", encoding="ascii"))
                tasks, size, count = tasks + 1, 0, 0
            stream.write(json.dumps(file) + "\n")
            size, count, total = size + file.size, count + 1, total + file.size
    return tasks, total, skipped


def read_task(folder: Path, rank: int) -> Iterator[File]:
    """The files of one task."""
    with open(folder / f"{rank:05d}.jsonl", encoding="ascii") as stream:
        for line in stream:
            source, path, size, changed = json.loads(line)
            yield File(source, path, size, tuple(changed))


def _source_files(
    source: Source, excluded: Collection[str], skipped: Counter[str]
) -> Iterator[str]:
    if os.path.lexists(source.path):
        if not os.path.exists(source.path):
            raise UserError(f"{source.key}: {source.path} is a broken link: correct or remove it")
        yield from _walk(source.path, excluded, skipped)
        return
    if not glob.has_magic(source.path):
        raise UserError(
            f"{source.key}: {source.path} does not exist: correct the path or remove it"
        )
    try:
        matches = sorted(set(_matches(source.path, excluded, skipped)))
    except RecursionError as error:
        raise UserError(
            f"{source.key}: the folders that {source.path} may match are nested too deeply: name a "
            "folder instead of a pattern"
        ) from error
    if not matches:
        raise UserError(f"{source.key}: nothing matches {source.path}: correct the pattern")
    folders = {os.path.normpath(path) for path in matches if os.path.isdir(path)}
    for path in matches:
        # A pattern may match a folder and also files in it, which reading the folder finds anyway.
        above = os.path.dirname(os.path.normpath(path))
        while above not in folders and above != os.path.dirname(above):
            above = os.path.dirname(above)
        if above not in folders:
            yield from _walk(path, excluded, skipped)


def _matches(pattern: str, excluded: Collection[str], skipped: Counter[str]) -> Iterator[str]:
    """The paths that match a pattern; follows links to folders only if the pattern names them.

    Python's glob follows all links, and never ends if they loop.
    """
    parts = [part for part in pattern.split("/") if part]
    yield from _matches_below("/" if pattern.startswith("/") else "", parts, excluded, skipped)


def _matches_below(
    folder: str, parts: list[str], excluded: Collection[str], skipped: Counter[str]
) -> Iterator[str]:
    if not parts:
        yield folder or "."
        return
    part, rest = parts[0], parts[1:]
    if not glob.has_magic(part):
        path = os.path.join(folder, part)
        if os.path.lexists(path):
            yield from _matches_below(path, rest, excluded, skipped)
        return
    if part == "**":
        yield from _matches_below(folder, rest, excluded, skipped)
        if not rest:
            return  # the folder includes everything in it
    if not os.path.isdir(folder or "."):
        return
    for entry in _entries(folder or ".", excluded, skipped):
        hidden = entry.name.startswith(".") and not part.startswith(".")
        matches = part == "**" or fnmatch.fnmatchcase(entry.name, part)
        if hidden or not matches or (rest and not os.path.isdir(entry.path)):
            continue
        path = os.path.join(folder, entry.name)
        if entry.is_symlink() and os.path.isdir(path):
            skipped["link to a folder"] += 1
        else:
            yield from _matches_below(path, parts if part == "**" else rest, excluded, skipped)


def _walk(path: str, excluded: Collection[str], skipped: Counter[str]) -> Iterator[str]:
    """The files at or below a path, sorted; links to folders may loop, so they are skipped."""
    if not os.path.isdir(path):
        yield path
        return
    above = [_entries(path, excluded, skipped)]
    while above:
        entry = next(above[-1], None)
        if entry is None:
            above.pop()
        elif entry.name.startswith(".") or entry.name == "__pycache__":
            skipped["hidden"] += 1
        elif entry.is_symlink() and os.path.isdir(entry.path):
            skipped["link to a folder"] += 1
        elif entry.is_dir(follow_symlinks=False):
            above.append(_entries(entry.path, excluded, skipped))
        else:
            yield entry.path


def _entries(
    folder: str, excluded: Collection[str], skipped: Counter[str]
) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder, sorted by name; none if it is excluded or cannot be read."""
    if excluded and os.path.realpath(folder) in excluded:
        return iter(())
    try:
        return iter(sorted(os.scandir(folder), key=lambda entry: entry.name))
    except OSError:
        skipped["unreadable folder"] += 1
        return iter(())
