"""Prepares a data folder: runs all steps, prints what happened to the documents, writes the folder.

The steps work in a hidden folder beside data_dir. Their result replaces data_dir when all of it is
complete. After an interruption the same command continues.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from train.data import data_folder
from train.data.tokenizer import check_vocabulary
from train.preparation import listing, run_steps
from train.preparation.account import Account
from train.preparation.summary import print_summary
from train.settings.config import Config
from train.system.terminal import console


def prepare(config: Config, *, strict: bool = False, dry_run: bool = False) -> None:
    """Prepares `config.data_dir`.

    Args:
        config: `prepare`, `model.vocab_size`, `data_dir` and `run_dir` are used.
        strict: write nothing and exit with 1 if any document is rejected.
        dry_run: do all the work, print the tables and write nothing.

    Raises:
        UserError: the config or the sources are wrong, or a task failed.
        SystemExit: a document is rejected, and `strict` is set.
        KeyboardInterrupt: interrupted; the same command continues.
    """
    settings, vocab_size = config.prepare, config.model.vocab_size
    check_vocabulary(vocab_size)
    data_dir = Path(os.path.realpath(config.data_dir))
    data_folder.check_replaceable(data_dir)
    exclude = data_dir, config.run_dir
    # Before the files are read, so that the next comparison finds a change in the meantime.
    inputs = listing.digest(settings, exclude)
    identity = run_steps.identity(settings, vocab_size, inputs, data_folder.package_versions())
    try:
        with data_folder.working_folder(data_dir, identity, dry_run=dry_run) as folder:
            finished = folder / "finished"
            shutil.rmtree(finished, ignore_errors=True)
            finished.mkdir()
            account, assembled = run_steps.run(
                settings, vocab_size, exclude, folder, finished, console
            )
            print_summary(console, account, assembled)
            rejected = account.total.rejected.total()
            if strict and rejected:
                print(
                    f"error: {rejected:,} documents were rejected, so nothing is written: leave "
                    "them out of the sources, or give no --strict",
                    file=sys.stderr,
                )
                sys.exit(1)
            if dry_run:
                console.print("nothing is written (--dry-run)")
                return
            _write_account(finished / data_folder.ACCOUNT, account)
            data_folder.write_manifest(
                finished,
                vocab_size=vocab_size,
                prepare=settings.choices(),
                inputs=inputs,
                counts=assembled.counts,
                cut=assembled.cut,
            )
            data_folder.replace_data(data_dir, finished)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "and nothing is lost: run the same command again to continue"
        ) from None
    console.print(f"written to {config.data_dir}")


def _write_account(path: Path, account: Account) -> None:
    parts = zip(account.sources, account.to_json(), strict=True)
    content = {
        "total": vars(account.total),
        "sources": [{"key": source.key, "path": source.path} | part for source, part in parts],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
