"""Makes README.md the first page of the site that `make docs` builds."""

from pathlib import Path
from typing import Any


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page, as MkDocs asks its hooks for it; links begin in docs/."""
    if page.file.src_uri != "index.md":
        return markdown
    readme = Path(__file__).parents[1] / "README.md"
    return readme.read_text(encoding="utf-8").replace("](docs/", "](")
