"""Reading, docstrings and the split (train/corpus.py)."""

import ast
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from train import corpus
from train.config import PrepareConfig
from train.corpus import Document, cut_docstrings, read_documents, split_groups
from train.errors import UserError


def read(prepare, exclude=()):
    counts = []
    return list(read_documents(prepare, counts, exclude)), counts


def write(root: Path, files: dict[str, str | bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


@pytest.fixture
def code(tmp_path):
    return write(tmp_path / "code", {"m.py": "x = 1\n", "n.py": "y = 2\n"})


def test_folders_are_read_at_any_depth_with_bytes_kept(tmp_path, code):
    text = write(tmp_path / "t", {"b.txt": "two\r\n\ttabs\u00e9\n", "a/deep/er/z": "one", "c": "3"})
    documents, counts = read(PrepareConfig(text=[text], code=[code]))
    texts = [d.text for d in documents if d.domain == "text"]
    assert texts == ["one", "two\r\n\ttabs\u00e9\n", "3"]  # sorted by path
    assert counts[0].documents == {"text": 3} and counts[1].documents == {"code": 2}
    assert not counts[0].skipped


def test_a_single_file_may_be_listed(tmp_path, code):
    text = write(tmp_path / "t", {"a": "alone", "b": "not listed"})
    documents, _ = read(PrepareConfig(text=[f"{text}/a"], code=[code]))
    assert [d.text for d in documents if d.domain == "text"] == ["alone"]


def test_unusable_files_are_skipped_and_counted(tmp_path, code):
    text = write(
        tmp_path / "t",
        {
            "fine": "fine",
            "same": "fine",
            "latin1": "caf\u00e9".encode("latin-1"),
            "empty": "",
            "blank": " \n\t\n",
            "zero": b"a\0b",
            "long": "l" * 101,
            "longest": "m" * 100,
            ".git/config": "hidden",
            "__pycache__/x.pyc": "hidden",
        },
    )
    os.mkfifo(f"{text}/fifo")
    os.symlink("nowhere", f"{text}/broken")
    os.symlink("..", f"{text}/loop")
    os.symlink("fine", f"{text}/link")
    documents, counts = read(PrepareConfig(text=[text], code=[code], max_document_bytes=100))
    assert sorted(d.text for d in documents if d.domain == "text") == ["fine", "m" * 100]
    assert counts[0].skipped == {
        "duplicate": 2,
        "not UTF-8": 1,
        "empty": 2,
        "binary": 1,
        "too long": 1,
        "hidden": 2,
        "not a regular file": 1,
        "unreadable": 1,
        "link to a folder": 1,
    }


def test_the_folder_that_is_written_is_not_read(tmp_path, code):
    text = write(tmp_path / "t", {"a": "a", "data/manifest.json": "{}"})
    documents, _ = read(PrepareConfig(text=[text], code=[code]), exclude=[f"{text}/data"])
    assert [d.text for d in documents if d.domain == "text"] == ["a"]


def test_the_order_of_listing_changes_nothing(tmp_path, code):
    one = write(tmp_path / "1", {"a": "same in both", "b": "b"})
    two = write(tmp_path / "2", {"c": "same in both", "d": "d"})
    forward, _ = read(PrepareConfig(text=[one, two], code=[code]))
    backward, _ = read(PrepareConfig(text=[two, one], code=[code]))
    assert set(forward) == set(backward) and len(forward) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["nowhere"], "prepare.text: .*nowhere does not exist"),
        (["bad"], r"prepare.text: no usable document in .*bad \(skipped: 1 empty, 1 not UTF-8\)"),
        (["bad/latin1"], r"no usable document in .*latin1 \(skipped: 1 not UTF-8\)"),
        (["good", "bad"], "no usable document in .*bad "),
        ([], "prepare.text lists no file or folder.*prepare.python_library: true"),
        (["code"], "prepare.code: no usable document in .*code .*2 duplicate"),
    ],
)
def test_sources_without_documents_are_named(tmp_path, code, text, message):
    write(tmp_path / "bad", {"latin1": b"\xff", "empty": ""})
    write(tmp_path / "good", {"a": "a"})
    with pytest.raises(UserError, match=message):
        read(PrepareConfig(text=[str(tmp_path / name) for name in text], code=[code]))


def grouped(text_groups: set[int], code_groups: set[int]) -> list[Document]:
    return [
        Document(f"{domain} {group}", domain, f"{domain}/{group}", str(group))
        for domain, groups in (("text", text_groups), ("code", code_groups))
        for group in groups
    ]


groups = st.sets(st.integers(0, 9), min_size=1)


@example({1, 2, 3}, {4, 5, 6}, 0.999, 0.5, 0, Random(0))
@example({1, 2, 3}, {3, 4, 5}, 0.999, 0.999, 0, Random(0))
@example({1, 2, 3}, {2, 3, 4}, 0.001, 0.001, 0, Random(0))
@example({1, 2, 3}, {1, 2, 3}, 0.5, 0.999, 0, Random(0))
@given(
    groups,
    groups,
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.999),
    st.integers(-5, 5),
    st.randoms(),
)
def test_all_splits_have_both_domains(
    text_groups, code_groups, held_out, validation_share, seed, random
):
    fractions = held_out * validation_share, held_out * (1 - validation_share)
    documents = grouped(text_groups, code_groups)
    if min(len(text_groups), len(code_groups)) < 3:
        with pytest.raises(UserError, match="at least 3 files"):
            split_groups(documents, *fractions, seed)
        return
    sides = split_groups(documents, *fractions, seed)
    present = {(d.domain, sides[d.group]) for d in documents}
    assert len(present) == 6
    random.shuffle(documents)
    assert split_groups(documents, *fractions, seed) == sides


def test_the_split_follows_the_seed_and_the_fractions():
    documents = grouped(set(range(100)), set(range(50, 150)))
    sides = split_groups(documents, 0.2, 0.1, 0)
    for kind in (range(50), range(50, 100), range(100, 150)):  # text, both, code
        counts = Counter(sides[str(group)] for group in kind)
        assert counts == {"train": 35, "validation": 10, "test": 5}
    assert split_groups(documents, 0.2, 0.1, 0) == sides != split_groups(documents, 0.2, 0.1, 1)


def test_a_larger_test_split_takes_from_training_alone():
    documents = grouped(set(range(100)), set(range(50, 150)))
    small, large = (split_groups(documents, 0.2, fraction, 0) for fraction in (0.1, 0.4))
    moved = {(small[group], large[group]) for group in small if small[group] != large[group]}
    assert moved == {("train", "test")}


@pytest.mark.parametrize(
    ("source", "code", "docstrings"),
    [
        ('"""Doc."""\nx = 1\n', "x = 1\n", [("", "Doc.")]),
        ('def f():\n    "d"\n    return 1', "def f():\n    return 1", [("f", "d")]),
        ('class A:\n    """d"""\n', "class A:\n    pass\n", [("A", "d")]),
        ('class A: "d"\n', "class A: pass\n", [("A", "d")]),
        ('def f():\n\t"d"; y = 1\n', "def f():\n\tpass; y = 1\n", [("f", "d")]),
        ('def f():\n  ("a"\n  "b")  # why\n  z\n', "def f():\n  z\n", [("f", "ab")]),
        ('s = "\u00e9"\r\ndef f():\r\n "\u00e9"\r\n s\r\n', None, [("f", "\u00e9")]),
        (
            'def f():\n  """A\n\n     b\n      c\n  """\n  0\n',
            "def f():\n  0\n",
            [("f", "A\n\nb\n c")],
        ),
        (
            'class A:\n  async def f(s):\n    "1"\n    if s:\n      def g():\n        "2"\n'
            "        0\n",
            "class A:\n  async def f(s):\n    if s:\n      def g():\n        0\n",
            [("A.f", "1"), ("A.f.g", "2")],
        ),
        ('x = "not one"\n"nor this"\n', 'x = "not one"\n"nor this"\n', []),
        ('def f():\n  f"nor {this}"\n', 'def f():\n  f"nor {this}"\n', []),
    ],
)
def test_docstrings_are_cut_out(source, code, docstrings):
    expected = 's = "\u00e9"\r\ndef f():\r\n s\r\n' if code is None else code
    assert cut_docstrings(source) == (expected, docstrings)


def without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            empty = [] if isinstance(node, ast.Module) else [ast.Pass()]
            node.body = node.body if docstring is None else node.body[1:] or empty
    return ast.dump(tree)


@pytest.fixture(scope="module")
def library():
    counts = []
    return list(read_documents(PrepareConfig(python_library=True), counts)), counts


def test_the_python_library_is_read_as_text_and_code(library):
    documents, counts = library
    by_source = {(d.domain, d.source): d for d in documents}
    assert counts[0].documents["code"] > 100 and counts[0].documents["text"] > 100
    text, code = (
        by_source[domain, "python_library/json/decoder.py"] for domain in ("text", "code")
    )
    assert text.group == code.group
    assert "\njson.decoder.JSONDecoder.decode\n\nReturn the Python representation" in text.text
    assert "def decode" in code.text and "Return the Python representation" not in code.text
    assert ("text", "python_library/topics/operator-summary") in by_source
    parts = {part for d in documents for part in d.source.split("/")[1:]}
    assert not parts & {"test", "tests", "site-packages", "idlelib", "cp1252.py", "topics.py"}
    assert "utf_8.py" in parts


def test_no_topic_lies_within_another(library):
    topics = [d.text for d in library[0] if "/topics/" in d.source]
    assert len(topics) > 20
    for topic in topics:
        body = topic.strip().partition("\n\n")[2][:2000]
        assert not any(body in other for other in topics if other is not topic)


def test_the_code_of_the_library_is_otherwise_unchanged(library):
    root = corpus.sysconfig.get_path("stdlib")
    modules = [d for d in library[0] if d.domain == "code"][::12]
    assert len(modules) > 20
    for document in modules:
        source = Path(root, document.source.removeprefix("python_library/")).read_bytes().decode()
        assert ast.dump(ast.parse(document.text)) == without_docstrings(source)
        lines = iter(source.splitlines())
        kept = (line for line in document.text.splitlines() if line.strip() != "pass")
        assert all(line in lines for line in kept)  # a subsequence: nothing moved or changed
