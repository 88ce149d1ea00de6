"""Templates of pages and cards, for Jinja."""

import json
import re
from pathlib import Path

import jinja2

from train.system.terminal import written_out


def template(path: Path, *, html: bool) -> jinja2.Template:
    """The template in a file; control characters are written out, and HTML's own in a page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: written_out(value) if isinstance(value, str) else value,
    )
    environment.filters["code"] = _code
    return environment.get_template(path.name)


def _code(value: object) -> str:
    """A setting as code in Markdown, whatever it holds."""
    text = json.dumps(value, ensure_ascii=False)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"
