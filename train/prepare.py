"""`python -m train.prepare --config C`: from text and code to a tokenizer and token files.

All is written into a hidden folder beside data_dir, which takes data_dir's place when complete.
Documents lie in a seeded random order, so that the beginning of a split is a fair sample of it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, TransferSpeedColumn
from rich.table import Table

from train import cli, corpus, tokens
from train.config import Config
from train.tokenizer import Tokenizer


def prepare(config: Config) -> None:
    """Prepares `config.data_dir`; raises UserError where the config or the sources are at fault."""
    data_dir = Path(os.path.realpath(config.data_dir))
    tokens.check_replaceable(data_dir)
    # Before they are read: what changes meanwhile is found at the next comparison.
    inputs = corpus.inputs_digest(config.prepare, (data_dir, config.run_dir))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    columns = (*Progress.get_default_columns(), TransferSpeedColumn())
    disable = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        documents, sources = _read(config, data_dir, progress)
        fractions = config.prepare.validation_fraction, config.prepare.test_fraction
        sides = corpus.split_groups(documents, *fractions, config.prepare.seed)
        task = progress.add_task("training the tokenizer", total=None)
        train_texts = [d.text for d in documents if sides[d.group] == "train"]
        tokenizer = Tokenizer.train(train_texts, config.model.vocab_size)
        progress.remove_task(task)
        console.print(f"trained a tokenizer of {tokenizer.vocab_size:,} tokens")
        encoded = _encode(tokenizer, documents, sides, progress)

    with tokens.replacing(data_dir) as folder:
        tokenizer.save(folder / tokens.TOKENIZER)
        counts = tokens.write_splits(folder, encoded)
        tokens.write_manifest(
            folder,
            vocab_size=tokenizer.vocab_size,
            prepare=vars(config.prepare),
            inputs=inputs,
            sources=[vars(source) for source in sources],
            counts=counts,
        )

    table = Table("domain", "split", "documents", "bytes", "tokens", "bytes/token")
    for column in table.columns[2:]:
        column.justify = "right"
    for domain, splits in counts.items():
        for name, n in splits.items():
            numbers = f"{n.documents:,}", f"{n.bytes:,}", f"{n.tokens:,}"
            table.add_row(domain, name, *numbers, f"{n.bytes / n.tokens:.2f}")
    console.print(table)
    for source in sources:
        skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(source.skipped.items()))
        total = sum(source.documents.values())
        console.print(f"{source.key} {source.path}: {total:,} documents; skipped {skipped or 0}")
    console.print(f"written to {config.data_dir}")


def _read(
    config: Config, data_dir: Path, progress: Progress
) -> tuple[list[corpus.Document], list[corpus.SourceCounts]]:
    task = progress.add_task("reading", total=None)
    documents: list[corpus.Document] = []
    sources: list[corpus.SourceCounts] = []
    for document in corpus.read_documents(config.prepare, sources, (data_dir, config.run_dir)):
        documents.append(document)
        progress.update(task, advance=document.size, description=f"reading {len(documents):,}")
    progress.remove_task(task)
    size = sum(document.size for document in documents)
    progress.console.print(f"read {len(documents):,} documents, {size / 1e6:.1f} MB")
    documents.sort(key=lambda d: corpus.shuffle_key(config.prepare.seed, f"{d.domain}/{d.source}"))
    return documents, sources


def _encode(
    tokenizer: Tokenizer,
    documents: list[corpus.Document],
    sides: Mapping[str, corpus.Split],
    progress: Progress,
) -> list[tokens.EncodedDocument]:
    dtype = tokens.token_dtype(tokenizer.vocab_size)
    task = progress.add_task("encoding", total=sum(document.size for document in documents))
    encoded = []
    for start in range(0, len(documents), 64):  # enough for all cores, few enough for the bar
        batch = documents[start : start + 64]
        for d, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
            array = np.array([*ids, tokenizer.end_of_text], dtype)
            encoded.append(tokens.EncodedDocument(d.domain, sides[d.group], d.size, array))
            progress.advance(task, d.size)
    return encoded


if __name__ == "__main__":
    cli.run(prepare, "Makes a tokenizer and token files from text and code.")
