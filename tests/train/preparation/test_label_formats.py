"""Text, code or data within a format that can hold more than one of them."""

import json
import time

import pytest
from helpers.documents import LINE, PROSE, PYTHON


@pytest.mark.parametrize("name", ["a.xml", "a.yaml", "a.cfg"])
def test_data_with_block_tags_is_a_template(labeller, name):
    assert labeller.label(name, "<a>\n  {%- for x in y %}\n  {{ x }}\n  {% endfor %}\n") == "code"
    assert labeller.label(name, "a: ${{ secrets.x }}\nb: '{% if'\n") == "data"


def test_xml_with_block_tags_is_a_template_without_a_name(labeller):
    assert labeller.label("", '<?xml version="1.0"?>\n<a>\n{% if b %}<b/>{% endif %}\n') == "code"


def test_latex_of_definitions_is_code_unless_it_is_a_document(labeller):
    macros = "\\def\\a{b}\n\\gdef\\putwordIndex{Indice}\n% A comment.\n\\global\\let\\c=\\a\n"
    assert labeller.label("macros.tex", macros + PROSE) == "code"
    assert labeller.label("manual.tex", macros + PROSE * 30) == "text"
    assert labeller.label("a.tex", macros + "\\begin{document}\nx\\end{document}\n") == "text"
    assert labeller.label("a.tex", f"Defined by \\def.\n\\default\n{PROSE}") == "text"


def test_latex_of_neither_definitions_nor_prose_is_code(labeller):
    settings = "\\usepackage{xcolor}\n\\lstset{\n  frame=lrtb,\n  tabsize=2,\n}\n"
    assert labeller.label("style.tex", settings) == "code"
    assert labeller.label("a.tex", f"\\begin{{document}}\n{settings}") == "text"


def test_html_entries_without_an_end_are_no_prose(labeller):
    entries = "<li>add_column (in a module of a package of a name that is long), [1], [2]</li>" * 99
    assert labeller.label("genindex.html", f"<ul>{entries}</ul>") == "data"
    assert labeller.label("a.html", f"<ul>{entries.replace('[2]', '[2].')}</ul>") == "text"


def test_text_with_block_tags_at_the_margin_is_a_template(labeller):
    assert labeller.label("a.rst", "{% for x in y %}\n.. automodule:: x\n{% endfor %}\n") == "code"
    assert labeller.label("a.rst", f"{PROSE}\n::\n\n  {{% for x in y %}}\n\n{PROSE}") == "text"


@pytest.mark.parametrize(
    ("code_lines", "label"), [(0, "text"), (4, "text"), (8, "code"), (40, "code")]
)
@pytest.mark.parametrize("style", ["```", "~~~~", "indented", "unclosed"])
def test_markdown_is_code_where_most_of_it_is(labeller, code_lines, label, style):
    code = LINE * code_lines
    if style == "indented":
        code = "".join(f"    {line}\n" for line in code.splitlines())
    elif style == "unclosed":
        code = f"```python\n{code}"
    else:
        code = f"{style}python\n{code}{style}\n"
    prose = "A few words. " * 5 + "Then.\n"  # as long as five lines of code
    assert labeller.label("a.md", f"{prose}\n{code}") == label


def test_markdown_fences_end_only_at_their_like(labeller):
    inner = f"````\n{LINE * 3}```\n{LINE * 20}````\n"
    assert labeller.label("a.md", PROSE + inner) == "code"
    assert labeller.label("a.md", f"```\n{LINE}```\n{PROSE}") == "text"


def test_markdown_indented_below_a_list_item_or_a_paragraph_is_no_code(labeller):
    item = "- An item\n\n" + f"    {PROSE}\n" * 5
    assert labeller.label("a.md", item) == "text"
    assert labeller.label("a.md", "1. One\n\n" + f"    {PROSE}\n" * 5) == "text"
    assert labeller.label("a.md", "A paragraph\n" + f"    {PROSE}" * 5) == "text"
    after = f"- An item\n\nA paragraph.\n\n{''.join(f'    {LINE}' for _ in range(9))}"
    assert labeller.label("a.md", after) == "code"


def test_markdown_without_a_name_has_the_same_rule(labeller):
    page = f"# Title\n\n{PROSE}\n## Section\n\n- [a](b)\n- **c**\n\n{PROSE}\n"
    assert labeller.label("", page) == "text"
    assert labeller.label("", f"{page}\n```python\n{PYTHON * 20}```\n") == "code"


def notebook(code: str, prose: str, as_lines: bool = False) -> str:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": prose},
        {
            "cell_type": "code",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": code.splitlines(keepends=True) if as_lines else code,
        },
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


@pytest.mark.parametrize("as_lines", [True, False])
def test_notebooks_go_by_their_larger_half(labeller, as_lines):
    assert labeller.label("a.ipynb", notebook("x" * 50, "y" * 50, as_lines)) == "code"
    assert labeller.label("a.ipynb", notebook("x" * 49, "y" * 50, as_lines)) == "text"
    assert labeller.label("", notebook(PYTHON * 9, "y", as_lines)) == "code"


@pytest.mark.parametrize(
    "text",
    [
        notebook("", ""),
        "{",
        "[]",
        "3",
        '{"cells": 3}',
        '{"cells": [3]}',
        '{"cells": [{"cell_type": "code"}]}',
        '{"cells": [{"cell_type": "code", "source": 3}]}',
        '{"cells": [{"cell_type": "code", "source": [3]}]}',
        "[" * 100_000,
        "9" * 5000,
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_notebook_is_data(labeller, text):
    assert labeller.label("a.ipynb", text) == "data"


def test_html_is_text_where_prose_is_shown(labeller):
    assert labeller.label("a.html", f"<html><p>{PROSE}</p><p>{PROSE}</p></html>") == "text"
    assert labeller.label("a.html", f"<p>{PROSE * 2}") == "text"
    assert labeller.label("a.html", f"<p>{PROSE}</p>") == "data"  # less than 300 characters
    assert labeller.label("", f"<!DOCTYPE html><html><body><p>{PROSE * 9}</p></html>") == "text"


def test_html_of_little_but_scripts_or_styles_is_code(labeller):
    for element in ("script", "style", "SVG"):
        page = f"<p>Short.</p><{element}>{LINE * 9}</{element}>"
        assert labeller.label("a.html", page) == ("data" if element == "SVG" else "code")


def test_lines_that_are_broken_make_a_paragraph(labeller):
    assert labeller.label("a.html", f"<p>{PROSE.replace(' ', ' <br>')}</p>" * 9) == "text"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("<article><para>{}</para></article>", "text"),
        ('<?xml version="1.0"?>\n<!DOCTYPE refentry [\n]>\n<refentry>{}</refentry>', "text"),
        ("<!-- By {} -->\n<?xml version='1.0'?>\n<document><p>{}</p></document>", "text"),
        ("<document><a>1.</a><b>2.</b><c>3.</c></document>", "data"),
        ("<catalogue><item>{}</item></catalogue>", "data"),
        ("<xsl:stylesheet version='1.0'>{}</xsl:stylesheet>", "code"),
        ("no element", "data"),
    ],
)
def test_xml_is_what_its_root_says(labeller, text, label):
    assert labeller.label("a.xml", text.replace("{}", PROSE * 3)) == label


def test_xml_of_comments_alone_takes_no_time(labeller):
    start = time.process_time()
    assert labeller.label("a.xml", '<?xml version="1.0"?>\n' + "<!-- x -->\n" * 20_000) == "data"
    assert time.process_time() - start < 2


def test_html_of_short_blocks_is_data(labeller):
    links = '<ul><li><a href="x">Some page of ours</a></li></ul>' * 400
    assert labeller.label("a.html", f"{links}<p>{PROSE * 2}</p>") == "data"
    assert labeller.label("a.html", f"<p>{'<b>inline</b> tags do not end it. ' * 20}</p>") == "text"


@pytest.mark.parametrize("element", ["script", "style", "SCRIPT", "pre", "!--"])
def test_html_that_is_not_shown_or_not_prose_does_not_count(labeller, element):
    inside = f"<!--{PROSE * 9}-->" if element == "!--" else f"<{element}>{PROSE * 9}</{element}>"
    assert labeller.label("a.html", f"<p>{'short ' * 150}</p>{inside}") == "data"
    code = inside.replace(PROSE, "p < q; ")
    assert labeller.label("a.html", f"{code}<p>{PROSE * 9}") == "text"


@pytest.mark.parametrize(
    "tag", ["{% if x %}", "{{ x }}", "{{x.y}}", "<?php echo $x->y ?>", "<% x %>", "<%= x %>"]
)
def test_html_templates_are_code_but_not_pages_about_them(labeller, tag):
    assert labeller.label("a.html", f"<p>{PROSE * 9}{tag}</p>") == "code"
    assert labeller.label("a.html", f"<p>{PROSE * 9}<code>{tag}</code></p>") == "text"
    if "<" not in tag:
        assert labeller.label("a.html", f'<a href="{tag}">x</a><p>{PROSE * 9}</p>') == "code"
