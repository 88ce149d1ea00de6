"""`python -m benchmarks.preparation`: what preparing a gigabyte takes, and whether engines agree.

Makes input in every format from pseudo-words with the frequencies of real words. Prepares it once
with each engine. Prints the throughput of each stage, the peak memory of all processes together,
and whether all engines wrote the same files.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import zstandard

from bridge import describe_files

FOLDER = Path("data/benchmark")
ROWS = 2000  # documents of a Parquet row group

Text = tuple[str, str]  # a suitable name, and the text


def words() -> tuple[list[str], np.ndarray]:
    """50,000 pseudo-words, and how often each occurs (Zipf's law)."""
    generator = np.random.default_rng(0)
    letters = np.array(list("eeeettaaooiinnsshhrrddlluucmfwygpbvkxjqz"))
    lengths = generator.integers(2, 12, 50_000)
    found = ["".join(generator.choice(letters, length)) for length in lengths]
    shares = 1 / np.arange(10, 50_010)
    return found, shares / shares.sum()


def documents(size: int, seed: int) -> Iterator[Text]:
    """Text and code alternating, 2 to 60 KB each, until there are `size` bytes."""
    generator = np.random.default_rng(seed)
    vocabulary, shares = words()
    number = 0
    while size > 0:
        drawn = generator.choice(len(vocabulary), int(generator.integers(300, 9000)), p=shares)
        chosen = [vocabulary[index] for index in drawn]
        lines = [chosen[start : start + 8] for start in range(0, len(chosen), 8)]
        if number % 2:
            name = f"{number}.py"
            body = [
                f"    {line[0]} = {line[1 % len(line)]}({', '.join(line[2:])})" for line in lines
            ]
            text = f"def {chosen[0]}_{number}():\n" + "\n".join(body) + "\n"
        else:
            name = f"{number}.txt"
            body = [" ".join(line).capitalize() + "." for line in lines]
            text = f"Chapter {number}\n\n" + "\n".join(body) + "\n"
        yield name, text
        size -= len(text)
        number += 1


def make_input(folder: Path, size: int) -> None:
    """Writes a quarter each as a tree of files, JSONL.gz, JSONL.zst (text) and Parquet (code)."""
    for name in ("tree", "lines", "text", "code"):
        (folder / name).mkdir(parents=True)
    for index, (name, text) in enumerate(documents(size // 4, 1)):
        path = folder / "tree" / f"{index // 500:03d}" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with gzip.open(
        folder / "lines" / "mixed.jsonl.gz", "wt", compresslevel=1, encoding="utf-8"
    ) as stream:
        for _, text in documents(size // 4, 2):
            stream.write(json.dumps({"content": text}) + "\n")
    with zstandard.open(folder / "text" / "text.jsonl.zst", "wt", encoding="utf-8") as stream:
        for name, text in documents(size // 2, 3):
            if name.endswith(".txt"):
                stream.write(json.dumps({"text": text}) + "\n")
    schema = pyarrow.schema([("text", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(folder / "code" / "code.parquet", schema) as writer:
        code = [text for name, text in documents(size // 2, 4) if name.endswith(".py")]
        for start in range(0, len(code), ROWS):
            writer.write_table(pyarrow.table({"text": code[start : start + ROWS]}, schema))


class PeakMemory:
    """The most resident memory of a process and all its descendants together, in bytes."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Ends the watch."""
        self._ended.set()
        self._thread.join()
        return self.bytes

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(0.1):
            parents, sizes = {}, {}
            for path in Path("/proc").glob("[0-9]*"):
                try:
                    fields = (path / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
                except OSError:
                    continue
                parents[int(path.name)] = int(fields[1])
                sizes[int(path.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            members, found = {pid}, 1
            while found:
                below = {p for p, parent in parents.items() if parent in members} - members
                members |= below
                found = len(below)
            self.bytes = max(self.bytes, sum(sizes.get(member, 0) for member in members))


def prepare(engine: str, workers: int) -> dict[str, dict[str, Any]]:
    """Prepares the input, prints time and memory, and returns the files' hashes."""
    data_dir = FOLDER / engine
    shutil.rmtree(data_dir, ignore_errors=True)
    config = FOLDER / f"{engine}.yaml"
    source = FOLDER / "input"
    config.write_text(
        f"data_dir: {data_dir}\nrun_dir: {FOLDER / 'runs'}\nmodel: {{vocab_size: 32000}}\n"
        f"prepare:\n  detect: [{source / 'tree'}, {source / 'lines'}]\n"
        f"  text: [{source / 'text'}]\n  code: [{source / 'code'}]\n"
        f"  engine: {{kind: {engine}, workers: {workers}}}\n",
        encoding="utf-8",
    )
    began = time.monotonic()
    command = [sys.executable, "-m", "train.prepare", "--config", str(config)]
    process = subprocess.Popen(command)
    memory = PeakMemory(process.pid)
    code = process.wait()
    peak = memory.stop()
    if code:
        sys.exit(f"{engine}: exit code {code}")
    seconds = time.monotonic() - began
    print(f"{engine}: {seconds:.0f} s in all, peak memory of all processes {peak / 1e9:.2f} GB")
    return describe_files(data_dir)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--engines", nargs="+", default=["local", "ray"])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    began = time.monotonic()
    make_input(FOLDER / "input", options.megabytes * 1_000_000)
    print(f"input of {options.megabytes} MB made in {time.monotonic() - began:.0f} s")
    written = {engine: prepare(engine, options.workers) for engine in options.engines}
    same = all(hashes == written[options.engines[0]] for hashes in written.values())
    print(f"all files of {', '.join(options.engines)} are the same: {'yes' if same else 'no'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
