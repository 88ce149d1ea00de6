"""The names and words that show what a file is: extensions, names, formats, elements.

These are only tables. The rules that use them are in labels.py and label_formats.py.
"""

from typing import Literal

Label = Literal["text", "code", "data"]
Format = Literal["text", "code", "data", "markdown", "notebook", "html", "latex", "xml"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _by_word(table: dict[Format, str]) -> dict[str, Format]:
    return {word: format for format, words in table.items() for word in words.split()}


# The rarer ones are GitHub Linguist's, where they say one kind alone.
_EXTENSIONS: dict[Format, str] = {
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
FORMAT_OF_EXTENSION = _by_word(_EXTENSIONS)

# Debian's lists are named so, or `package.docs` where a source makes several packages.
_DEBHELPER = """
    clean dirs docs doc-base examples install links lintian-overrides maintscript manpages
    mime not-installed series shlibs symbols sysusers tmpfiles triggers
"""
FORMAT_OF_EXTENSION |= _by_word({"data": _DEBHELPER})

_NAMES: dict[Format, str] = {
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
FORMAT_OF_NAME = _by_word(_NAMES)
DEBIAN_LISTS = _words(_DEBHELPER)

TEXT_STEMS = _words(
    """
    readme license licence licenses licences copying copyright changelog changes history news
    authors contributors contributing install installation todo thanks credits notice bugs faq
    hacking maintainers acknowledgements acknowledgments security releasing upgrading warranty
    unlicense announce
    """
)
# In lower case these are names of programs and of tests, too.
PROGRAM_STEMS = _words("changes history install news")
CODE_STEMS = _words("makefile dockerfile gnumakefile gemfile kconfig")
MAKEFILE_STEMS = _words("makefile gnumakefile")

# They are put after the extension that says what the file is.
ADDED_EXTENSIONS = _words("in tmpl template tpl dist example sample orig bak old default skel txt")
TEMPLATE_EXTENSIONS = _words("tmpl template tpl")

_MAGIKA: dict[Format, str] = {
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
FORMAT_OF_MAGIKA_LABEL = _by_word(_MAGIKA)

PLAIN_LABELS = _words("txt randomtxt undefined unknown")

PROSE_LABELS = PLAIN_LABELS | _words("markdown rst latex html eml")

TEMPLATE_LABELS = _words("erb handlebars jinja twig")

# The roots of DocBook, TEI, DITA, RFCs and Apache's pages, and of XSLT.
XML_DOCUMENT_ROOTS = _words(
    """
    article book bookinfo part chapter appendix preface refentry reference section sect1 sect2
    para glossary set document page rfc tei tei.2 topic concept task manual guide faqs helpdocument
    """
)

XML_PROGRAM_ROOTS = _words("xsl:stylesheet xsl:transform")

INLINE_ELEMENTS = _words(
    """
    a abbr acronym b bdi bdo big br cite code del dfn em font i img ins kbd mark q s samp small
    span strike strong sub sup time tt u var wbr
    """
)

HIDDEN_ELEMENTS = _words("script style svg")

QUOTING_ELEMENTS = _words("pre code")

PAGE_ELEMENTS = (
    INLINE_ELEMENTS
    | HIDDEN_ELEMENTS
    | QUOTING_ELEMENTS
    | _words(
        """
    html head body template div p h1 h2 h3 h4 h5 h6 ul ol dl table form section article header
    footer main nav aside center blockquote figure button input label fieldset
    """
    )
)
