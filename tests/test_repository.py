"""The rules that hold for the repository as a whole, whatever the code does."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax
import pytest
from flax import nnx
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmrec_jax import MMRecModel
from train.settings.cli import parse_command
from train.settings.config import Config
from train.settings.pipeline_config import PipelineConfig

PACKAGES = ("mmrec_jax", "bridge", "train")
NOT_OURS = {"data", "runs", "build", "__pycache__"}
HAND_OVER = "mmrec_jax/generate.py"
"""Its `if __name__ == "__main__"` hands the command line over to train."""

IMPORT_WITHOUT_THE_REST = """
import importlib, pkgutil, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

allowed = set(sys.argv[1:]) | sys.stdlib_module_names

class InstalledOnly(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in allowed or top.startswith("_sysconfigdata"):  # has the platform in its name
            return super().find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, InstalledOnly]
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("nothing is blocked")
import mmrec_jax
for module in pkgutil.walk_packages(mmrec_jax.__path__, "mmrec_jax."):
    importlib.import_module(module.name)
print("imported", len(mmrec_jax.__all__), "names")
"""


def files() -> Iterator[Path]:
    """Every file of the repository, without what runs and tools leave there."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [
            name
            for name in subfolders
            if name == ".ci"
            or not (name.startswith(".") or name in NOT_OURS or name.endswith(".egg-info"))
        ]
        yield from (Path(folder, name) for name in names)


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Python files under the folders, or all of them: their path in the repository, and text."""
    for path in sorted(files()):
        name = path.relative_to(ROOT)
        if path.suffix == ".py" and (not folders or name.parts[0] in folders):
            yield name.as_posix(), path.read_text(encoding="utf-8")


def is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imported(text: str, *, main_guard: bool = True) -> set[str]:
    """The packages that a file imports anywhere in it, inside functions too."""
    tree = ast.parse(text)
    if not main_guard:
        tree.body = [node for node in tree.body if not is_main_guard(node)]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_only_the_bridge_and_what_measures_it_import_torch() -> None:
    importers = {name for name, text in sources() if "torch" in imported(text)}
    # All but the bridge compare with torch itself.
    rooms = ("bridge/", "tests/", "benchmarks/", "notebooks/")
    outside = {name for name in importers if not name.startswith(rooms)}
    assert any(name.startswith("bridge/") for name in importers)
    assert not outside


def test_the_model_imports_jax_flax_and_numpy_alone() -> None:
    allowed = {"jax", "flax", "numpy", "mmrec_jax"} | sys.stdlib_module_names
    checked = 0
    for name, text in sources("mmrec_jax"):
        assert imported(text, main_guard=name != HAND_OVER) <= allowed, name
        checked += 1
    assert checked > 5


def test_the_bridge_does_not_know_training() -> None:
    assert not [name for name, text in sources("bridge") if "train" in imported(text)]


@functools.cache
def requirement_closure(*names: str) -> frozenset[str]:
    """Distributions that an installation of these brings with it, themselves included."""
    found: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(name), "") for name in names]
    while todo:
        item = todo.pop()
        if item in found:
            continue
        found.add(item)
        name, extra = item
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                todo += [(needed, ""), *((needed, part) for part in requirement.extras)]
    return frozenset(name for name, _ in found)


def test_the_model_imports_where_only_its_requirements_are_installed() -> None:
    installed = requirement_closure("jax", "flax", "numpy")
    modules = [
        module
        for module, distributions in metadata.packages_distributions().items()
        if installed & {canonicalize_name(name) for name in distributions}
    ]
    assert "jaxlib" in modules
    assert not {"torch", "grain", "tokenizers", "jsonargparse", "matplotlib"} & set(modules)
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_THE_REST, "mmrec_jax", *modules],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"imported [1-9]\d* names\n", result.stdout)


def test_no_file_mentions_what_lies_outside_the_repository() -> None:
    forbidden = b"../" + b"shared"
    assert not [path for path in files() if forbidden in path.read_bytes()]


BINARY = ("os.open", "gzip.open", "tarfile.open", "archive.open")
"""What opens files, or their like, in binary unless it is told otherwise."""


def opens_text_unnamed(call: ast.Call) -> bool:
    """Whether a call opens text, or reads or writes it, in whatever encoding the locale has."""
    given = {word.arg: word.value for word in call.keywords}
    if "encoding" in given:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    values = [*call.args, *given.values()]
    modes = {value.value for value in values if isinstance(value, ast.Constant)}
    letters = {mode for mode in modes if isinstance(mode, str) and re.fullmatch("[rwxabt+]+", mode)}
    if name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "TextIOWrapper"):
        named_binary = any("b" in mode for mode in letters) or (
            ast.unparse(call.func) in BINARY and not any("t" in mode for mode in letters)
        )
        return not named_binary
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)
    return name in ("run", "Popen", "check_output") and bool(
        {"text", "universal_newlines"} & {*given}
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("open(p)", True),
        ("open(p, 'rb')", False),
        ("open(p, encoding='utf-8')", False),
        ("p.open('w')", True),
        ("p.open(mode='xb')", False),
        ("gzip.open(p)", False),
        ("gzip.open(p, 'wt')", True),
        ("f(x).read_text()", True),
        ("p.write_text(t, encoding='utf-8')", False),
        ("write_text(p, t)", False),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c)", False),
    ],
)
def test_what_opens_text_is_recognised(text: str, expected: bool) -> None:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and opens_text_unnamed(call) is expected


def test_text_is_utf8_in_every_locale() -> None:
    unnamed = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, text in sources(*PACKAGES, "benchmarks")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and opens_text_unnamed(node)
    ]
    assert not unnamed


PLAIN = {"Console": {"markup", "emoji", "highlight"}, "TextColumn": {"markup"}}
"""What of rich takes some of a text for its own unless it is told not to, and how it is told."""


def test_names_and_samples_are_never_taken_for_markup() -> None:
    checked, wrong = 0, []
    for name, text in sources(*PACKAGES, "benchmarks"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                off = {word.arg for word in node.keywords if ast.unparse(word.value) == "False"}
                checked += called in PLAIN
                if called in ("from_markup", "Markdown") or not PLAIN.get(called, set()) <= off:
                    wrong.append(f"{name}:{node.lineno} {ast.unparse(node)}")
    assert not wrong and checked > 4


def undocumented(node: ast.AST, name: str) -> Iterator[str]:
    """The public functions, classes and methods below a node that have no docstring."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, definitions) and not child.name.startswith("_"):
            if not ast.get_docstring(child):
                yield f"{name}:{child.lineno} {child.name}"
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    missing = []
    for name, text in sources(package):
        tree = ast.parse(text)
        missing += [name] if tree.body and not ast.get_docstring(tree) else []
        missing += undocumented(tree, name)
    assert not missing


def cited_sections(text: str) -> set[str]:
    """The numbers in every `section 2.4` or `sections 5.2 to 5.4`, over line breaks too."""
    number = r"\d+(?:\.\d+)?"
    joined = re.sub(r"\s+(?:# )?", " ", text)
    lists = re.findall(rf"\b[Ss]ections? ({number}(?:(?:, | and | to ){number})*)", joined)
    return {found for item in lists for found in re.findall(number, item)}


def test_cited_sections_exist() -> None:
    document = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^##+ (\d+(?:\.\d+)?) ", document, re.MULTILINE))
    citations = {"docs/model.md": cited_sections(document)}
    citations |= {name: cited_sections(text) for name, text in sources(*PACKAGES, "tests")}
    missing = {name: cited - headings for name, cited in citations.items() if cited - headings}
    assert not missing
    assert len(set().union(*citations.values())) > 15


def test_the_lock_pins_what_the_project_needs() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        pin = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*) +# via .*", line)
        assert pin, f"{line!r} is no pin: only names and plain versions resolve everywhere"
        pins[pin[1]] = pin[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    del extras["notebook"]  # JupyterLab has 50 packages that nothing here needs
    for group in (project["dependencies"], *extras.values()):
        for requirement in map(Requirement, group):
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} is not locked"
            assert requirement.specifier.contains(version), f"{requirement}, locked at {version}"


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_configs_are_valid_and_their_sizes_true(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    kind = PipelineConfig if "\nstages:" in text else Config
    config, _ = parse_command(["--config", str(path)], "", kind)
    model = nnx.eval_shape(lambda: MMRecModel(config.model, rngs=nnx.Rngs(0)))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    stated = re.findall(r"([\d,]+) parameters", text)
    assert stated == ([f"{size:,}"] if stated else [])


def test_the_plans_stages_are_of_one_model_and_data() -> None:
    folder = ROOT / "configs"
    whole, _ = parse_command(["--config", str(folder / "pipeline.yaml")], "", PipelineConfig)
    for name, stage in (
        ("base", "base"),
        ("expert-text", "text"),
        ("expert-code", "code"),
        ("fusion", "fusion"),
    ):
        own, _ = parse_command(["--config", str(folder / f"{name}.yaml")], "", Config)
        of_pipeline = whole.stage(stage)
        for section in ("data_dir", "run_dir", "optimizer", "training", "expert", "fusion"):
            assert getattr(own, section) == getattr(of_pipeline, section), (name, section)
        size = ("model_dim", "num_layers", "num_heads", "ffn_dim", "vocab_size")
        for key in size:
            assert getattr(own.model, key) == getattr(of_pipeline.model, key), (name, key)


def test_the_base_configs_have_the_planned_sizes() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in CONFIGS}
    assert "50,768,640 parameters" in texts["base"]
    assert "22,401,792 parameters" in texts["base-22m"]
