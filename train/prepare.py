"""`python -m train.prepare --config C`: from files to a tokenizer, token files and an account.

The stages are in train/preparation/stages.py. They work in a hidden folder beside data_dir, and
what they made takes data_dir's place when all is complete; an interrupted preparation goes on.
"""

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import jsonargparse
from rich.console import Console
from rich.table import Table

from train.data import folder as tokens
from train.preparation import listing
from train.preparation import steps as stages
from train.preparation.account import Account
from train.preparation.encoding import Assembled
from train.settings import cli
from train.settings.config import Config


def prepare(config: Config, *, strict: bool = False, dry_run: bool = False) -> None:
    """Prepares `config.data_dir`.

    Args:
        config: its `prepare` section, `model.vocab_size`, `data_dir` and `run_dir`.
        strict: leave data_dir alone and exit with 1 where a document is rejected.
        dry_run: do all the work, show the account, and write nothing.

    Raises:
        UserError: the config or the sources are at fault, or a task failed.
        SystemExit: a document is rejected, and `strict` is set.
        KeyboardInterrupt: interrupted; the same command goes on.
    """
    settings, vocab_size = config.prepare, config.model.vocab_size
    data_dir = Path(os.path.realpath(config.data_dir))
    tokens.check_replaceable(data_dir)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    exclude = data_dir, config.run_dir
    # Before they are read: what changes meanwhile is found at the next comparison.
    inputs = listing.digest(settings, exclude)
    identity = stages.identity(settings, vocab_size, inputs, tokens.versions())
    try:
        with tokens.unfinished(data_dir, identity, dry_run=dry_run) as folder:
            finished = folder / "finished"
            shutil.rmtree(finished, ignore_errors=True)
            finished.mkdir()
            made = stages.run(settings, vocab_size, exclude, folder, finished, console)
            _show(console, made.account, made.assembled)
            rejected = made.account.total.rejected.total()
            if strict and rejected:
                print(f"error: {rejected:,} documents were rejected", file=sys.stderr)
                sys.exit(1)
            if dry_run:
                console.print("nothing is written (--dry-run)")
                return
            _write_account(finished / tokens.ACCOUNT, made.account)
            tokens.write_manifest(
                finished,
                vocab_size=vocab_size,
                prepare=settings.choices(),
                inputs=inputs,
                counts=made.assembled.counts,
                cut=made.assembled.cut,
            )
            tokens.replace(data_dir, finished)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("and nothing is lost: the same command goes on") from None
    console.print(f"written to {config.data_dir}")


def _write_account(path: Path, account: Account) -> None:
    listed = zip(account.sources, account.to_json(), strict=True)
    content = {
        "total": vars(account.total),
        "sources": [{"key": source.key, "path": source.path} | part for source, part in listed],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _show(console: Console, account: Account, assembled: Assembled) -> None:
    """Prints the account by source, examples of each reason, and the sizes of the splits."""
    table = _table("source", "documents", "text", "code", "data (dropped)", "rejected")
    for source, part in [*zip(account.sources, account.parts, strict=True), (None, account.total)]:
        name = f"{source.key} {source.path}" if source else "all"
        numbers = part.total, *(part.documents[label] for label in ("text", "code", "data"))
        table.add_row(name, *(f"{n:,}" for n in (*numbers, part.rejected.total())))
    console.print(table)
    total = account.total
    for reason, count in sorted(total.rejected.items()):
        examples = total.examples[reason]
        more = ", ..." if count > len(examples) else ""
        console.print(f"{count:,} rejected, {reason}: {', '.join(examples)}{more}")
    if total.skipped:
        console.print(f"not documents, skipped: {_counts(total.skipped)}")

    table = _table("domain", "split", "documents", "bytes", "tokens", "bytes/token")
    for domain, splits in assembled.counts.items():
        for split, n in splits.items():
            numbers = n.documents, n.bytes, n.tokens
            rate = f"{n.bytes / n.tokens:.2f}"
            table.add_row(domain, split, *(f"{number:,}" for number in numbers), rate)
    console.print(table)
    if assembled.cut:
        console.print(
            f"passages that training has too were cut from {assembled.cut:,} held-out documents; "
            "each piece that is left of one counts as a document of its split"
        )


def _table(*columns: str) -> Table:
    table = Table(*columns)
    for column in table.columns:
        if column.header not in ("source", "domain", "split"):
            column.justify = "right"
    return table


def _counts(numbers: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(numbers.items()))


def _add_flags(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where a document is rejected"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the account and write nothing")


if __name__ == "__main__":
    cli.run(prepare, "Makes a tokenizer and token files from text and code.", _add_flags)
