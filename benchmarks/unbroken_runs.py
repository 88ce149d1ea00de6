"""`python -m benchmarks.unbroken_runs`: preparing documents of one run, beside preparing prose.

Documents of a megabyte of blanks, of letters, of a genome's bases or of Chinese characters, without
a break between them, are prepared as as many documents of prose are. Prints the time of each, and
how many times the prose's it is.
"""

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.preparation import documents

FOLDER = Path("data/unbroken-runs")
CODE_DOCUMENTS = 9
CHINESE = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]

_random = random.Random(0)

RUNS: dict[str, Callable[[int], str]] = {
    "blanks": lambda size: " " * size,
    "newlines": lambda size: "\n" * size,
    "dashes": lambda size: "-" * size,
    "one letter": lambda size: "a" * size,
    "letters": lambda size: "".join(_random.choices("abcdefghijklmnopqrstuvwxyz", k=size)),
    "ACGT": lambda size: "".join(_random.choices("ACGT", k=size)),
    "Chinese": lambda size: "".join(_random.choices(CHINESE, k=size // 3)),
}
"""For each kind, a run of so many bytes."""


def prose(size: int, count: int) -> list[str]:
    """So many documents of this size, of pseudo-words."""
    text = "".join(text for name, text in documents(3 * size * count, 5) if name.endswith(".txt"))
    return [text[start : start + size] for start in range(0, size * count, size)]


def prepare(name: str, texts: list[str], code: list[str]) -> float:
    """Seconds that preparing these documents takes."""
    folder = FOLDER / name.replace(" ", "-")
    for domain, contents in (("text", texts), ("code", code)):
        (folder / domain).mkdir(parents=True)
        for index, content in enumerate(contents):
            (folder / domain / f"{index}.txt").write_text(content, encoding="utf-8")
    config = folder / "config.yaml"
    config.write_text(
        f"data_dir: {folder / 'data'}\nrun_dir: {folder / 'runs'}\nmodel: {{vocab_size: 4096}}\n"
        # As text they are kept whatever they are; the labels cost their time too.
        f"prepare:\n  text: [{folder / 'text'}]\n  detect: [{folder / 'text'}]\n"
        f"  code: [{folder / 'code'}]\n",
        encoding="utf-8",
    )
    began = time.monotonic()
    command = [sys.executable, "-m", "train.prepare", "--config", str(config), "--dry-run"]
    with open(folder / "log", "wb") as log:
        subprocess.run(command, check=True, stdout=log)
    return time.monotonic() - began


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bytes", type=int, default=990_000, help="of each document")
    parser.add_argument("--documents", type=int, default=9, help="of each kind")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    code = [text for name, text in documents(400_000, 6) if name.endswith(".py")][:CODE_DOCUMENTS]
    whole = prose(options.bytes, options.documents)
    base = prepare("prose", whole, code)
    print(f"prose: {base:.1f} s")
    for name, run in RUNS.items():
        # Around the run stand words of their own, so that the documents are no duplicates.
        texts = [f"{text[:1000]}\n{run(options.bytes - 2000)}{text[-900:]}" for text in whole]
        seconds = prepare(name, texts, code)
        print(f"{name}: {seconds:.1f} s, {seconds / base:.2f} times prose", flush=True)


if __name__ == "__main__":
    main()
