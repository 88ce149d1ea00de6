"""What a preparation prints at its end: tables of documents, rejections and splits."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from train.preparation.account import Account
from train.preparation.assemble import Assembled
from train.system.terminal import print_table


def print_summary(console: Console, account: Account, assembled: Assembled) -> None:
    """Prints the documents by source, the rejected ones by reason, and the sizes of all splits."""
    table = _table("source", "documents", "text", "code", "data (dropped)", "rejected")
    for source, part in [*zip(account.sources, account.parts, strict=True), (None, account.total)]:
        name = f"{source.key} {source.path}" if source else "all"
        numbers = part.total, *(part.documents[label] for label in ("text", "code", "data"))
        table.add_row(name, *(f"{n:,}" for n in (*numbers, part.rejected.total())))
    print_table(table)
    total = account.total
    for reason, count in sorted(total.rejected.items()):
        examples = total.examples[reason]
        more = ", ..." if count > len(examples) else ""
        console.print(f"{count:,} rejected, {reason}: {', '.join(examples)}{more}")
    if total.skipped:
        console.print(f"skipped, because they are not documents: {_counts(total.skipped)}")

    table = _table("domain", "split", "documents", "bytes", "tokens", "bytes/token")
    for domain, splits in assembled.counts.items():
        for split, n in splits.items():
            numbers = n.documents, n.bytes, n.tokens
            rate = f"{n.bytes / n.tokens:.2f}"
            table.add_row(domain, split, *(f"{number:,}" for number in numbers), rate)
    print_table(table)
    if assembled.cut:
        console.print(
            "passages that also occur in training were cut out of "
            f"{assembled.cut:,} validation and test document{'s' if assembled.cut > 1 else ''}; "
            "each piece that is left counts as a document of its split"
        )


def _table(*columns: str) -> Table:
    table = Table(*columns)
    for column in table.columns:
        if column.header not in ("source", "domain", "split"):
            column.justify = "right"
    return table


def _counts(numbers: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(numbers.items()))
