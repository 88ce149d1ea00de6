"""Runs notebooks: from their text sources (.py) to .ipynb files with outputs and pictures.

    python notebooks/run.py [NAME ...]      all, or those whose names begin so

A notebook writes its data and runs into the folder that this is called in.
"""

import argparse
import sys
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent


def executed(source: Path, folder: Path, parameters: str | None = None) -> nbformat.NotebookNode:
    """A notebook with the outputs of all its cells.

    Args:
        source: its .py file.
        folder: where it runs.
        parameters: what replaces the cell with the tag "parameters"; None keeps it.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # random ones would differ with every run
        if parameters is not None and "parameters" in cell.metadata.get("tags", ()):
            cell.source = parameters
    notebook.metadata.pop("jupytext", None)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of this Python
    return notebook


def main() -> None:
    """Runs the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description="Runs notebooks and keeps their outputs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="how a notebook's name begins")
    names = tuple(parser.parse_args().names)
    sources = [
        path for path in sorted(FOLDER.glob("[0-9]*.py")) if path.name.startswith(names or "")
    ]
    if not sources:
        sys.exit(f"error: no notebook in {FOLDER} begins with {' or '.join(names)}")
    for source in sources:
        began = time.monotonic()
        nbformat.write(executed(source, Path.cwd()), source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
