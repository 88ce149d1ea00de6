"""A corpus with known numbers of every defect: the account is exact, to the document."""

import gzip
import json
import os
import random
import socket
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from train.data import data_folder
from train.preparation.prepare_data import prepare
from train.settings import cli

WORDS = [f"{a}{b}{c}" for a in "bd" for b in "aeiou" for c in "nrstk"]


@pytest.fixture(scope="module")
def write_sentences():
    words = random.Random(5)

    def sentences(count: int = 12) -> str:
        """Prose that no other call returns."""
        drawn = [" ".join(words.choices(WORDS, k=9)).capitalize() + "." for _ in range(count)]
        return "\n".join(drawn) + "\n"

    return sentences


def code(number: int) -> str:
    return "".join(
        f"def function_{number}_{i}(first, second):\n    return first * {number} + second * {i}\n\n"
        for i in range(8)
    )


def plant(root: Path, sentences) -> dict[str, Counter[str]]:
    """Writes the corpus; what each source's account must say."""
    text, mixed = root / "text", root / "mixed"
    (text / "deep" / "deeper").mkdir(parents=True)
    (mixed / "sub").mkdir(parents=True)
    expected = {"text": Counter(), "mixed": Counter()}

    # Plain files, labelled by their source.
    for i in range(14):
        (text / "deep" / f"{i}.txt").write_text(sentences())
    for i, encoding in enumerate(("utf-8-sig", "utf-16", "utf-32")):
        (text / "deep" / "deeper" / f"marked-{i}.txt").write_text(sentences(), encoding=encoding)
    (text / "settings.json").write_text('{"kept": "as the source says that it is text"}')
    expected["text"]["text"] += 18
    (text / "blank.txt").write_text(" \n\t\n")
    (text / "void").touch()
    expected["text"]["empty"] += 2
    (text / "latin1.txt").write_bytes("café crème".encode("latin-1"))
    (text / "cut.txt").write_bytes("naïve".encode()[:3])
    (text / "odd-utf16.txt").write_bytes(b"\xff\xfea")
    expected["text"]["undecodable"] += 3
    (text / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    expected["text"]["binary"] += 1
    (text / "long.txt").write_text("word " * 4001)
    expected["text"]["too long"] += 1
    original = sentences(30)
    (text / "one.txt").write_text(original)
    (text / "one-again.txt").write_text(original)
    (text / "one-marked.txt").write_text(original, encoding="utf-8-sig")
    expected["text"]["text"] += 1
    expected["text"]["duplicate"] += 2
    (text / "two.txt").write_text(original.replace(original.split()[100], "changed", 1))
    expected["text"]["near-duplicate"] += 1

    # What is no document.
    (text / "loop").symlink_to(text)
    (text / "deep" / "self").symlink_to("self")
    (text / ".hidden").write_text("hidden")
    os.mkfifo(text / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(text)  # a socket's path must be short
        listener.bind("socket")
        os.chdir(here)

    # Records and files that are labelled one by one.
    def record(**fields: object) -> str:
        return json.dumps(fields)

    lines = [
        *(record(text=sentences(), id=i) for i in range(6)),
        *(record(content=sentences()) for _ in range(4)),
        record(text=None, content=sentences()),
        "",
        record(title="nothing else"),
        record(text=None),
        record(text=7),
        record(text=["a list"]),
        "[1, 2]",
        json.dumps(sentences()),  # a bare string is a document
        "{broken",
        '{"text": "cut off',
        record(text=""),
        record(text=" \n "),
        record(text="zero\0byte"),
        '{"text": "half a pair \\ud800"}',
        record(text="long " * 4001),
        record(text=original),
    ]
    (mixed / "a.jsonl").write_text("\n".join(lines) + "\n")
    with open(mixed / "a.jsonl", "ab") as stream:
        stream.write(b'{"text": "\xff\xfe"}\n' + b'{"text": "' + b"x" * 2_000_000 + b'"}\n')
    expected["mixed"].update(
        {
            "text": 12,
            "missing field": 2,
            "wrong type": 3,
            "bad JSON": 2,
            "empty": 2,
            "binary": 1,
            "undecodable": 2,
            "too long": 2,
            "duplicate": 1,
        }
    )
    packed = "".join(record(text=sentences()) + "\n" for _ in range(3)).encode()
    (mixed / "b.jsonl.gz").write_bytes(gzip.compress(packed))
    frames = [record(text=sentences()).encode() + b"\n" for _ in range(3)]
    (mixed / "c.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, frames)))
    expected["mixed"]["text"] += 6
    (mixed / "cut.jsonl.gz").write_bytes(gzip.compress(packed)[:-9])
    (mixed / "cut.jsonl.zst").write_bytes(zstandard.compress(packed)[:-9])
    (mixed / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    expected["mixed"]["unreadable"] += 3
    column = [sentences(), None, sentences(), "", original]
    table = pyarrow.table({"content": column, "other": [1, 2, 3, 4, 5]})
    pyarrow.parquet.write_table(table, mixed / "d.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), mixed / "numbers.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"title": ["x"]}), mixed / "titles.parquet")
    expected["mixed"].update(
        {"text": 2, "missing field": 2, "empty": 1, "duplicate": 1, "wrong type": 2}
    )
    for i in range(12):
        (mixed / "sub" / f"{i}.py").write_text(code(i))
    cells = [{"cell_type": "code", "source": [code(99)], "outputs": ["x" * 99]}]
    (mixed / "sub" / "book.ipynb").write_text(json.dumps({"cells": cells}))
    expected["mixed"]["code"] += 13
    (mixed / "sub" / "table.csv").write_text("a,b\n1,2\n3,4\n" * 9)
    (mixed / "sub" / "values.json").write_text(json.dumps({"a": [1, 2, 3]}, indent=2))
    expected["mixed"]["data"] += 2
    (mixed / "sub" / "bad.ipynb").write_text("{")
    expected["mixed"]["bad JSON"] += 1
    return expected


def test_every_document_is_in_the_account_once(tmp_path, write_sentences, capsys):
    expected = plant(tmp_path, write_sentences)
    (tmp_path / "c.yaml").write_text(
        f"data_dir: {tmp_path / 'data'}\nrun_dir: {tmp_path / 'runs'}\n"
        "model: {vocab_size: 300}\n"
        f"prepare: {{text: ['{tmp_path}/text'], detect: ['{tmp_path}/mixed'],"
        " validation_fraction: 0.1, test_fraction: 0.1, max_document_bytes: 20000}\n"
    )
    # A damaged archive's records before the damage count too, as the duplicates that they are.
    prepare(cli.parse_config(["--config", str(tmp_path / "c.yaml")], ""))
    account = json.loads((tmp_path / "data" / "account.json").read_text())
    text, mixed = account["sources"]
    found = {
        name: Counter(source["documents"]) + Counter(source["rejected"])
        for name, source in (("text", text), ("mixed", mixed))
    }
    expected["mixed"]["duplicate"] += 3
    assert found["text"] == expected["text"]
    assert found["mixed"] == expected["mixed"]
    assert text["skipped"] == {
        "link to a folder": 1,
        "broken link": 1,
        "hidden": 1,
        "special file": 2,
    }
    assert not mixed["skipped"]
    for label in ("text", "code", "data"):
        both = text["documents"].get(label, 0) + mixed["documents"].get(label, 0)
        assert account["total"]["documents"].get(label, 0) == both
    in_files = data_folder.load_manifest(tmp_path / "data").counts
    for domain in ("text", "code"):
        total = sum(split.documents for split in in_files[domain].values())
        assert total == account["total"]["documents"][domain]
    assert f"{tmp_path}/mixed/a.jsonl line 19" in mixed["examples"]["bad JSON"]
    shown = capsys.readouterr().out
    assert "bad JSON" in shown and "a.jsonl line 19" in shown
    assert f"{sum(map(Counter.total, expected.values()))}" in shown
