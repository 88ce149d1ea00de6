"""The standard library of the running Python as documents: its code, and its documentation."""

import ast
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from train.system.errors import UserError

_SKIPPED_PACKAGES = frozenset(
    ("test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "__pycache__")
)


def root() -> str:
    """The folder of the standard library."""
    return sysconfig.get_path("stdlib")


def modules(root: str) -> Iterator[str]:
    """The paths of the library's own modules, without tests and generated tables.

    Raises:
        UserError: there is no such folder.
    """
    if not os.path.isdir(root):
        raise UserError(
            f"prepare.python_library: this Python has no library folder {root}: list folders"
        )
    for folder, folders, files in os.walk(root):
        # Installed packages and build files are in folders that no import statement can name.
        folders[:] = sorted(
            name for name in folders if name.isidentifier() and name not in _SKIPPED_PACKAGES
        )
        for name in sorted(files):
            path = os.path.join(folder, name)
            if name.endswith(".py") and not _is_generated(path):
                yield path


def topics() -> dict[str, str]:
    """The language reference by topic, without the topics that longer ones repeat.

    A third of the topics are sections of longer ones, and could get into a different split.
    """
    try:
        from pydoc_data.topics import topics as texts
    except ImportError:  # some distributions have it in a separate package
        return {}
    seen: set[str] = set()
    kept = {}
    for name in sorted(texts, key=lambda name: (-len(texts[name]), name)):
        paragraphs = {" ".join(part.split()) for part in re.split(r"\n\s*\n", texts[name])}
        repeated = sum(len(paragraph) for paragraph in paragraphs & seen)
        if 2 * repeated < sum(map(len, paragraphs)):
            kept[name] = texts[name]
            seen |= paragraphs
    return {name: kept[name] for name in sorted(kept)}


def module_documents(source: str, name: str) -> tuple[str, str]:
    """A module's code without its docstrings, and its docstrings under their qualified names.

    Args:
        source: a Python module.
        name: its path in the library.

    Raises:
        SyntaxError: the source is not Python.
        ValueError: the source cannot be parsed for another reason, such as its nesting.
    """
    code, docstrings = cut_docstrings(source)
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    parts = [f"{module}.{own}".rstrip(".") + f"\n\n{doc}\n" for own, doc in docstrings if doc]
    return code, "\n".join(parts)


def cut_docstrings(source: str) -> tuple[str, list[tuple[str, str]]]:
    """Separates a module's docstrings from its code.

    Args:
        source: a Python module.

    Returns:
        The source without its docstrings: their lines are cut out, every other byte stays, and a
        body that has nothing else gets `pass`. Then the docstrings in order, each with its
        qualified name ("" is the module) and its text from `inspect.cleandoc`.

    Raises:
        SyntaxError: the source is not Python.
        ValueError: the source cannot be parsed for another reason, such as its nesting.
    """
    data = source.encode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about escapes in the source, which is not ours
        tree = ast.parse(source)
    starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", data))]
    spans: list[tuple[int, int, bytes]] = []
    docstrings: list[tuple[str, str]] = []

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                docstrings.append((name, inspect.cleandoc(text)))
                spans.append(_docstring_span(data, starts, node))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                own = getattr(child, "name", None) if isinstance(child, ast.stmt) else None
                visit(child, f"{name}.{own}".lstrip(".") if own else name)

    try:
        visit(tree, "")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    pieces, end = [], 0
    for begin, stop, replacement in sorted(spans):
        pieces += [data[end:begin], replacement]
        end = stop
    return b"".join([*pieces, data[end:]]).decode(), docstrings


def _docstring_span(
    data: bytes,
    starts: list[int],
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> tuple[int, int, bytes]:
    """The bytes [begin, stop) of a node's docstring, and what replaces them."""
    statement = node.body[0]
    assert statement.end_lineno is not None and statement.end_col_offset is not None
    begin = starts[statement.lineno - 1] + statement.col_offset
    stop = starts[statement.end_lineno - 1] + statement.end_col_offset
    line_begin = starts[statement.lineno - 1]
    line_stop = starts[statement.end_lineno] if statement.end_lineno < len(starts) else len(data)
    after = data[stop:line_stop].strip()
    # If more statements follow on other lines, the docstring has its line to itself.
    if after[:1] in (b"", b"#") and (len(node.body) > 1 or isinstance(node, ast.Module)):
        return line_begin, line_stop, b""
    return begin, stop, b"pass"


def _is_generated(path: str) -> bool:
    """Whether a module is a table of a character encoding, or has variables of Python's build."""
    folder, name = os.path.split(path)
    if os.path.basename(folder) != "encodings":
        return name.startswith("_sysconfigdata")
    source = Path(path).read_bytes()
    return b"decoding_table = (" in source or b"decoding_map = codecs" in source
