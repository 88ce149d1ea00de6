"""Runs all steps of a preparation in order."""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from train.data.tokenizer import Tokenizer
from train.data.tokenizer_files import read_tokenizer
from train.preparation import assemble, duplicates, encode, leaks, listing, reading, shards, splits
from train.preparation.account import Account
from train.preparation.engine import Engine
from train.preparation.train_tokenizer import train_tokenizer
from train.settings.prepare_config import PrepareConfig
from train.system.errors import UserError

TOKENIZER_BYTES = 100_000_000
"""The most text to train the tokenizer on: more would change little and take memory."""


def run(
    prepare: PrepareConfig,
    vocab_size: int,
    exclude: tuple[str | Path, ...],
    folder: Path,
    data_dir: Path,
    console: Console,
) -> tuple[Account, assemble.Assembled]:
    """Runs all steps that are not yet done.

    Args:
        prepare: the settings.
        vocab_size: the number of tokens of the tokenizer.
        exclude: folders that are not read.
        folder: where the steps keep their results.
        data_dir: receives tokenizer and token files.
        console: where progress is shown.

    Returns:
        The account of all documents, and the sizes of the token files.

    Raises:
        UserError: the sources or the settings are wrong, or a task failed.
    """
    tokenizer = _given_tokenizer(prepare, vocab_size)
    engine = Engine(prepare.engine, folder, console)
    sources = listing.sources(prepare)
    if not sources:
        raise UserError(
            "prepare lists no file or folder: set prepare.text, prepare.code or prepare.detect, "
            "or prepare.python_library: true"
        )
    account = Account(sources)
    tasks, size = _list_files(prepare, exclude, folder, account)
    engine.run("read", tasks, [reading.Read(folder, prepare, sources)], size)
    written = reading.add_accounts(folder, "read", tasks, account)
    _check_documents(account)
    _check_answers(prepare, reading.roles_read(folder, tasks))

    count = len(shards.names(folder))
    exact = duplicates.FindExact(folder)
    engine.run("duplicates", duplicates.hash_ranges(folder), [exact])
    signatures = [duplicates.ReadShard(folder), duplicates.Signatures(folder)]
    engine.run("signatures", count, signatures, written)
    engine.run("pairs", duplicates.BANDS, [duplicates.Buckets(folder)])
    engine.run("near-duplicates", 1, [duplicates.Cluster(folder)])
    engine.run("survey", count, [reading.Survey(folder, sources, prepare.seed)], written)
    histogram, remaining = reading.add_surveys(folder, account)
    shares = prepare.validation_fraction, prepare.test_fraction
    try:
        borders = splits.choose_borders(histogram, *shares)
    except UserError as error:
        raise UserError(f"{error}{_reasons(account.total.rejected)}") from error

    path = data_dir / "tokenizer.json"
    if tokenizer is not None:
        tokenizer.save(path)
    else:
        wanted = path, vocab_size, folder, borders, prepare.seed, TOKENIZER_BYTES / remaining
        engine.call("tokenizer", train_tokenizer, *wanted)
        tokenizer = Tokenizer.load(path)
    encoding = encode.Encode(folder, borders, prepare.seed, path)
    engine.run("encode", count, [encoding], remaining)
    engine.run("leaks", count, [leaks.FindShared(folder)])
    with _timed(console, "token files"):
        assembled = assemble.assemble(
            folder, data_dir, tokenizer, account, masked=prepare.answers_only
        )
    for domain, numbers in assembled.counts.items():
        for split, found in numbers.items():
            if not found.documents:
                raise UserError(
                    f"{domain}: nothing is left of the {split} documents without what training "
                    "has too: add documents that differ more"
                )
    return account, assembled


def identity(prepare: PrepareConfig, vocab_size: int, inputs: str, versions: object) -> str:
    """A hash of everything that a preparation depends on.

    Args:
        prepare: the settings.
        vocab_size: tokens of the tokenizer.
        inputs: the digest of the files, see `listing.digest`.
        versions: of the packages.
    """
    content = json.dumps([prepare.choices(), vocab_size, inputs, versions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _given_tokenizer(prepare: PrepareConfig, vocab_size: int) -> Tokenizer | None:
    """The tokenizer that the settings name; None where one is to be trained."""
    if prepare.tokenizer is None:
        return None
    try:
        return read_tokenizer(
            prepare.tokenizer,
            vocab_size,
            end_of_text=prepare.end_of_text,
            pattern=prepare.tiktoken_pattern,
        )
    except UserError as error:
        raise UserError(f"prepare.tokenizer: {error}") from error


@contextlib.contextmanager
def _timed(console: Console, name: str) -> Iterator[None]:
    """A step in this process: shows its name while it runs, and prints its time at the end."""
    began = time.monotonic()
    with console.status(name):
        yield
    console.print(f"{name}: {time.monotonic() - began:.1f} s")


def _list_files(
    prepare: PrepareConfig, exclude: tuple[str | Path, ...], folder: Path, account: Account
) -> tuple[int, int]:
    """The number of tasks of files, and their bytes; listed once for an interrupted preparation."""
    record = folder / "tasks.json"
    if not record.exists():
        with shards.writing(record) as stream:
            listed = listing.write_tasks(folder / "tasks", account.sources, exclude)
            stream.write(json.dumps(listed).encode())
    tasks, size, skipped = json.loads(record.read_text(encoding="utf-8"))
    for part, counts in zip(account.parts, skipped, strict=True):
        part.skipped.update(counts)
    return tasks, size


def _check_documents(account: Account) -> None:
    """Raises a UserError if a source or a domain has no documents."""
    for source, part in zip(account.sources, account.parts, strict=True):
        if not part.documents.total():
            raise UserError(
                f"{source.key}: no usable document in {source.path}{_reasons(part.rejected)}"
            )
    for domain in ("text", "code"):
        if not account.total.documents[domain]:
            raise UserError(
                f"no document is {domain}: list some in prepare.{domain} or prepare.detect"
            )


def _check_answers(prepare: PrepareConfig, roles: set[str]) -> None:
    """Raises a UserError if nothing would be learned of any chat; `roles` are those of messages."""
    if prepare.answers_only and roles and roles.isdisjoint(prepare.answer_roles):
        raise UserError(
            f"no message has a role of prepare.answer_roles: [{', '.join(prepare.answer_roles)}]; "
            f"the roles are {', '.join(sorted(roles)[:20])}: name there those that answer"
        )


def _reasons(rejected: dict[str, int]) -> str:
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    return f" (rejected: {listed})" if listed else ""
