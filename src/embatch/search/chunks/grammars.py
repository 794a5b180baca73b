"""What the syntax trees of each language call a function, a class, a name, an import: one table for one walk.

The grammars are the packages of the `search` extra, imported when a document of the language comes. Node types are
those of the versions that pyproject names; one that a grammar does not have is no error here, a test looks for it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from embatch.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping


def _types(words: str) -> frozenset[str]:
    return frozenset(words.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What to look for in the trees of one language. All are node types unless they are called fields."""

    module: str
    """The Python package."""
    entry: str = "language"
    """Its function that gives the language."""
    functions: frozenset[str]
    """Functions and methods: `method` within a class, or if they name one themselves."""
    methods: frozenset[str] = frozenset()
    """Those that are methods wherever they stand."""
    classes: frozenset[str]
    """What has a name and members: classes, structs, traits, enums."""
    spaces: frozenset[str] = frozenset()
    """What has a name and members that are no methods: modules, namespaces."""
    open: frozenset[str] = frozenset()
    """What holds definitions and adds nothing to their names: `extern "C"`, `#ifdef`."""
    wrappers: frozenset[str] = frozenset()
    """What holds one definition and begins before it: decorators, `export`, `template`."""
    assigned: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Nodes that give a function or class its name -> fields of the name and of the function or class."""
    values: frozenset[str] = frozenset()
    """Functions and classes without a name."""
    bodies: frozenset[str]
    """Children of a definition that hold its members or statements."""
    names: tuple[str, ...] = ("name",)
    """Fields of a definition that hold its name, the first that is there."""
    owner: str = ""
    """Field of a function that holds the type it belongs to: a receiver."""
    leads: frozenset[str] = frozenset()
    """What belongs to what follows it, beside comments."""
    comments: frozenset[str] = frozenset({"comment"})
    imports: frozenset[str] = frozenset()
    """Nodes that are import lines. Some are only if their text says so, see `code_imports`."""

    @property
    def named(self) -> frozenset[str]:
        """All definitions that carry their name."""
        return self.functions | self.methods | self.classes | self.spaces


_JAVASCRIPT = Grammar(
    module="tree_sitter_javascript",
    functions=_types("function_declaration generator_function_declaration"),
    methods=_types("method_definition"),
    classes=_types("class_declaration class"),
    wrappers=_types("export_statement lexical_declaration variable_declaration expression_statement"),
    assigned={
        "variable_declarator": ("name", "value"),
        "assignment_expression": ("left", "right"),
        "pair": ("key", "value"),
        "field_definition": ("property", "value"),
    },
    values=_types("arrow_function function_expression generator_function class"),
    bodies=_types("class_body statement_block"),
    leads=_types("decorator"),
    comments=_types("comment html_comment"),
    imports=_types("import_statement lexical_declaration variable_declaration"),
)
_TYPESCRIPT = Grammar(
    module="tree_sitter_typescript",
    entry="language_typescript",
    functions=_types("function_declaration generator_function_declaration function_signature"),
    methods=_types("method_definition"),
    classes=_types(
        "class_declaration abstract_class_declaration class interface_declaration enum_declaration"
        " type_alias_declaration"
    ),
    spaces=_types("internal_module module"),
    wrappers=_JAVASCRIPT.wrappers | {"ambient_declaration"},
    assigned={
        "variable_declarator": ("name", "value"),
        "assignment_expression": ("left", "right"),
        "pair": ("key", "value"),
        "public_field_definition": ("name", "value"),
    },
    values=_JAVASCRIPT.values,
    bodies=_types("class_body statement_block interface_body enum_body"),
    leads=_types("decorator"),
    comments=_JAVASCRIPT.comments,
    imports=_JAVASCRIPT.imports | {"import_alias"},
)
_TSX = Grammar(
    module=_TYPESCRIPT.module,
    entry="language_tsx",
    functions=_TYPESCRIPT.functions,
    methods=_TYPESCRIPT.methods,
    classes=_TYPESCRIPT.classes,
    spaces=_TYPESCRIPT.spaces,
    wrappers=_TYPESCRIPT.wrappers,
    assigned=_TYPESCRIPT.assigned,
    values=_TYPESCRIPT.values,
    bodies=_TYPESCRIPT.bodies,
    leads=_TYPESCRIPT.leads,
    comments=_TYPESCRIPT.comments,
    imports=_TYPESCRIPT.imports,
)
_C = Grammar(
    module="tree_sitter_c",
    functions=_types("function_definition preproc_function_def"),
    classes=_types("struct_specifier union_specifier enum_specifier"),
    open=_types(
        "preproc_ifdef preproc_if preproc_else preproc_elif preproc_elifdef linkage_specification declaration_list"
    ),
    wrappers=_types("type_definition declaration"),
    bodies=_types("compound_statement field_declaration_list enumerator_list declaration_list"),
    names=("name", "declarator"),
    leads=_types("attribute_declaration"),
    imports=_types("preproc_include"),
)

GRAMMARS: Mapping[str, Grammar] = {
    "python": Grammar(
        module="tree_sitter_python",
        functions=_types("function_definition"),
        classes=_types("class_definition"),
        wrappers=_types("decorated_definition"),
        bodies=_types("block"),
        imports=_types("import_statement import_from_statement future_import_statement"),
    ),
    "javascript": _JAVASCRIPT,
    "jsx": _JAVASCRIPT,
    "typescript": _TYPESCRIPT,
    "tsx": _TSX,
    "go": Grammar(
        module="tree_sitter_go",
        functions=_types("function_declaration"),
        methods=_types("method_declaration"),
        classes=_types("type_spec type_alias"),
        wrappers=_types("type_declaration"),
        bodies=_types("block field_declaration_list interface_type"),
        owner="receiver",
        imports=_types("import_declaration"),
    ),
    "rust": Grammar(
        module="tree_sitter_rust",
        functions=_types("function_item macro_definition"),
        classes=_types("struct_item enum_item union_item trait_item impl_item"),
        spaces=_types("mod_item"),
        open=_types("foreign_mod_item"),
        bodies=_types("block declaration_list field_declaration_list enum_variant_list"),
        names=("name", "type"),
        leads=_types("attribute_item"),
        comments=_types("line_comment block_comment"),
        imports=_types("use_declaration extern_crate_declaration"),
    ),
    "java": Grammar(
        module="tree_sitter_java",
        functions=frozenset(),
        methods=_types("method_declaration constructor_declaration compact_constructor_declaration"),
        classes=_types(
            "class_declaration interface_declaration enum_declaration record_declaration annotation_type_declaration"
        ),
        open=_types("enum_body_declarations"),
        bodies=_types(
            "class_body interface_body enum_body annotation_type_body block constructor_body enum_body_declarations"
        ),
        comments=_types("line_comment block_comment"),
        imports=_types("import_declaration"),
    ),
    "c": _C,
    "cpp": Grammar(
        module="tree_sitter_cpp",
        functions=_C.functions,
        classes=_C.classes | {"class_specifier", "concept_definition"},
        spaces=_types("namespace_definition"),
        open=_C.open,
        wrappers=_C.wrappers | {"template_declaration"},
        bodies=_C.bodies,
        names=_C.names,
        leads=_C.leads,
        imports=_types("preproc_include using_declaration alias_declaration namespace_alias_definition"),
    ),
    "c_sharp": Grammar(
        module="tree_sitter_c_sharp",
        functions=_types("local_function_statement"),
        methods=_types(
            "method_declaration constructor_declaration destructor_declaration operator_declaration"
            " property_declaration indexer_declaration event_declaration"
        ),
        classes=_types(
            "class_declaration struct_declaration interface_declaration enum_declaration record_declaration"
        ),
        spaces=_types("namespace_declaration"),
        open=_types("preproc_if preproc_else preproc_elif"),
        bodies=_types("declaration_list enum_member_declaration_list block accessor_list"),
        imports=_types("using_directive"),
    ),
    "ruby": Grammar(
        module="tree_sitter_ruby",
        functions=_types("method"),
        methods=_types("singleton_method"),
        classes=_types("class"),
        spaces=_types("module"),
        open=_types("singleton_class"),
        bodies=_types("body_statement"),
        imports=_types("call"),
    ),
    "php": Grammar(
        module="tree_sitter_php",
        entry="language_php",
        functions=_types("function_definition"),
        methods=_types("method_declaration"),
        classes=_types("class_declaration interface_declaration trait_declaration enum_declaration"),
        spaces=_types("namespace_definition"),
        wrappers=_types("expression_statement"),
        assigned={"assignment_expression": ("left", "right")},
        values=_types("anonymous_function arrow_function"),
        bodies=_types("declaration_list enum_declaration_list compound_statement"),
        leads=_types("attribute_list"),
        imports=_types("namespace_use_declaration"),
    ),
    "bash": Grammar(
        module="tree_sitter_bash",
        functions=_types("function_definition"),
        classes=frozenset(),
        bodies=_types("compound_statement"),
    ),
    "sql": Grammar(
        module="tree_sitter_sql",
        functions=_types("create_function create_procedure create_trigger"),
        classes=_types("create_table create_view create_materialized_view create_type"),
        wrappers=_types("statement"),
        bodies=_types("function_body procedure_body column_definitions"),
        names=("name", "object_reference"),
        comments=_types("comment marginalia"),
    ),
}
"""Language -> what to look for, for each of `languages.GRAMMARS`."""


@cache
def _language(module: str, entry: str) -> Any:
    """The grammar itself."""
    from tree_sitter import Language

    return Language(getattr(importlib.import_module(module), entry)())


def parse(language: str, source: bytes) -> Any:
    """The root node of a document's syntax tree; whatever the source, there is one.

    Args:
        language: one of `GRAMMARS`.
        source: in UTF-8.

    Raises:
        MissingExtraError: tree-sitter or the language's grammar is not installed.
    """
    grammar = GRAMMARS[language]
    try:
        from tree_sitter import Parser

        parser = Parser(_language(grammar.module, grammar.entry))
    except ImportError as error:
        raise MissingExtraError(
            f'Cutting code by its syntax needs tree-sitter and its grammars ({error}): pip install "embatch[search]".'
        ) from error
    # To the scanners of some grammars a NUL is the end of the text, whatever its length.
    return parser.parse(source.replace(b"\0", b" ")).root_node
