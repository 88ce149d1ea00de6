"""Takes pages of the site that `make docs` builds from the files of the repository's root."""

from pathlib import Path
from typing import Any

ROOT_PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
"""The page in docs/, which is empty, and the file that it shows."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page, as MkDocs asks its hooks for it; the links in it begin in docs/."""
    name = ROOT_PAGES.get(page.file.src_uri)
    if name is None:
        return markdown
    text = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
    for page_name, file in ROOT_PAGES.items():
        text = text.replace(f"]({file})", f"]({page_name})")
    return text.replace("](docs/", "](")
