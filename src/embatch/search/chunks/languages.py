"""What language a file is in, by its name and its first line.

First step of document → chunks: the language decides who cuts the document. Contents are not guessed at: what neither
its name nor a `#!` line tells is `text`.
"""

from __future__ import annotations

import re

GRAMMARS = frozenset(
    {
        *("python", "javascript", "jsx", "typescript", "tsx", "go", "rust", "java"),
        *("c", "cpp", "c_sharp", "ruby", "php", "bash", "sql"),
    }
)
"""Languages that are cut by their syntax tree."""

PROSE = frozenset({"markdown", "rst", "html", "text"})
"""Languages that are cut by headings, paragraphs and sentences. What is in neither set is cut by lines."""

_ENDINGS = {
    "bash": "sh bash zsh ksh ash bats ebuild",
    "batch": "bat cmd",
    "c": "c h",
    "c_sharp": "cs csx",
    "clojure": "clj cljs cljc edn",
    "cmake": "cmake",
    "cpp": "cc cpp cxx c++ hh hpp hxx h++ ipp inl tpp cu cuh ino",
    "css": "css scss sass less",
    "csv": "csv tsv",
    "cython": "pyx pxd pxi",
    "d": "d",
    "dart": "dart",
    "diff": "diff patch",
    "dockerfile": "dockerfile",
    "elixir": "ex exs",
    "elm": "elm",
    "erlang": "erl hrl",
    "fortran": "f f90 f95 f03 f08 for",
    "fsharp": "fs fsi fsx",
    "glsl": "glsl vert frag comp",
    "go": "go",
    "graphql": "graphql gql",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "hcl": "tf tfvars hcl",
    "html": "html htm xhtml",
    "ini": "ini cfg conf properties editorconfig",
    "java": "java",
    "javascript": "js mjs cjs es6",
    "json": "json jsonc json5 jsonl ndjson geojson webmanifest",
    "jsx": "jsx",
    "julia": "jl",
    "jupyter": "ipynb",
    "kotlin": "kt kts",
    "latex": "tex sty cls bib",
    "lisp": "lisp lsp cl el scm rkt",
    "lua": "lua",
    "make": "mk mak",
    "markdown": "md markdown mdown mkd mdx rmd qmd",
    "nim": "nim nims",
    "nix": "nix",
    "objective_c": "m mm",
    "ocaml": "ml mli",
    "pascal": "pas pp dpr",
    "pdf": "pdf",
    "perl": "pl pm",
    "php": "php php3 php4 php5 phtml phps",
    "powershell": "ps1 psm1 psd1",
    "protobuf": "proto",
    "python": "py pyi pyw pyt wsgi",
    "r": "r",
    "rst": "rst rest",
    "ruby": "rb rake gemspec ru podspec thor jbuilder rbi",
    "rust": "rs",
    "scala": "scala sc sbt",
    "solidity": "sol",
    "sql": "sql ddl dml psql pgsql",
    "starlark": "bzl bazel star",
    "svelte": "svelte",
    "swift": "swift",
    "tcl": "tcl",
    "text": "txt text log asc",
    "toml": "toml",
    "tsx": "tsx",
    "typescript": "ts mts cts",
    "verilog": "v sv svh",
    "vhdl": "vhd vhdl",
    "vim": "vim",
    "vue": "vue",
    "wat": "wat",
    "xml": "xml xsl xslt xsd svg plist xaml csproj vbproj fsproj",
    "yaml": "yaml yml",
    "zig": "zig",
}
_NAMES = {
    "bash": ".bashrc .bash_profile .bash_aliases .bash_login .profile .zshrc .zshenv .zprofile pkgbuild apkbuild",
    "cmake": "cmakelists.txt",
    "dockerfile": "dockerfile containerfile",
    "go_module": "go.mod go.sum go.work",
    "groovy": "jenkinsfile",
    "ini": ".gitconfig .gitmodules .npmrc .pylintrc .flake8 .coveragerc",
    "json": ".babelrc .eslintrc .prettierrc composer.lock pipfile.lock",
    "make": "makefile gnumakefile bsdmakefile",
    "python": "sconstruct sconscript wscript",
    "ruby": "gemfile rakefile vagrantfile podfile guardfile capfile fastfile brewfile",
    "starlark": "build workspace buck",
    "toml": "cargo.lock poetry.lock pipfile uv.lock",
    "yaml": ".clang-format .clang-tidy",
}
_PROGRAMS = {
    "bash": "sh bash zsh ksh ash dash bats",
    "javascript": "node nodejs bun",
    "julia": "julia",
    "lua": "lua luajit",
    "make": "make",
    "perl": "perl",
    "php": "php",
    "powershell": "pwsh",
    "python": "python pypy pypy3",
    "r": "rscript",
    "ruby": "ruby jruby",
    "tcl": "tclsh wish",
    "typescript": "deno tsx",
}


def _by_word(table: dict[str, str]) -> dict[str, str]:
    return {word: language for language, words in table.items() for word in words.split()}


_BY_ENDING, _BY_NAME, _BY_PROGRAM = _by_word(_ENDINGS), _by_word(_NAMES), _by_word(_PROGRAMS)
_SHEBANG = re.compile(
    r"\ufeff?#!\s*(?:\S*/)?([^\s/]+)(?:\s+(?:-\S+\s+|\w+=\S*\s+)*([^\s/]+))?",
)
_ONLY_CPP = re.compile(
    r"^\s*(?:class\s+\w+\s*[:{;]|class\s+\w+\s+(?:final\s*)?[:{]|namespace\s+[\w:]*\s*\{|template\s*<|"
    r"using\s+(?:namespace\s+)?\w+|(?:public|private|protected)\s*:|#\s*include\s*<\w+>|extern\s+\"C\"\s*\{?\s*$)",
    re.MULTILINE,
)


def language_of(path: str, head: str) -> str:
    """The language of a file in lower case, such as `python`, `c_sharp` or `markdown`; `text` if nothing tells.

    Args:
        path: the file's; only its last part counts. Capitals make no difference.
        head: how the file begins, some kilobytes or all of it. It tells where the name does not: its `#!` line, and
            whether a `.h` is C++.
    """
    name = path.replace("\\", "/").rpartition("/")[2].lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    stem, dot, ending = name.rpartition(".")
    if dot and stem and ending in _BY_ENDING:
        language = _BY_ENDING[ending]
        return "cpp" if ending == "h" and _ONLY_CPP.search(head) else language
    if name.split(".", 1)[0] in ("dockerfile", "containerfile", "makefile", "jenkinsfile"):  # Dockerfile.dev
        return _BY_NAME[name.split(".", 1)[0]]
    return _by_first_line(head)


def _by_first_line(head: str) -> str:
    line = head[:400].partition("\n")[0]
    match = _SHEBANG.match(line)
    if match is None:
        return "text"
    program, argument = match.groups()
    if program == "env" and argument:
        program = argument
    return _BY_PROGRAM.get(program) or _BY_PROGRAM.get(program.rstrip("0123456789.").rstrip("-"), "text")
