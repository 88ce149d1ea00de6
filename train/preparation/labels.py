"""Whether a document is text, code or data, from its file name and its content.

Text is what is written to be read: prose in any markup, manuals, change logs, licences. Code is
what is executed, compiled or built with, including style sheets, templates and diffs. Data is
everything else and is not trained on: JSON, YAML, TOML, CSV, XML, settings, lock files, message
catalogues, logs.

The name decides if it, or its extension, says what the file is. (There are 1492 such files in the
development set's packages, see benchmarks/label_accuracy.py. magika disagreed on 16 of them with a
score of 0.8 or more, and was right about one.) Hidden files are settings unless their name says
otherwise. A name that ends in a section number of the manual, such as `.1`, is text if the file has
requests of troff.

Otherwise the content decides. The first rule that applies is used:

1. `#!`, `<?php`, `#compdef` or `#autoload` at the beginning mean code.
2. Requests of troff mean text: a manual page.
3. An XML declaration means XML, or HTML if there is an `<html>`.
4. One element that HTML does not have, checksums, or only requirements and comments mean
   data.
5. `/*` at the beginning, or the header of a diff, mean code.
6. If magika is sure, its answer. What it calls plain text or is unsure about is data if it is
   a table, text if it reads like prose (without its `#` comments), else magika's guess if that is
   likely, else data.

If the format can be more than one of text, code and data, label_formats.py then decides, whether
the name or the content gave the format.
"""

import re

from train.preparation.label_formats import TEMPLATE_TAG, label_in_format
from train.preparation.label_words import (
    ADDED_EXTENSIONS,
    CODE_STEMS,
    DEBIAN_LISTS,
    FORMAT_OF_EXTENSION,
    FORMAT_OF_MAGIKA_LABEL,
    FORMAT_OF_NAME,
    MAKEFILE_STEMS,
    PAGE_ELEMENTS,
    PLAIN_LABELS,
    PROGRAM_STEMS,
    PROSE_LABELS,
    TEMPLATE_EXTENSIONS,
    TEMPLATE_LABELS,
    TEXT_STEMS,
    Format,
    Label,
)
from train.preparation.prose import READ_CHARACTERS, is_prose, is_table, letter_share, text_lines

_SURE = 0.5
"""Magika's answer counts from this score on; with a higher limit, more of the development set is
labelled wrongly."""

_LIKELY = 0.3
"""From this score on, its answer is still the best guess if the text is not like prose."""

_READ = 4096
"""Magika looks at so many bytes at most at either end."""

# zsh's functions begin with #compdef and #autoload.
_PROGRAM_STARTS = ("#!", "<?php", "#compdef ", "#autoload")
_REQUIREMENT = re.compile(
    r"-[cer] .+|--\w.*|[\w.-]+(?:\[[\w,.-]+\])? ?(?:[<>=!~]=? ?[\w.*+]+,? ?)*(?:;.*)?[ \\]*"
)
_MANUAL_SUFFIX = re.compile(r"[1-9](?:[a-z]{1,4})?")
_TROFF_REQUEST = re.compile(r"^[.'](?:TH|Dd|so) |^\[(?:NAME|SEE ALSO)\]$", re.M | re.I)
_XML = re.compile(
    r"\ufeff?\s*(?:<!--.{0,4096}?-->\s*)?<(?:\?xml\b|!DOCTYPE\s+(?!html\b))", re.IGNORECASE | re.S
)
_ELEMENT = re.compile(r"\s*<([a-zA-Z][\w.:-]*)[\s>]")
_HTML_ROOT = re.compile(r"<html\b", re.IGNORECASE)
# Such lines describe packages and the like, and also mails, which are text.
_HEADER = re.compile(r"(?:[A-Z][A-Za-z-]*: .*\n(?:[ \t].*\n)*){3}")
_MAIL = re.compile(r"(?:.*\n){0,9}(?:From|Subject|Date): ")
_BLANK_LINE = re.compile(r"\n\r?\n")
_DIFF = re.compile(r"^--- .+\n\+\+\+ .+\n@@ -", re.MULTILINE)
_CHECKSUM = re.compile(r"[0-9a-fA-F]{32,128}[ \t]+\*?\S")


class Labeller:
    """Labels documents. Making one loads magika's model, which comes with its package."""

    def __init__(self) -> None:
        from train.preparation.one_thread_magika import OneThreadMagika

        self._magika = OneThreadMagika()

    def label(self, name: str, text: str) -> Label:
        """The label of a document; the same arguments give the same label.

        Args:
            name: the base name of its file, or "" if there is none.
            text: all of it.
        """
        if not text.strip():
            return "data"
        return label_in_format(_format_of_name(name, text) or self._format_of(text), text)

    def _format_of(self, text: str) -> Format:
        """What a document is, from its content alone."""
        if text.startswith(_PROGRAM_STARTS):
            return "code"
        if _TROFF_REQUEST.search(text, 0, _READ):
            return "text"
        if _XML.match(text):
            return "html" if _HTML_ROOT.search(text, 0, _READ) else "xml"
        if _is_element(text) or _CHECKSUM.match(text):
            return "data"
        if all(map(_REQUIREMENT.fullmatch, text_lines(text))):
            return "data"
        if text.lstrip().startswith("/*") or _DIFF.search(text, 0, READ_CHARACTERS):
            return "code"
        ends = text if len(text) <= 2 * _READ else text[:_READ] + text[-_READ:]
        # JSON can hold half of a surrogate pair, which UTF-8 cannot.
        guess = self._magika.identify_bytes(ends.encode(errors="replace")).prediction
        kind = str(guess.dl.label)
        if guess.score < _SURE or kind in PLAIN_LABELS:
            if _HEADER.match(text):
                return "text" if _MAIL.match(text) and _has_body(text) else "data"
            if is_table(text):
                return "data"
            if is_prose(text, sentences=kind not in PROSE_LABELS):
                return "text"
            if guess.score < _LIKELY:
                return "data"
        if kind in TEMPLATE_LABELS and not TEMPLATE_TAG.search(text):
            return "html"
        format = FORMAT_OF_MAGIKA_LABEL.get(kind, "data")
        # Tables of numbers and drawings made of characters look like code to magika.
        return "data" if format == "code" and letter_share(text) < 0.4 else format


def _format_of_name(name: str, text: str) -> Format | None:
    """What a name says, or None if it says too little."""
    executable = text.startswith(_PROGRAM_STARTS)
    stem, _, suffix = name.rpartition(".")
    if name.lower() in FORMAT_OF_NAME:
        return FORMAT_OF_NAME[name.lower()]
    if name in DEBIAN_LISTS:
        return "code" if executable else "data"
    if name.partition(".")[0].lower() in MAKEFILE_STEMS:  # "Makefile.svg" makes images
        return "code"
    template = suffix.lower() in TEMPLATE_EXTENSIONS
    while stem and suffix.lower() in ADDED_EXTENSIONS:
        name = stem
        stem, _, suffix = name.rpartition(".")
    if name.lower() in FORMAT_OF_NAME:
        return FORMAT_OF_NAME[name.lower()]
    if stem:
        if suffix.lower() in FORMAT_OF_EXTENSION:
            format = FORMAT_OF_EXTENSION[suffix.lower()]
            # people read "README.mac" and "INSTALL.pt"
            if format == "code" and stem.isupper() and stem.lower() in TEXT_STEMS:
                return "code" if executable else "text"
            return "code" if format == "text" and executable else format
        # Qt's translations are XML.
        if suffix.lower() == "ts" and not text.lstrip("\ufeff").lstrip().startswith("<"):
            return "code"
        if _MANUAL_SUFFIX.fullmatch(suffix) and _TROFF_REQUEST.search(text, 0, _READ):
            return "text"
    if len(name) > 1 and name[0] == "." and name[1].isalpha() and not executable:
        return "data"
    if template:
        return "code"
    # "README-alpha" and "LICENSE_MIT" are texts, but "announce-gen" and "install" are programs.
    first = re.split("[.]" if name.islower() else "[-._]", name, maxsplit=1)[0]
    if first.lower() in CODE_STEMS:
        return "code"
    if first.lower() in TEXT_STEMS and first not in PROGRAM_STEMS and not executable:
        return "text"
    return None


def _has_body(text: str) -> bool:
    """Whether anything follows the first blank line; in two steps, as one regex is quadratic."""
    blank = _BLANK_LINE.search(text)
    return blank is not None and bool(text[blank.end() :].strip())


def _is_element(text: str) -> bool:
    """Whether the whole text is one element, with a name that HTML does not have."""
    element = _ELEMENT.match(text)
    return (
        element is not None
        and element[1].lower() not in PAGE_ELEMENTS
        and text.rstrip().endswith(f"</{element[1]}>")
    )
