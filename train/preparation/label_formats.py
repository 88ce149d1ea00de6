r"""Whether a document is text, code or data, if its format can be more than one of them.

- Markdown is code if more than half of its characters are in fenced or indented blocks.
- A notebook is code if its code cells hold at least half of the characters of its cells.
- LaTeX without `\begin{document}` is code if more than 15 % of its lines define macros, or if it
  has no environment and does not read like prose.
- HTML is code if it is a template. Otherwise it is text if its paragraphs (at least 60 characters,
  with the end of a sentence) have 200 characters and a third of the visible text. Otherwise it is
  code if its scripts and style sheets are twice as long as the visible text, else data.
- XML is code if it is XSLT, and text if its root is that of DocBook or another kind of document and
  it has sentences; else it is data.
- Data and text are code if lines begin with a template's block tag, such as `{% if`.
"""

import json
import re

from train.preparation.label_words import (
    HIDDEN_ELEMENTS,
    INLINE_ELEMENTS,
    QUOTING_ELEMENTS,
    XML_DOCUMENT_ROOTS,
    XML_PROGRAM_ROOTS,
    Format,
    Label,
)
from train.preparation.prose import READ_CHARACTERS, SENTENCE_END, is_prose, letter_share

_LIST_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])(?:\s|$)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LATEX_DEFINITION = re.compile(
    r"\s*\\(?:(?:long|outer|global|protected)\s*\\)?"
    r"(?:[gex]?def|let|(?:re)?newcommand|providecommand|newif|newcount|newdimen|newskip|newbox|"
    r"newtoks|newenvironment|catcode|futurelet|DeclareTextCommand)(?![a-zA-Z])"
)
_XML_NAME = re.compile(r"<([\w.:-]+)")
_XML_TAG = re.compile(r"<[^<>]*>")
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)")
TEMPLATE_TAG = re.compile(r"\{%-? ?\w|\{\{-? ?[\w.$]|<%|<\?(?:php|=)")
_BLOCK_TAG = re.compile(
    r"^[ \t]*\{%-? *(?:if|for|set|block|extends|include|import|macro)\b", re.MULTILINE
)
# In text, examples of block tags are indented.
_BLOCK_TAG_AT_MARGIN = re.compile(_BLOCK_TAG.pattern.replace(r"[ \t]*", "", 1), re.MULTILINE)
_PARAGRAPH_CHARACTERS = 60


def label_in_format(format: Format, text: str) -> Label:
    """The label of a document whose format is known."""
    if format == "markdown":
        return "code" if _markdown_code_share(text) > 0.5 else "text"
    if format == "notebook":
        return _label_of_notebook(text)
    if format == "html":
        return _label_of_html(text)
    if format == "latex":
        return "code" if _is_latex_code(text) else "text"
    if format == "xml":
        return _label_of_xml(text)
    tag = {"data": _BLOCK_TAG, "text": _BLOCK_TAG_AT_MARGIN}.get(format)
    return "code" if tag and tag.search(text) else format


def _markdown_code_share(text: str) -> float:
    """The share of characters, without the space at lines' ends, in fenced or indented blocks."""
    code = total = 0
    fence = ""
    in_list = in_paragraph = False
    for line in text.splitlines():
        length = len(line.strip())
        total += length
        mark = _FENCE.match(line.lstrip()) if in_list else _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            else:
                code += length
        elif mark:
            fence = mark[1]
        elif not length:
            in_paragraph = False
        elif line.startswith(("    ", "\t")) and not in_list and not in_paragraph:
            code += length
        else:
            if not line[0].isspace() and not in_paragraph:
                in_list = False
            in_list = in_list or bool(_LIST_ITEM.match(line.lstrip()))
            in_paragraph = True
    return code / max(total, 1)


def _label_of_notebook(text: str) -> Label:
    try:
        notebook = json.loads(text, parse_int=float)  # of any length
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    except (ValueError, RecursionError, LookupError, TypeError):
        return "data"
    code = sum(len(source) for kind, source in cells if kind == "code")
    total = sum(len(source) for _, source in cells)
    if not total:
        return "data"
    return "code" if 2 * code >= total else "text"


def _is_latex_code(text: str) -> bool:
    """Whether the LaTeX consists of definitions rather than prose."""
    lines = [line for line in text.splitlines() if line.strip() and line.lstrip()[0] != "%"]
    definitions = sum(map(bool, map(_LATEX_DEFINITION.match, lines)))
    if "\\begin{document}" in text:
        return False
    if definitions > 0.15 * len(lines):
        return True
    return "\\begin{" not in text and not is_prose("\n".join(lines), sentences=True)


def _label_of_xml(text: str) -> Label:
    root = _xml_root(text)
    if root in XML_PROGRAM_ROOTS or _BLOCK_TAG.search(text):
        return "code"
    shown = _XML_TAG.sub(" ", text[: 4 * READ_CHARACTERS])
    reads = len(SENTENCE_END.findall(shown)) >= 3 and letter_share(shown) >= 0.75
    return "text" if root in XML_DOCUMENT_ROOTS and reads else "data"


def _xml_root(text: str) -> str:
    """The name of the first element in lower case, or "" if there is none."""
    begin = text.find("<")
    while begin >= 0:
        if text.startswith("<!--", begin):
            end = text.find("-->", begin)
        elif text.startswith(("<!", "<?"), begin):
            end = text.find(">", begin)
        else:
            name = _XML_NAME.match(text, begin)
            return name[1].lower() if name else ""
        begin = text.find("<", end) if end >= 0 else -1
    return ""


def _label_of_html(text: str) -> Label:
    """Reads a page in one pass.

    The parsers in Python's library take quadratic time for some broken pages. This one passes each
    character a fixed number of times, and stops where something is not closed.
    """
    lower = text.lower()
    if len(lower) != len(text):  # few letters have a lower case of another length
        lower = text
    prose = shown = hidden = preformatted = 0
    block: list[str] = []
    position = 0

    def end_block() -> None:
        nonlocal prose, shown
        shown_text = " ".join("".join(block).split())
        length = len(shown_text)
        block.clear()
        shown += length
        if length >= _PARAGRAPH_CHARACTERS and SENTENCE_END.search(shown_text) and not preformatted:
            prose += length

    while position < len(text):
        begin = text.find("<", position)
        begin = len(text) if begin < 0 else begin
        block.append(text[position:begin])
        tag = _TAG.match(text, begin)
        if text.startswith("<!--", begin):
            end = text.find("-->", begin)
        elif tag or text.startswith(("<!", "<?", "<%"), begin):
            end = text.find(">", begin)
        else:
            block.append(text[begin : begin + 1])
            end = begin
        if not preformatted and (
            TEMPLATE_TAG.search(text, position, begin)
            or TEMPLATE_TAG.search(text, begin, begin + 3 if end < 0 else end)
        ):
            return "code"
        if end < 0:
            break
        position = end + 1
        if not tag:
            continue
        element, closes = tag[1].lower(), text[begin + 1] == "/"
        if element not in INLINE_ELEMENTS:
            end_block()
        if element in QUOTING_ELEMENTS:
            preformatted = max(0, preformatted - 1) if closes else preformatted + 1
        elif element in HIDDEN_ELEMENTS and not closes and text[end - 1] != "/":
            begin, position = position, lower.find(f"</{element}", position)
            if position < 0:
                break
            hidden += position - begin if element != "svg" else 0
    end_block()
    if prose >= 200 and 3 * prose >= shown:
        return "text"
    return "code" if hidden > 2 * shown else "data"
