"""The standard library as documents (train/preparation/python_library.py)."""

import ast
from pathlib import Path

import pytest
from helpers.documents import read

from train.preparation import python_library
from train.preparation.python_library import cut_docstrings, module_documents
from train.settings.prepare_config import PrepareConfig
from train.system.errors import UserError


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


@pytest.mark.parametrize(
    "source",
    [
        "def f(:\n",
        "if 1:\n" + "".join(" " * i + "if 1:\n" for i in range(1, 101)) + " " * 101 + "0\n",
        "x = " + "(" * 500 + ")" * 500,
        "a\0b",
    ],
    ids=["syntax", "indentation", "nesting", "zero byte"],
)
def test_what_is_no_python_is_an_error_that_is_counted(source):
    with pytest.raises((SyntaxError, ValueError)):
        module_documents(source, "m.py")


def test_docstrings_stand_under_their_qualified_names():
    source = '"Of all."\nclass A:\n  "Of A."\n  def f(): "Of f."\n  def g(): 0\n'
    code, written = module_documents(source, "os/path/__init__.py")
    assert code == "class A:\n  def f(): pass\n  def g(): 0\n"
    assert written == "os.path\n\nOf all.\n\nos.path.A\n\nOf A.\n\nos.path.A.f\n\nOf f.\n"
    assert module_documents('""\nx\n', "m.py") == ("x\n", "")


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
    documents, (account,) = read(PrepareConfig(python_library=True))
    return documents, account


def test_the_python_library_is_read_as_text_and_code(library):
    documents, account = library
    by_name = {(d.domain, d.name): d for d in documents}
    assert len(by_name) == len(documents) == account.documents.total()
    assert account.documents["code"] > 100 and account.documents["text"] > 100
    text, code = (by_name[domain, "python_library/json/decoder.py"] for domain in ("text", "code"))
    assert text.group == code.group
    assert "\njson.decoder.JSONDecoder.decode\n\nReturn the Python representation" in text.text
    assert "def decode" in code.text and "Return the Python representation" not in code.text
    assert ("text", "python_library/topics/operator-summary") in by_name
    parts = {part for d in documents for part in d.name.split("/")[1:]}
    assert not parts & {"test", "tests", "site-packages", "idlelib", "cp1252.py", "topics.py"}
    assert "utf_8.py" in parts


def test_no_topic_lies_within_another(library):
    topics = [d.text for d in library[0] if "/topics/" in d.name]
    assert len(topics) > 20
    for topic in topics:
        body = topic.strip().partition("\n\n")[2][:2000]
        assert not any(body in other for other in topics if other is not topic)


def test_the_code_of_the_library_is_otherwise_unchanged(library):
    modules = [d for d in library[0] if d.domain == "code"][::12]
    assert len(modules) > 20
    for document in modules:
        path = Path(python_library.root(), document.name.removeprefix("python_library/"))
        source = path.read_bytes().decode()
        assert ast.dump(ast.parse(document.text)) == without_docstrings(source)
        lines = iter(source.splitlines())
        kept = (line for line in document.text.splitlines() if line.strip() != "pass")
        assert all(line in lines for line in kept)  # a subsequence: nothing moved or changed


def test_modules_that_cannot_be_cut_are_counted(tmp_path, monkeypatch):
    (tmp_path / "good.py").write_text('"About it."\nx = 1\n')
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "__init__.py").touch()
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text("y = 1\n")
    monkeypatch.setattr(python_library, "root", lambda: str(tmp_path))
    monkeypatch.setattr(python_library, "topics", dict)
    documents, (account,) = read(PrepareConfig(python_library=True))
    assert [(d.domain, d.text) for d in documents] == [
        ("code", "x = 1\n"),
        ("text", "good\n\nAbout it.\n"),
    ]
    assert account.rejected == {"not parseable": 1, "empty": 1}
    assert account.examples["not parseable"] == ["python_library/bad.py"]


def test_a_python_without_its_library_is_named(monkeypatch):
    monkeypatch.setattr(python_library, "root", lambda: "/nowhere/at/all")
    with pytest.raises(UserError, match=r"prepare.python_library: .* /nowhere/at/all"):
        read(PrepareConfig(python_library=True))
