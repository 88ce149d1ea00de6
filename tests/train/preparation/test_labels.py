"""Names and contents that tell text, code and data; benchmarks/label_accuracy.py says how often."""

import json
import subprocess
import sys
import textwrap
import time

import pytest
from helpers.documents import LINE, PROSE, PYTHON

from train.preparation.labels import Labeller


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("a.py", "x", "code"),
        ("A.PY", PROSE, "code"),
        ("a.json", '{"a": 1}', "data"),
        ("a.rst", "Title\n=====\n", "text"),
        ("config.h.in", "#undef HAVE_X\n", "code"),
        ("settings.yaml.example", "a: 1\n", "data"),
        ("Makefile", "all:\n\ttrue\n", "code"),
        ("Makefile.linux", "all:\n\ttrue\n", "code"),
        ("Makefile.svg", "all:\n\ttrue\n", "code"),
        ("CMakeLists.txt", "project(x)\n", "code"),
        ("requirements.txt", "numpy\njax\n", "data"),
        ("LICENSE", "MIT", "text"),
        ("README", "Hi\n", "text"),
        ("README.Debian", "Hi\n", "text"),
        ("ChangeLog-2011", "x", "text"),
        ("INSTALL", "See README.\n", "text"),
        ("install", "#!/bin/sh\nexit 0\n", "code"),
        ("History", "#!/bin/sh\nexit 0\n", "code"),
        ("page.html.erb", "<p><%= x %></p>", "code"),
        (".gitignore", "*.o\n", "data"),
        ("fix.patch", "--- a\n+++ b\n", "code"),
        ("license", "MIT", "text"),
        ("ChangeLog.1", "x", "text"),
        ("announce-gen", PYTHON * 3, "code"),
        ("vector.control", PYTHON, "data"),
    ],
)
def test_a_name_that_says_what_a_file_is_decides(labeller, name, text, label):
    assert labeller.label(name, text) == label


@pytest.mark.parametrize("name", ["", "a.txt", "a", "a.unheard-of", ".", "..", "trailing."])
@pytest.mark.parametrize(
    ("text", "label"),
    [
        (PROSE, "text"),
        (PYTHON * 3, "code"),
        ("#!/usr/bin/env whatever\n" + PROSE * 9, "code"),
        (json.dumps({"key": [1, 2, {"a": "b"}], "other": None}, indent=2) * 1, "data"),
        (".TH LS 1\n.SH NAME\nls \\- list\n", "text"),
    ],
    ids=["prose", "python", "shebang", "json", "troff"],
)
def test_a_name_that_says_nothing_leaves_it_to_the_content(labeller, name, text, label):
    assert labeller.label(name, text) == label


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        (".bazelrc", "build --symlink_prefix=/ # Out of source build\n", "data"),
        (".git-blame-ignore-revs", PROSE, "data"),
        (".cookierc", PYTHON * 3, "data"),
        (".perltidyrc.sh", "x", "code"),
        (".zshenv", "x", "code"),
        (".hidden", "#!/bin/sh\ntrue\n", "code"),
        (".hidden", "<?php\nreturn 3;\n", "code"),
    ],
)
def test_hidden_files_are_settings_unless_they_are_programs(labeller, name, text, label):
    assert labeller.label(name, text) == label


def test_debian_lists_are_data_with_a_package_and_without(labeller):
    text = "usr/bin/hello\nThe manual of it, as a page of the documentation.\n"
    for name in ("docs", "hello.docs", "install", "hello.install", "not-installed", "maintscript"):
        assert labeller.label(name, text) == "data"
    assert labeller.label("format", "3.0 (native)\n") == "data"


def test_a_program_is_code_even_where_its_extension_is_of_text(labeller):
    assert labeller.label("a.pod", "#!perl -T\nuse warnings;\n") == "code"
    assert labeller.label("a.install", "#!/usr/bin/dh-exec\nusr/bin/a\n") == "data"


@pytest.mark.parametrize("digits", [32, 40, 64])
def test_checksums_are_data(labeller, digits):
    digest = "0123456789abcdef" * 8
    for space in ("  ", " *", " "):
        assert labeller.label("sums.txt", f"{digest[:digits]}{space}a-file.tar.gz\n" * 5) == "data"


def test_the_header_of_a_mail_is_data_without_a_body(labeller):
    header = "Author: A U Thor\nEmail: a@example.org\nSubject: The library, again.\n\n"
    assert labeller.label("info", header) == "data"
    assert labeller.label("info", f"{header}\n{PROSE}") == "text"


def test_a_diff_is_code_with_whatever_above_it(labeller):
    change = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-A sentence of words.\n+Another sentence.\n"
    mail = f"From: A\nSubject: B\nDate: C\n\n{PROSE * 3}"
    assert labeller.label("manpage", mail + change) == "code"


def test_comments_do_not_make_text(labeller):
    comment = "# You can put comments anywhere. They hold for the rest of the line, or for less.\n"
    assert labeller.label("overrides", f"{comment}\n{comment}\nalpha=3\nbeta=4\n") == "data"
    assert labeller.label("a", "# A marker for those who look for one.\n") == "data"
    assert labeller.label("a", f"# Title\n\n{PROSE}") == "text"


def test_a_table_is_data(labeller):
    header = (
        "# Airport Code:Airport:Country Code:Geographic subdivision:Major city or cities serving\n"
    )
    rows = """\
        AAL:Aalborg:DK::Aalborg
        AAR:Aarhus:DK::Aarhus
        ABD:Abadan:IR::Abadan
        ABE:Lehigh Valley International Airport:US:PA:Allentown, PA|Bethlehem, PA
        ABQ:Albuquerque International Sunport:US:NM:Albuquerque, NM
        ABV:Abuja:NG::Abuja
        ABZ:Aberdeen Dyce:GB:Scotland:Aberdeen
        ACA:Juan Álvarez International:MX:Guerrero:Acapulco
        ACC:Kotoka International:GH::Accra
        ACE:Arrecife:ES::Lanzarote
        ADA:Adana:TR::Adana
        """
    assert labeller.label("airport", header + textwrap.dedent(rows) * 4) == "data"


@pytest.mark.parametrize("start", ["#compdef tex", "#autoload", "/* A program. */"])
def test_what_only_programs_begin_with_makes_code(labeller, start):
    assert labeller.label("_tex", f"{start}\n\n# {PROSE * 3}") == "code"


def test_an_element_is_data_unless_it_is_of_html(labeller):
    info = "<info>\n<keywords>\nunittest\nNTLM\n</keywords>\n</info>\n\n#\n# Client-side\n"
    client = "<client>\n<server>\nnone\n</server>\n <name>\nNTLM unit tests\n </name>\n</client>\n"
    assert labeller.label("test91", f"<testcase>\n{info}{client}</testcase>\n") == "data"
    assert labeller.label("page", f"<div>\n{f'<p>{PROSE}</p>' * 9}</div>\n") == "text"
    assert labeller.label("a", f"<script>\n{LINE * 9}</script>\n") != "text"


@pytest.mark.parametrize(
    "text",
    [
        "-r base.in\n-r test-common.in\n",
        "pyro4==4.82; python_version < '3.11'\n",
        "# By pip-compile\n#\nattrs>=20,<30\nrequests[socks] ~= 2.0\nidna\n",
        f"idna==3.4 \\\n    --hash=sha256:{'0123456789abcdef' * 4}\n",
    ],
)
@pytest.mark.parametrize("name", ["", "typing.txt", "test.in"])
def test_requirements_are_data(labeller, name, text):
    assert labeller.label(name, text) == "data"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("README.pt", "text"),
        ("INSTALL.mac", "text"),
        ("integral.mac", "code"),
        ("bootstrap.js.LICENSE.txt", "text"),
        ("index.rst.txt", "text"),
        ("filelog.tmpl", "code"),
        ("page.html.tpl", "text"),
        ("screen.tmpfiles", "data"),
        ("MANIFEST", "data"),
    ],
)
def test_rarer_names_decide_too(labeller, name, label):
    assert labeller.label(name, f"/*! {PROSE * 9}*/\n") == label


def test_templates_are_code_whatever_is_in_them(labeller):
    assert labeller.label("filelog.tmpl", f"<p>{PROSE * 9}{{x}}</p>") == "code"
    assert labeller.label("settings.yaml.tmpl", "a: 1\n") == "data"
    assert labeller.label("README.pt", PROSE) == "text"


def test_a_line_of_many_fields_is_data(labeller):
    line = "function-redefined:21:0:21:25:double_with_docstring:function already defined line 16\n"
    assert labeller.label("typing_use.txt", line) == "data"


def test_what_is_included_in_manuals_is_text(labeller):
    assert labeller.label("common.x", "[see also]\n.BR autoconf (1),\n.BR automake (1)\n") == "text"


def test_without_ends_of_sentences_what_is_no_prose_to_magika_is_data(labeller):
    menu = '?package(gap-core):needs="text" section="Applications/Science/Mathematics" \\\n'
    menu += '  title="GAP"\\\n  command="/usr/bin/gap"\\\n  icon="/usr/share/pixmaps/gap.xpm"\\\n'
    menu += '  longtitle="GAP - Groups, Algorithms and Programming"\n'
    assert labeller.label("gap-core", menu) == "data"


@pytest.mark.parametrize("name", ["a.output", "a.right", "a.dump"])
def test_what_programs_print_is_data(labeller, name):
    assert labeller.label(name, PROSE * 9) == "data"


def test_ts_is_code_whatever_magika_says(labeller):
    assert labeller.label("intl.d.ts", f"/*! {PROSE * 20}*/\n\ndeclare var a;\n") == "code"
    assert labeller.label("intl.ts", "x") == "code"


def test_a_sentence_of_three_words_is_text_but_not_less(labeller):
    assert labeller.label("a.txt", "this is a test.\n") == "text"
    assert labeller.label("a.txt", "Ha ha!\n") == "data"


@pytest.mark.parametrize("name", ["ls.1", "printf.3p", "ls.1.in"])
def test_a_section_number_makes_a_manual_of_troff_alone(labeller, name):
    assert labeller.label(name, ".TH LS 1\n.SH NAME\nls \\- list\n") == "text"
    assert labeller.label(name, "#!/bin/sh\necho hi\n") == "code"


def test_overloaded_extensions_need_the_content(labeller):
    translation = '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE TS>\n<TS version="2.1">\n' + (
        "<message><source>Open</source><translation>Offen</translation></message>\n" * 9
    )
    assert labeller.label("de.ts", translation) == "data"
    script = "export function add(a: number, b: number): number {\n  return a + b;\n}\n"
    assert labeller.label("add.ts", f"import {{ B }} from './b';\n{script * 3}") == "code"


def test_xml_without_a_name_may_begin_with_a_comment(labeller):
    assert labeller.label("", f"<!-- {PROSE} -->\n<!DOCTYPE TS><TS>{LINE}</TS>\n") == "data"


@pytest.mark.parametrize("name", ["", "a.txt", "a"])
@pytest.mark.parametrize("text", ["", " ", "\n\n\t\n", "\ufeff", "x", "7", "{", "\ud800", "<", "#"])
def test_next_to_nothing_is_data(labeller, name, text):
    assert labeller.label(name, text) == "data"


def test_blank_documents_are_data_whatever_their_name(labeller):
    for name in ("a.py", "README", "a.md", "a.html", "a.ipynb"):
        assert labeller.label(name, " \n") == "data"


def test_short_prose_without_a_name_is_text(labeller):
    assert labeller.label("", "A short note about nothing at all.") == "text"


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "Eine kurze Notiz \u00fcber nichts, damit es etwas gibt.\n" * 9,
        "今日は雨が降っています。明日は晴れるでしょうから、散歩に行きましょう。\n" * 9,
        "यह एक छोटी सी टिप्पणी है। इसमें कुछ खास नहीं लिखा है, पर इसे पढ़ा जा सकता है।\n" * 9,
    ],
    ids=["English", "German", "Japanese", "Hindi"],
)
def test_prose_of_any_language_is_text(labeller, text):
    assert labeller.label("", text) == "text"


@pytest.mark.parametrize(
    "text",
    [
        "apple\nbanana\ncherry\ndate\n" * 50,
        "1    2\n2    4\n3    2\n4    4\n5    3\n6    9\n7    7\n8   10\n9   10\n10   10\n",
        "2024-01-01 00:00:01 [17] 10.0.0.1 - 200 512\n" * 50,
        "Host|The name of a machine.|It may be long, or short.\n" * 9,
        "HostName prefixed\nMatch host the other one\nUser somebody else\n" * 20,
        "Document: manual\nTitle: The manual\nAuthor: Several\nAbstract: " + PROSE * 4,
    ],
    ids=["words", "numbers", "log", "table", "settings", "fields"],
)
def test_lists_and_logs_without_a_name_are_data(labeller, text):
    assert labeller.label("", text) == "data"


def test_mail_is_text(labeller):
    mail = f"From: a@example.org\nTo: b@example.org\nSubject: The library\n\n{PROSE}"
    assert labeller.label("", mail) == "text"
    assert labeller.label("", mail.replace("a@example.org", "Somebody")) == "text"


def test_xml_is_data_unless_it_is_html(labeller):
    assert labeller.label("", f'<?xml version="1.0"?>\n{PROSE * 9}') == "data"
    page = f"<p>{PROSE * 3}</p>"
    assert labeller.label("", f'<?xml version="1.0"?>\n<doc>{page}</doc>') == "data"
    assert labeller.label("", f'<?xml version="1.0"?>\n<HTML>{page}</HTML>') == "text"


def test_half_a_surrogate_pair_does_no_harm(labeller):
    assert labeller.label("", "\ud83d" + PROSE) == "text"


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        *(
            ("", unit)
            for unit in (
                "a ",
                "x",
                "a!",
                "<a ",
                "\n",
                "A: b\n",
                "A: b\n ",
                "{% x",
                "\u0130",
                "\u0915 ",
            )
        ),
        *(("a.md", unit) for unit in ("\n", "```\n", "    x\n", "- a\n", "x")),
        *(
            ("a.html", unit)
            for unit in ("<!--", "<a", "<p>", ".", "<script>", "<pre>", "{{", "\u0130", "x")
        ),
        *(("a.ipynb", unit) for unit in ("[", '{"a":', "9")),
        *(("a.1", unit) for unit in (".TH", "\n.")),
    ],
)
def test_a_megabyte_takes_no_time(labeller, name, unit):
    text = "X: " + unit * (1_000_000 // len(unit))
    start = time.process_time()
    assert labeller.label(name, text) in ("text", "code", "data")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("blank", ["\n", "\r\n", " ", "\n\n \n", "\u00a0"])
def test_the_blanks_behind_a_mails_header_take_no_time(labeller, blank):
    header = "From: a\nTo: b\nSubject: c\n\n"
    blanks = blank * (200_000 // len(blank))
    start = time.process_time()
    assert labeller.label("", header + blanks) == "data"
    assert labeller.label("", header + blanks + "x") == "text"
    assert time.process_time() - start < 2


def test_a_long_document_is_labelled_by_its_ends_and_its_format(labeller):
    assert labeller.label("", PYTHON * 9000) == "code"
    assert labeller.label("", PROSE * 5000) == "text"


def test_labels_are_the_same_every_time(labeller):
    other = Labeller()
    for text in (PROSE, PYTHON, "a: b\nc: d\n"):
        assert labeller.label("", text) == other.label("", text) == labeller.label("", text)


def test_the_module_does_without_jax():
    program = (
        "import sys, train.preparation.labels\n"
        "assert not {'jax', 'flax', 'mmrec_jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
