"""The documentation as a site (mkdocs.yml): it builds, has every page, and loads nothing."""

import os
import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

LOADED = r"""<(?:script|link|img|iframe)[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"'>\s]+"""
"""What makes a browser ask another machine; a link in a text does not."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build = ["build", "--strict", "--site-dir", str(folder)]  # --quiet would undo --strict
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *build],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_in_the_site_and_in_its_menu(site):
    docs = ROOT / "docs"
    pages = [path.relative_to(docs) for path in docs.rglob("*.md")]
    pages += [path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert len(pages) > 15
    menu = re.findall(r'<a href="([\w./]+)" class="md-nav__link', (site / "404.html").read_text())
    shown = {name.lstrip("./") for name in menu}
    assert {path.with_suffix(".html").as_posix() for path in pages} <= shown


@pytest.mark.slow
def test_the_first_page_is_the_readme_and_the_names_are_described(site):
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "make demo" in first and 'href="model.html"' in first and "docs/demo.png" not in first
    assert 'id="bridge.load_torch"' in (site / "api" / "bridge.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    found = [match for page in pages for match in re.findall(LOADED, page.read_text("utf-8"))]
    assert not found
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert styles and not [
        text for text in styles if re.search(r"(url\(|@import )['\"]?http", text)
    ]
