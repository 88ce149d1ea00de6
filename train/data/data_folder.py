"""The prepared data folder: token files, and a manifest with the hash of every file.

tokenizer.json
account.json                 what happened to every document, see preparation/account.py
manifest.json
{text,code,mixed}/{train,validation,test}/...       see token_files.py
"""

import contextlib
import dataclasses
import json
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from bridge import (
    MANIFEST,
    changed_file,
    describe_files,
    in_words,
    naming,
    replace_folder,
    restore_folder,
)
from train.data.token_files import TOKENS, SplitCounts, check_ids
from train.system.errors import TasksFailedError, UserError
from train.system.lock import locked

TOKENIZER = "tokenizer.json"
ACCOUNT = "account.json"
_PACKAGES = ("datatrove", "magika", "numpy", "pyarrow", "tokenizers", "zstandard")
_FORMAT = "mmrec-jax prepared data"
_VERSION = 3  # 1 had no test split, 2 no account of every document


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared data folder holds and what it was made from.

    Attributes:
        vocab_size: the number of tokens of the tokenizer.
        prepare: the settings that the data depend on.
        inputs: changes when a file that was read changes, see `preparation.listing.digest`.
        counts: the sizes by domain and split, see `token_files`.
        cut: the number of held-out documents that lost passages because training has them too.
        files: for each file, its path in the folder, its size in bytes and its SHA-256.
        versions: of Python and of the packages that the data depend on.
    """

    vocab_size: int
    prepare: dict[str, Any]
    inputs: str
    counts: dict[str, dict[str, SplitCounts]]
    cut: int
    files: dict[str, dict[str, Any]]
    versions: dict[str, str]


def write_manifest(
    data_dir: Path,
    *,
    vocab_size: int,
    prepare: dict[str, Any],
    inputs: str,
    counts: dict[str, dict[str, SplitCounts]],
    cut: int,
) -> None:
    """Writes manifest.json, after all other files; the arguments are those of `Manifest`."""
    files = describe_files(data_dir)
    described = Manifest(vocab_size, prepare, inputs, counts, cut, files, package_versions())
    content = {"format": _FORMAT, "version": _VERSION, **vars(described)}
    text = json.dumps(content, indent=2, default=dataclasses.asdict)
    (data_dir / MANIFEST).write_text(text + "\n", encoding="utf-8")


def load_manifest(data_dir: str | Path) -> Manifest:
    """The manifest of a prepared data folder, after a check of every file.

    Raises:
        UserError: there is no manifest, it is not one of ours, a file is missing or changed, or a
            token is not of the vocabulary.
    """
    data_dir = Path(data_dir)
    described = _read_manifest(data_dir)
    try:
        changed = changed_file(data_dir, described.files)
    except OSError as error:
        name = Path(error.filename).relative_to(data_dir)
        raise UserError(
            f"data_dir {data_dir}: cannot read {name}: {error.strerror}; "
            "run python -m train.prepare again"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{data_dir / MANIFEST} is not a manifest of train.prepare ({error}): prepare into "
            "another data_dir"
        ) from error
    if changed:
        raise UserError(
            f"data_dir {data_dir}: {changed} is not the file that the manifest describes; "
            "run python -m train.prepare again"
        )
    for path in described.files:
        if path.endswith(f"/{TOKENS}"):
            check_ids(data_dir / path, described.vocab_size)
    return described


def package_versions() -> dict[str, str]:
    """The versions that the data depend on: of Python and of packages."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return found | {"python": platform.python_version()}


def _remove(folder: Path) -> None:
    """Removes a folder of a preparation.

    It loses its name first: where removing it is interrupted, nobody continues in what is left.
    """
    removed = folder.with_name("removed")
    shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


@contextlib.contextmanager
def working_folder(data_dir: Path, identity: str, *, dry_run: bool) -> Iterator[Path]:
    """The folder beside data_dir that a preparation works in.

    An interrupted preparation leaves its folder behind. The next one continues in it if inputs and
    settings are the same, and removes it otherwise. When the block ends, the folder is removed too,
    unless the block was interrupted, a task failed or a disk was full, so that another try can
    continue.

    Args:
        data_dir: the folder to be made.
        identity: a name for the inputs and settings.
        dry_run: use a folder of its own, and always remove it.

    Raises:
        UserError: the folder cannot be written, or another process works in it.
    """
    kind = "prepare-dry-run" if dry_run else "prepare-partial"
    above = data_dir.with_name(f".{data_dir.name}.{kind}")
    in_use = (
        f"data_dir {data_dir}: another train.prepare is at work on it: wait for it, or choose "
        "another data_dir"
    )
    keep = begun = False
    try:
        with locked(above / ".lock", in_use):
            try:
                restore_folder(data_dir)
                # A task of another, killed preparation may still be writing into its own folder.
                for folder in above.glob("*"):
                    if folder.name != identity and folder.is_dir():
                        _remove(folder)
                (above / identity).mkdir(exist_ok=True)
                begun = True
                with naming(above / identity):
                    yield above / identity
            except (KeyboardInterrupt, OSError, TasksFailedError):
                keep = not dry_run
                raise
            finally:
                if not keep:
                    _remove(above / identity)
                    shutil.rmtree(above, ignore_errors=True)
    except OSError as error:
        if begun:
            more = "; when that is mended, the same command continues" if keep else ""
            raise UserError(f"{in_words(error)}{more}") from error
        raise UserError(
            f"cannot write data_dir {data_dir}: {error.strerror or error}: choose another data_dir"
        ) from error


def replace_data(data_dir: Path, finished: Path) -> None:
    """Replaces data_dir by a finished folder; the old data stay complete until then.

    Raises:
        UserError: data_dir must not be replaced.
        OSError: it cannot be replaced.
    """
    check_replaceable(data_dir)
    replace_folder(finished, data_dir)


def check_replaceable(data_dir: Path) -> None:
    """Checks that a data folder may be replaced, because it has nothing but prepared data.

    Raises:
        UserError: it is a file, or it has files that `train.prepare` did not write.
    """
    if data_dir.is_dir():
        files = {p.relative_to(data_dir).as_posix() for p in data_dir.rglob("*") if not p.is_dir()}
        if MANIFEST in files:
            files -= {MANIFEST, *_listed_files(data_dir)}
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
    """The files that a manifest lists, even one of an older version."""
    with _reading_manifest(data_dir) as (_, content):
        return set(content["files"])


@contextlib.contextmanager
def _reading_manifest(data_dir: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A manifest's version and content; errors about it in the block become UserErrors."""
    path = data_dir / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("it is another program's")
        number = content.pop("version")
        if not 1 <= number <= _VERSION:
            raise ValueError(f"it has version {number}, this program reads version {_VERSION}")
        yield number, content
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"has no {MANIFEST}" if data_dir.exists() else "does not exist"
        raise UserError(
            f"data_dir {data_dir} {missing}: correct it, or prepare the data first: python -m "
            "train.prepare --config ..."
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a manifest of train.prepare ({error}): prepare into another data_dir"
        ) from error
