"""Whether a document is text, code or data, from its file name and its content.

Text is what is written to be read: prose in any markup, manuals, change logs, licences. Code is
what is executed, compiled or built with, with style sheets, templates and diffs. Data is the rest
and is not trained on: JSON, YAML, TOML, CSV, XML, settings, lock files, catalogues, logs.

The name decides where its extension or all of it says what the file is: of 1492 such files of the
development set's packages (benchmarks/label_accuracy.py), magika contradicted 16 with a score of
0.8 or more, and was right about one. Hidden files are settings unless their name says otherwise.
Otherwise `#!`, `<?php`, `/*` and a diff's header make code, troff's requests a manual, an element
as of XML, checksums, requirements and comments alone data, and magika's answer counts where it is
sure. What it calls plain text or is unsure about is data if it is a table, text if it reads like
prose, its `#` comments left out, else its guess if that is likely, else data.

Seven formats hold more than one kind, whatever told the format:

- Markdown is code if more than half of its characters are in fenced or indented blocks.
- A notebook is code if code cells hold at least half of its cells' characters.
- LaTeX is code if it is no document, and more than 15 % of its lines define macros, or it has no
  environment and does not read like prose.
- HTML is code if it is a template; else text if its paragraphs of at least 60 characters and a
  sentence's end hold 200 characters and a third of all that is shown; else code if its scripts and
  style sheets are twice as long as what is shown; else data.
- XML is code if it is XSLT; text if its root is one of DocBook's or another document's and it has
  sentences; else data.
- Data and text with a template's block tags, such as `{% if`, at lines' beginnings are code.
- A name that ends in a manual's section number, such as `.1`, is text if it has troff's requests.
"""

import json
import re
import unicodedata
from collections import Counter
from typing import Literal

import onnxruntime
from magika import Magika

Label = Literal["text", "code", "data"]
_Format = Literal["text", "code", "data", "markdown", "notebook", "html", "latex", "xml"]

_SURE = 0.5
"""Magika's answer counts from this score on; with a higher limit, more of the development set is
labelled wrongly."""

_LIKELY = 0.3
"""From this score on, its answer is still the best guess for what does not read like prose."""

_READ = 4096
"""Magika looks at no more than this many bytes at either end."""

_PROSE_READ = 1 << 15
"""Characters that are looked at to tell prose from data."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _by_word(table: dict[_Format, str]) -> dict[str, _Format]:
    return {word: format for format, words in table.items() for word in words.split()}


# The rarer ones are GitHub Linguist's, where they say one kind alone.
_EXTENSIONS: dict[_Format, str] = {
    "markdown": "md markdown mmd mdown mkd mkdn mdwn mdx rmd qmd ronn",
    "notebook": "ipynb",
    "html": "html htm xhtml xht",
    "latex": "tex ltx latex",
    "xml": "xml",
    "text": """
        rst texi texinfo txi adoc asciidoc org pod rd man mdoc roff troff textile
        mediawiki wiki creole rdoc dtx sgml docbook dbk mld eml
        dox
        readme changelog copyright license licence news todo
    """,
    "code": """
        py pyi pyx pxd pxi pyw sage c h cc cpp cxx c++ hh hpp hxx h++ ipp tpp tcc inl cu cuh m mm
        rs go java kt kts scala sc groovy gradle clj cljs cljc edn cs csx fs fsx fsi vb vbs vba
        js mjs cjs jsx mts cts tsx coffee vue svelte qml dart swift
        sh bash zsh fish ksh csh tcsh bats ps1 psm1 psd1 bat cmd awk sed
        pl pm t xs psgi rb rake gemspec ru php phtml phpt lua tcl tk itcl
        hs lhs hsc ml mli mll mly re rei elm purs agda idr v vo thy lean
        ex exs erl hrl yrl xrl escript lfe nim nims cr zig odin d jl r jq
        el lisp lsp cl asd scm ss sld rkt f f77 f90 f95 f03 f08 for ftn fpp
        pas pp dpr lpr ada adb ads cob cbl cpy pro prolog
        s asm nasm ld lds vhd vhdl sv svh vlg
        sql psql pgsql ddl plsql plpgsql cypher sparql rq
        css scss sass less styl
        mk mak am cmake ninja bzl bazel m4 ac gyp gypi nix tf hcl spec ebuild eclass
        proto thrift capnp fbs graphql gql idl aidl asn1 wat wgsl glsl vert frag hlsl metal
        y yy l ll lex lemon g4 peg pegjs diff patch vim vimrc
        j2 jinja jinja2 erb rhtml haml slim pug jade ejs hbs handlebars mustache liquid twig
        njk mako tt tt2 jsp jspx asp aspx cshtml ftl vm xsl xslt feature sty cls bst ins
        abap ado ahk angelscript apl applescript asax ascx ash asmx at au3 bal bas befunge bf
        bison blade bmx boo bro bsv cake cc-tst cfc cfm cfml cgi chpl click clp clw cobol cocci
        coq cp cps csd ctp cw cwl dats dfm dhall di djs dtsx dwl dyalog e4x eex eliom em
        emberscript es6 fan flex forth frm fsh fshader fst fth fun fut gaml gap gawk gdb gdbinit
        gleam glslf glslv gms gn gni gperf gsh gsp gvy hack heex hhi hx hxsl hy icl idc ijs ik ily
        ino ipf isl iss janet jav jflex jison jsb jscad jsfl jslib jsm jsonnet kak krl lagda las
        lasso latte leex lgt libsonnet lidr logtalk lookml lsl m2 m3 mac mao marko mata
        mathematica mawk mcfunction mjml mkfile ml4 mlg mlir mlx moo moon mpl mq4 mq5 mqh mspec
        mss nas nasl nawk nbp ncl nqp nse nsh nsi nut ny omgrofl opa opal opencl orc ox oxygene p6
        pb pbi pcss pig pike pmod podsl podspec pogo pony postcss pov prw psc pt py3 pyp pyt qasm
        qbs qs r2 r3 raku rakumod razor rbi rbw rbx reb rebol red rego rex rexx riot rktd robot
        rockspec rpgle rsh ruby sas sbt scad scaml sce sci shader shen sls sma smali smk sml smt
        smt2 soy spin sqf sqlrpgle sss stan sthlp tac tcss tesc tese thor tla trigger txl uc udo
        unity upc urs vapi vark vcl vhost volt vsh vshader vtl webidl whiley wlt wren wsgi x10 xc
        xojo_code xpl xproc xq xql xquery xqy xtend yacc yap yar yara zap zeek zep zil zimpl zpt
        zs zsh-theme
        asn rl vers
        vala gd sol move prg dem gnuplot gp plt als dockerfile ep srctree swg
    """,
    "data": """
        json jsonl ndjson jsonc json5 jsonld geojson topojson webmanifest map
        yaml yml toml csv tsv psv xsd dtd rng rnc wsdl rdf owl ttl nt svg plist xlf xliff
        ini cfg conf cnf config properties prefs env desktop service socket timer mount target
        lock sum log po pot mo ui glade xib storyboard qrc resx csproj vcxproj sln props targets
        iml opml gpx kml rss atom bib ris ics vcf srt vtt ass snap ps eps pdf
        rtf dxf stl obj ply wrl
        fasta fa fna faa fastq fq gb gbk embl gff gff3 gtf bed sam pdb cif mol mol2 sdf xyz nex nwk
        aln sto phy graphml gexf gml mtx strings typed automount lcl
        supp valgrind nanorc har conll conllu gltf dae kicad_pcb kicad_sch nuspec natvis dita rviz
        urdf xacro sdf wxs wxi wixproj fsproj vbproj dsw xcconfig pbxproj tfstate textproto
        cson yang xmi tmlanguage snippet code-snippets sha224 sha384 crc32
        afm ent enc cert vcproj filters neon templates menu tre
        output out right ok expected expect good gold golden ref wrong dump stdout stderr
        xpm xbm ppm pgm pbm bdf pem crt cer key pub asc sig gpg md5 sha1 sha256 sha512
        uu uue dsp
        dic aff hyp tmx arff dot gv pc la dat tab reg lst toc idx control pom icon theme cabal opam
    """,
}
_FORMAT_OF = _by_word(_EXTENSIONS)

# Debian's lists are named so, or `package.docs` where a source makes several packages.
_DEBHELPER = """
    clean dirs docs doc-base examples install links lintian-overrides maintscript manpages
    mime not-installed series shlibs symbols sysusers tmpfiles triggers
"""
_FORMAT_OF |= _by_word({"data": _DEBHELPER})

_NAMES: dict[_Format, str] = {
    "code": """
        makefile gnumakefile bsdmakefile kbuild kconfig dockerfile containerfile rakefile gemfile
        vagrantfile jenkinsfile cmakelists.txt configure sconstruct sconscript wscript justfile
        dune dune-project brewfile guardfile podfile fastfile capfile meson.build meson_options.txt
        build.bazel texinfo.tex epsf.tex .bashrc .bash_profile .profile .zshrc .vimrc .emacs
        pkgbuild apkbuild
        .bash_aliases .bash_login .bash_logout .login .logout .zshenv .zprofile .zlogin .cshrc
        .kshrc .xinitrc .xsession .envrc .gvimrc .exrc .gdbinit .irbrc .pryrc .rprofile .latexmkrc
    """,
    "data": """
        requirements.txt requirements.in constraints.txt manifest.in sources.txt entry_points.txt
        requires.txt top_level.txt robots.txt go.mod pipfile pkg-info metadata record codeowners
        md5sums control compat format version substvars watch potfiles linguas .git_archival.txt
        description index manifest namespace hosts
    """,
}
_FORMAT_OF_NAME = _by_word(_NAMES)
_NAMES_OF_LISTS = _words(_DEBHELPER)

_TEXT_STEMS = _words(
    """
    readme license licence licenses licences copying copyright changelog changes history news
    authors contributors contributing install installation todo thanks credits notice bugs faq
    hacking maintainers acknowledgements acknowledgments security releasing upgrading warranty
    unlicense announce
    """
)
# In lower case these are names of programs and of tests, too.
_PROGRAMS = _words("changes history install news")
_CODE_STEMS = _words("makefile dockerfile gnumakefile gemfile kconfig")
_MAKEFILES = _words("makefile gnumakefile")

# They are put after the extension that says what the file is.
_ADDED = _words("in tmpl template tpl dist example sample orig bak old default skel txt")
_ADDED_TO_TEMPLATES = _words("tmpl template tpl")

_MAGIKA: dict[_Format, str] = {
    "markdown": "markdown",
    "notebook": "ipynb",
    "html": "html",
    "latex": "latex",
    "text": "rst eml",
    "code": """
        aidl asm asp autohotkey autoit awk batch bazel c clojure cmake cobol coffeescript cpp cs
        css dart diff dm dockerfile elixir erb erlang fortran gemfile gemspec go gradle groovy
        handlebars haskell hcl java javascript jinja julia kotlin lisp lua m4 makefile matlab
        objectivec ocaml pascal perl php powershell prolog proto python r ruby rust scala scss
        shell smali solidity sql swift tcl twig typescript vba verilog vhdl vue yara zig
    """,
}
_FORMAT_OF_MAGIKA = _by_word(_MAGIKA)

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
_XML_NAME = re.compile(r"<([\w.:-]+)")
_ELEMENT = re.compile(r"\s*<([a-zA-Z][\w.:-]*)[\s>]")
_HTML_ROOT = re.compile(r"<html\b", re.IGNORECASE)

# Packages and the like are described by such lines, and so are mails, which are text.
_HEADER = re.compile(r"(?:[A-Z][A-Za-z-]*: .*\n(?:[ \t].*\n)*){3}")
_MAIL = re.compile(r"(?:.*\n){0,9}(?:From|Subject|Date): ")
_BODY = re.compile(r"\n\r?\n\s*\S")

_DIFF = re.compile(r"^--- .+\n\+\+\+ .+\n@@ -", re.MULTILINE)
_CHECKSUM = re.compile(r"[0-9a-fA-F]{32,128}[ \t]+\*?\S")

_PLAIN = _words("txt randomtxt undefined unknown")
_PROSE_KINDS = _PLAIN | _words("markdown rst latex html eml")
_STOP = re.compile(r"[.,;:!?][\"')\]]*(?:\s|$)|[\u3001\u3002\uff0c\uff01\uff1f\u0964\u06d4\u060c]")
_TEMPLATES = _words("erb handlebars jinja twig")
_COMMENT = re.compile(r"#(?:[\s#]|$)")
_SENTENCE = re.compile(r"\w+(?:,? \w+){2,9}[.!?]")
_LIST_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])(?:\s|$)")
_DEFINITION = re.compile(
    r"\s*\\(?:(?:long|outer|global|protected)\s*\\)?"
    r"(?:[gex]?def|let|(?:re)?newcommand|providecommand|newif|newcount|newdimen|newskip|newbox|"
    r"newtoks|newenvironment|catcode|futurelet|DeclareTextCommand)(?![a-zA-Z])"
)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")

# The roots of DocBook, TEI, DITA, RFCs and Apache's pages, and of XSLT.
_XML_DOCUMENTS = _words(
    """
    article book bookinfo part chapter appendix preface refentry reference section sect1 sect2
    para glossary set document page rfc tei tei.2 topic concept task manual guide faqs helpdocument
    """
)
_XML_PROGRAMS = _words("xsl:stylesheet xsl:transform")
_XML_TAG = re.compile(r"<[^<>]*>")

_TEMPLATE_TAG = re.compile(r"\{%-? ?\w|\{\{-? ?[\w.$]|<%|<\?(?:php|=)")
_BLOCK_TAG = re.compile(
    r"^[ \t]*\{%-? *(?:if|for|set|block|extends|include|import|macro)\b", re.MULTILINE
)
# In text, examples of them are indented.
_BLOCK_TAG_AT_MARGIN = re.compile(_BLOCK_TAG.pattern.replace(r"[ \t]*", "", 1), re.MULTILINE)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)")
_INLINE = _words(
    """
    a abbr acronym b bdi bdo big br cite code del dfn em font i img ins kbd mark q s samp small
    span strike strong sub sup time tt u var wbr
    """
)
_HIDDEN = _words("script style svg")
_QUOTING = _words("pre code")
_ELEMENTS_OF_PAGES = (
    _INLINE
    | _HIDDEN
    | _QUOTING
    | _words(
        """
    html head body template div p h1 h2 h3 h4 h5 h6 ul ol dl table form section article header
    footer main nav aside center blockquote figure button input label fieldset
    """
    )
)
_PARAGRAPH = 60
_ENDS = re.compile(r"[.!?:][^\w\s]{0,3}(?:\s|$)|[\u3002\uff01\uff1f\u0964\u06d4]")


class Labeller:
    """Labels documents. Making one loads magika's model, which lies in its package."""

    def __init__(self) -> None:
        self._magika = _OneThread()

    def label(self, name: str, text: str) -> Label:
        """The label of a document; the same for the same arguments.

        Args:
            name: the base name of its file, or "" where there is none.
            text: all of it.
        """
        if not text.strip():
            return "data"
        return _label_in_format(_format_of_name(name, text) or self._format_of(text), text)

    def _format_of(self, text: str) -> _Format:
        """What a document is by its content alone."""
        if text.startswith(_PROGRAM_STARTS):
            return "code"
        if _TROFF_REQUEST.search(text, 0, _READ):
            return "text"
        if _XML.match(text):
            return "html" if _HTML_ROOT.search(text, 0, _READ) else "xml"
        if _is_element(text) or _CHECKSUM.match(text):
            return "data"
        if all(map(_REQUIREMENT.fullmatch, _lines(text))):
            return "data"
        if text.lstrip().startswith("/*") or _DIFF.search(text, 0, _PROSE_READ):
            return "code"
        ends = text if len(text) <= 2 * _READ else text[:_READ] + text[-_READ:]
        # JSON can hold half of a surrogate pair, which UTF-8 cannot.
        guess = self._magika.identify_bytes(ends.encode(errors="replace")).prediction
        kind = str(guess.dl.label)
        if guess.score < _SURE or kind in _PLAIN:
            if _HEADER.match(text):
                return "text" if _MAIL.match(text) and _BODY.search(text) else "data"
            if _is_table(text):
                return "data"
            if _is_prose(text, sentences=kind not in _PROSE_KINDS):
                return "text"
            if guess.score < _LIKELY:
                return "data"
        if kind in _TEMPLATES and not _TEMPLATE_TAG.search(text):
            return "html"
        format = _FORMAT_OF_MAGIKA.get(kind, "data")
        # Tables of numbers and drawings made of characters look like code to magika.
        return "data" if format == "code" and _letter_share(text) < 0.4 else format


class _OneThread(Magika):
    """Magika with a session of one thread: who labels much runs several processes."""

    def _init_onnx_session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(
            self._model_path, options, providers=["CPUExecutionProvider"]
        )


def _format_of_name(name: str, text: str) -> _Format | None:
    """What a name says, or None where it says too little."""
    executable = text.startswith(_PROGRAM_STARTS)
    stem, _, suffix = name.rpartition(".")
    if name.lower() in _FORMAT_OF_NAME:
        return _FORMAT_OF_NAME[name.lower()]
    if name in _NAMES_OF_LISTS:
        return "code" if executable else "data"
    if name.partition(".")[0].lower() in _MAKEFILES:  # "Makefile.svg" makes images
        return "code"
    template = suffix.lower() in _ADDED_TO_TEMPLATES
    while stem and suffix.lower() in _ADDED:
        name = stem
        stem, _, suffix = name.rpartition(".")
    if name.lower() in _FORMAT_OF_NAME:
        return _FORMAT_OF_NAME[name.lower()]
    if stem:
        if suffix.lower() in _FORMAT_OF:
            format = _FORMAT_OF[suffix.lower()]
            # "README.mac" and "INSTALL.pt" are read.
            if format == "code" and stem.isupper() and stem.lower() in _TEXT_STEMS:
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
    # "README-alpha" and "LICENSE_MIT" are read, but "announce-gen" and "install" are programs.
    first = re.split("[.]" if name.islower() else "[-._]", name, maxsplit=1)[0]
    if first.lower() in _CODE_STEMS:
        return "code"
    if first.lower() in _TEXT_STEMS and first not in _PROGRAMS and not executable:
        return "text"
    return None


def _label_in_format(format: _Format, text: str) -> Label:
    if format == "markdown":
        return "code" if _markdown_code_share(text) > 0.5 else "text"
    if format == "notebook":
        return _label_of_notebook(text)
    if format == "html":
        return _label_of_html(text)
    if format == "latex":
        return "code" if _is_of_macros(text) else "text"
    if format == "xml":
        return _label_of_xml(text)
    tag = {"data": _BLOCK_TAG, "text": _BLOCK_TAG_AT_MARGIN}.get(format)
    return "code" if tag and tag.search(text) else format


def _is_of_macros(text: str) -> bool:
    """Whether it is LaTeX of definitions rather than of prose."""
    lines = [line for line in text.splitlines() if line.strip() and line.lstrip()[0] != "%"]
    definitions = sum(map(bool, map(_DEFINITION.match, lines)))
    if "\\begin{document}" in text:
        return False
    if definitions > 0.15 * len(lines):
        return True
    return "\\begin{" not in text and not _is_prose("\n".join(lines), sentences=True)


def _label_of_xml(text: str) -> Label:
    root = _xml_root(text)
    if root in _XML_PROGRAMS or _BLOCK_TAG.search(text):
        return "code"
    shown = _XML_TAG.sub(" ", text[: 4 * _PROSE_READ])
    reads = len(_ENDS.findall(shown)) >= 3 and _letter_share(shown) >= 0.75
    return "text" if root in _XML_DOCUMENTS and reads else "data"


def _xml_root(text: str) -> str:
    """The name of the first element in lower case, "" where there is none."""
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
        notebook = json.loads(text)
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    except (ValueError, RecursionError, LookupError, TypeError):
        return "data"
    code = sum(len(source) for kind, source in cells if kind == "code")
    total = sum(len(source) for _, source in cells)
    if not total:
        return "data"
    return "code" if 2 * code >= total else "text"


def _label_of_html(text: str) -> Label:
    """Reads a page in one pass.

    The parsers in Python's library take quadratic time for some broken pages; this one passes each
    character a fixed number of times and stops where something is not closed.
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
        if length >= _PARAGRAPH and _ENDS.search(shown_text) and not preformatted:
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
            _TEMPLATE_TAG.search(text, position, begin)
            or _TEMPLATE_TAG.search(text, begin, begin + 3 if end < 0 else end)
        ):
            return "code"
        if end < 0:
            break
        position = end + 1
        if not tag:
            continue
        element, closes = tag[1].lower(), text[begin + 1] == "/"
        if element not in _INLINE:
            end_block()
        if element in _QUOTING:
            preformatted = max(0, preformatted - 1) if closes else preformatted + 1
        elif element in _HIDDEN and not closes and text[end - 1] != "/":
            begin, position = position, lower.find(f"</{element}", position)
            if position < 0:
                break
            hidden += position - begin if element != "svg" else 0
    end_block()
    if prose >= 200 and 3 * prose >= shown:
        return "text"
    return "code" if hidden > 2 * shown else "data"


def _letters(text: str) -> int:
    if text.isascii():
        return sum(map(str.isalpha, text))
    return sum(unicodedata.category(character)[0] in "LM" for character in text)


def _letter_share(text: str) -> float:
    """The share of what is not space."""
    text = text[:_PROSE_READ]
    return _letters(text) / max(1, sum(map(len, text.split())))


def _is_element(text: str) -> bool:
    """Whether it is an element as of XML, which HTML has not, from its beginning to its end."""
    element = _ELEMENT.match(text)
    return (
        element is not None
        and element[1].lower() not in _ELEMENTS_OF_PAGES
        and text.rstrip().endswith(f"</{element[1]}>")
    )


def _lines(text: str) -> list[str]:
    """Those that are neither blank nor comments: these say nothing of what they are put on."""
    lines = [line.strip() for line in text[:_PROSE_READ].splitlines()]
    return [line for line in lines if line and not _COMMENT.match(line)]


def _is_table(text: str) -> bool:
    """Whether a separator is as often in nearly all lines."""
    lines = _lines(text)
    for separator in "|;:\t":
        counts = Counter(line.count(separator) for line in lines)
        count, rows = max(counts.items(), key=lambda item: item[1], default=(0, 0))
        if count >= 2 and rows >= max(5, 0.8 * len(lines)):
            return True
        if count >= 5 and rows == len(lines):
            return True
    return False


def _is_prose(text: str, *, sentences: bool) -> bool:
    """Whether it is letters for the most, in lines longer than those of a list, and punctuated.

    Args:
        text: the document.
        sentences: whether it takes ends of sentences, not punctuation of any kind.
    """
    lines = _lines(text)
    text = "\n".join(lines)
    if _SENTENCE.fullmatch(text):
        return True
    words = len(text.split())
    return (
        bool(lines)
        and (words >= 3 or not text.isascii())
        and _letter_share(text) >= 0.75
        and _letters(text) >= 15 * len(lines)
        and 30 * len((_ENDS if sentences else _STOP).findall(text))
        >= (words if sentences else words - 8)
    )
