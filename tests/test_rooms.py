"""The order of the rooms: who may import whom, and that nothing imports in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGES = ("mmrec_jax", "bridge", "train")
"""From the lowest to the highest: each may import those before it."""

ORDER = {
    "mmrec_jax": """
        config remat matmul layers recurrence memory ffn block layer_paths block_forms
        decode_state stack tracing model expert fusion block_rates transfer sampling decoding
        generate
    """,
    "bridge": """
        utf8 errors files stage_folders keys config names weights parameter_group optimizer
        schedule contents stated checkpoint one_error orbax_folder any_format language_model
        resumability comparison inspection partial twin huggingface commands __main__
    """,
    "train": """
        system settings data step scoring checkpoints stages generation run text_results
        trained_model reports forecast preparation stage_command base expert fusion evaluate prepare
        pipeline init harness commands completion
    """,
}
"""Rooms, and files beside them, from the lowest to the highest."""

HAND_OVER = "mmrec_jax.generate"
"""Its `if __name__ == "__main__"` hands the command over to train, whose contract names it so."""


LISTED = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def is_for_types_or_command(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "__name__ == '__main__'",
    )


def imported_modules(module: str) -> Iterator[str]:
    """The modules of ours that a module imports, inside functions too."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    if module == HAND_OVER or module in PACKAGES:
        tree.body = [node for node in tree.body if not is_for_types_or_command(node)]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


GRAPH = {module: set(imported_modules(module)) - {module} for module in MODULES}


def place(module: str) -> tuple[int, int]:
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return PACKAGES.index(package), ORDER[package].split().index(room) if room else -1


def test_every_file_has_its_place_in_the_order() -> None:
    for package in PACKAGES:
        rooms = {m.split(".")[1] for m in MODULES if m.startswith(f"{package}.")}
        assert rooms == set(ORDER[package].split())


def test_no_file_imports_a_higher_room() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if place(other) > place(module)
    ]
    # It lets Ctrl-C end a command whose imports have not come to an end yet.
    assert wrong == ["train imports train.system.interrupt"]
    assert sum(map(len, GRAPH.values())) > 300


def test_no_imports_go_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(GRAPH[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())


@pytest.mark.parametrize("package", ["train"])
def test_training_knows_the_bridge_by_its_public_names(package: str) -> None:
    inside = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        if module.startswith(package)
        for other in others
        if other.startswith("bridge.")
    ]
    assert not inside


@pytest.mark.parametrize("package", PACKAGES[:2])
def test_the_lazy_names_are_those_that_type_checkers_see(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = __import__(package)
    assert seen == loaded._MODULES
    assert {*seen, "__doc__"} <= set(dir(loaded))
    assert all(getattr(loaded, name).__module__ for name in loaded.__all__ if not name.isupper())


@pytest.mark.parametrize("module", MODULES)
def test_only_tables_are_longer_than_350_lines(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize("room", sorted({path.parent for path in MODULES.values()}))
def test_a_room_says_in_a_sentence_what_is_in_it(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if room.parent != ROOT:
        assert len(tree.body) == 1 or room.name == "twin"


@pytest.mark.parametrize("module", MODULES)
def test_docs_list_every_file_by_its_first_sentence(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))) or ""
    sentence = " ".join(docstring.split("\n\n")[0].split())
    name = MODULES[module].name
    line = f"| `{name}` | {sentence} |" if name != "__init__.py" else sentence
    assert line in LISTED or module in PACKAGES
