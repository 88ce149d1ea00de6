"""The notebooks: what is kept of them is of their sources, and they run from an installed wheel."""

import runpy

import jupytext
import nbformat
import pytest
from helpers.paths import ROOT
from helpers.wheels import installed_wheel

SMALL = {
    "1_quickstart": "steps = 20",
    "2_pytorch": "steps, there, back = 8, 4, 6",
    "3_look_inside": "steps = 20",
    "4_staged_plan": 'steps = dict.fromkeys(("base", "text", "code", "fusion"), 10)',
}
"""What stands for the cell of parameters, for a run of seconds."""

SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


def texts(output):
    """What an output shows as text."""
    yield output.get("text", "")
    yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def test_all_notebooks_are_tested():
    assert [path.stem for path in SOURCES] == list(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_kept_is_of_its_source(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    source, kept = jupytext.read(path.with_suffix(".py")), nbformat.read(path, 4)
    cells = [(cell.cell_type, cell.source) for cell in source.cells]
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == cells, (
        f"run python notebooks/run.py {name[0]}"
    )
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("name", SMALL)
def test_every_cell_has_run_without_noise(name):
    kept = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    # An address in memory would differ with every run, and so would a folder of this machine.
    shown = [text for output in outputs for text in texts(output)]
    assert not [text for text in shown if " at 0x" in text or str(ROOT) in text or "\x1b" in text]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return installed_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_runs_from_a_wheel(name, site, folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site))
    executed = runpy.run_path(str(ROOT / "notebooks" / "run.py"))["executed"]
    installed = f"assert mmrec.__file__.startswith({str(site)!r})"
    notebook = executed(
        ROOT / "notebooks" / f"{name}.py", folder, parameters=f"{SMALL[name]}\n{installed}"
    )
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
