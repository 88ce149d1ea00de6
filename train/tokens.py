"""The prepared data folder: token files and the manifest that vouches for them.

    tokenizer.json
    manifest.json
    {text,code,mixed}/{train,validation,test}/tokens.npy    uint16; uint32 for large vocabularies
    {text,code,mixed}/{train,validation,test}/ends.npy      int64: each document's end, exclusive

Recipes are chosen on validation, and what the chosen one reaches is reported on test.
Documents lie one after the other, each ended by END_OF_TEXT.
"""

import contextlib
import dataclasses
import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bridge import manifest
from train.errors import UserError

TOKENIZER = "tokenizer.json"
DOMAINS = ("text", "code", "mixed")
SPLITS = ("train", "validation", "test")
_FORMAT = "mmrec-jax prepared data"
_VERSION = 2  # 1 had no test split


class EncodedDocument(NamedTuple):
    """One document: its domain, its split, its text's bytes, and its token ids."""

    domain: str
    split: str
    bytes: int
    ids: npt.NDArray[Any]  # END_OF_TEXT included, in token_dtype


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """The size of one split of one domain; tokens include END_OF_TEXT, bytes are UTF-8."""

    documents: int
    bytes: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared data folder holds and what it was made from.

    Attributes:
        vocab_size: tokens of the tokenizer.
        prepare: the section of the config that they were made with.
        inputs: tells the files that they were made of apart from changed ones, see
            `corpus.inputs_digest`.
        sources: documents and skipped ones of each source, see `corpus.SourceCounts`.
        counts: the sizes by domain ("text", "code", "mixed") and split, see `SPLITS`.
        files: for each file, its path in the folder, its size in bytes and its SHA-256.
        versions: of Python and of the packages that the data depend on.
    """

    vocab_size: int
    prepare: dict[str, Any]
    inputs: str
    sources: list[dict[str, Any]]
    counts: dict[str, dict[str, SplitCounts]]
    files: dict[str, dict[str, Any]]
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class TokenFile:
    """The documents of one split, memory-mapped.

    Attributes:
        tokens: [N] uint16 or uint32.
        ends: [number of documents] int64, rising; the last is N.
    """

    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    ends: npt.NDArray[np.int64]


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The type that token ids are stored in."""
    return np.uint16 if vocab_size <= 65535 else np.uint32


def write_splits(
    data_dir: Path, documents: Sequence[EncodedDocument]
) -> dict[str, dict[str, SplitCounts]]:
    """Writes the token files of every domain and split, "mixed" being all documents.

    Args:
        data_dir: the folders are created in it.
        documents: in the order in which they are written; each split of each domain has some.

    Returns:
        The sizes by domain and split.
    """
    counts: dict[str, dict[str, SplitCounts]] = {}
    for domain in DOMAINS:
        counts[domain] = {}
        for split in SPLITS:
            chosen = [d for d in documents if domain in (d.domain, "mixed") and d.split == split]
            ends = np.cumsum([len(document.ids) for document in chosen], dtype=np.int64)
            folder = data_dir / domain / split
            folder.mkdir(parents=True)
            np.save(folder / "tokens.npy", np.concatenate([document.ids for document in chosen]))
            np.save(folder / "ends.npy", ends)
            counts[domain][split] = SplitCounts(
                documents=len(chosen), bytes=sum(d.bytes for d in chosen), tokens=int(ends[-1])
            )
    return counts


def read_tokens(data_dir: str | Path, domain: str, split: str) -> TokenFile:
    """Opens the token files of a split.

    Args:
        data_dir: a folder that `train.prepare` wrote.
        domain: "text", "code" or "mixed".
        split: "train", "validation" or "test".

    Raises:
        UserError: a file is missing, unreadable, or does not fit the other.
    """
    folder = Path(data_dir) / domain / split
    arrays = []
    for name in ("tokens.npy", "ends.npy"):
        try:
            arrays.append(np.load(folder / name, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"cannot read {folder / name}: {error}") from error
    tokens, ends = arrays
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
        raise UserError(f"{folder / 'tokens.npy'} does not hold a list of token ids")
    if ends.ndim != 1 or ends.dtype != np.int64 or not len(ends):
        raise UserError(f"{folder / 'ends.npy'} does not hold a list of document ends")
    if ends[0] < 1 or np.any(np.diff(ends) < 1) or ends[-1] != len(tokens):
        raise UserError(f"the document ends in {folder} do not fit its {len(tokens)} tokens")
    return TokenFile(tokens, ends)


def write_manifest(
    data_dir: Path,
    *,
    vocab_size: int,
    prepare: dict[str, Any],
    inputs: str,
    sources: list[dict[str, Any]],
    counts: dict[str, dict[str, SplitCounts]],
) -> None:
    """Writes manifest.json, after all other files; the arguments are those of `Manifest`."""
    files = manifest.describe(data_dir)
    versions = {name: version(name) for name in ("numpy", "tokenizers")}
    versions["python"] = platform.python_version()
    described = Manifest(vocab_size, prepare, inputs, sources, counts, files, versions)
    content = {"format": _FORMAT, "version": _VERSION, **vars(described)}
    text = json.dumps(content, indent=2, default=dataclasses.asdict)
    (data_dir / manifest.NAME).write_text(text + "\n", encoding="utf-8")


def load_manifest(data_dir: str | Path) -> Manifest:
    """The manifest of a prepared data folder, after checking every file against it.

    Raises:
        UserError: there is no manifest, it is not one of ours, or a file is missing or changed.
    """
    data_dir = Path(data_dir)
    described = _read_manifest(data_dir)
    try:
        changed = manifest.changed(data_dir, described.files)
    except OSError as error:
        name = Path(error.filename).relative_to(data_dir)
        raise UserError(
            f"data_dir {data_dir}: cannot read {name}: {error.strerror}; "
            "run python -m train.prepare again"
        ) from error
    if changed:
        raise UserError(
            f"data_dir {data_dir}: {changed} is not the file that the manifest describes; "
            "run python -m train.prepare again"
        )
    return described


@contextlib.contextmanager
def replacing(data_dir: Path) -> Iterator[Path]:
    """A folder to write into, which takes data_dir's place when the block ends well.

    The old data stay whole until then. What a killed run left over is removed.

    Raises:
        UserError: the folder cannot be written, or data_dir may not be replaced.
    """
    partial = data_dir.with_name(f".{data_dir.name}.partial")
    old = data_dir.with_name(f".{data_dir.name}.old")
    try:
        for folder in (partial, old):
            if folder.exists():
                shutil.rmtree(folder)
        partial.mkdir(parents=True)
        yield partial
        check_replaceable(data_dir)
        if data_dir.exists():
            data_dir.rename(old)
        partial.rename(data_dir)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write data_dir {data_dir}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(data_dir: Path) -> None:
    """Makes sure that a data folder may be replaced: that it holds nothing but prepared data.

    Raises:
        UserError: it is a file, or it has files that `train.prepare` did not write.
    """
    if data_dir.is_dir():
        files = {p.relative_to(data_dir).as_posix() for p in data_dir.rglob("*") if not p.is_dir()}
        if manifest.NAME in files:
            files -= {manifest.NAME, *_listed_files(data_dir)}
        if files:
            raise UserError(
                f"data_dir {data_dir} has files that are no prepared data, such as "
                f"{min(files)}, and is not replaced: choose another folder or move them"
            )
    elif data_dir.exists():
        raise UserError(f"data_dir {data_dir} is not a folder: choose another path")


def _read_manifest(data_dir: Path) -> Manifest:
    with _reading_manifest(data_dir) as (number, content):
        if number < _VERSION:
            raise UserError(
                f"data_dir {data_dir} has version {number}, this program reads version {_VERSION}: "
                "run python -m train.prepare again"
            )
        described = Manifest(**content)
        counts = {
            domain: {split: SplitCounts(**sizes) for split, sizes in splits.items()}
            for domain, splits in content["counts"].items()
        }
        for expected in described.files.values():
            int(expected["bytes"]), str(expected["sha256"])
    return dataclasses.replace(described, counts=counts)


def _listed_files(data_dir: Path) -> set[str]:
    """The files that a manifest lists, one of an older version too."""
    with _reading_manifest(data_dir) as (_, content):
        return set(content["files"])


@contextlib.contextmanager
def _reading_manifest(data_dir: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A manifest's version and content; what the block finds wrong with it is a UserError."""
    path = data_dir / manifest.NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("it is another program's")
        number = content.pop("version")
        if not 1 <= number <= _VERSION:
            raise ValueError(f"it has version {number}, this program reads version {_VERSION}")
        yield number, content
    except FileNotFoundError as error:
        raise UserError(
            f"data_dir {data_dir} has no {manifest.NAME}: run python -m train.prepare --config FILE"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a manifest of train.prepare ({error}): prepare into another data_dir"
        ) from error
