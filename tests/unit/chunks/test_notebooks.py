"""Notebooks as documents, a cell each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from embatch.search.chunks.notebooks import read_notebook


def notebook(cells: list[dict[str, Any]], **metadata: Any) -> str:
    """A file as Jupyter writes it."""
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4}, indent=1, ensure_ascii=False)


def code(*lines: str) -> dict[str, Any]:
    """A code cell with outputs that must not be seen."""
    return {"cell_type": "code", "source": list(lines), "outputs": [{"text": ["source: secret\n"]}]}


def test_each_cell_is_a_document_with_its_lines_in_the_file() -> None:
    """Cells are numbered from 1, their first lines are those of the file, outputs are gone, blank cells too."""
    text = notebook(
        [
            {"cell_type": "markdown", "source": ["# Größe\n", "words\n"]},
            code("import os\n", 'print("a\\n")\n'),
            code(),
            {"cell_type": "raw", "source": "one string"},
            code("import os\n"),
        ]
    )
    documents, problem = read_notebook("a.ipynb", text)
    assert problem is None
    assert [(d.part, d.language, d.text) for d in documents] == [
        ("cell 1", "markdown", "# Größe\nwords\n"),
        ("cell 2", "python", 'import os\nprint("a\\n")\n'),
        ("cell 4", "text", "one string"),
        ("cell 5", "python", "import os\n"),
    ]
    lines = text.split("\n")
    for document in documents:
        assert (
            json.dumps(document.text.split("\n")[0], ensure_ascii=False)[1:-1]
            in lines[document.first_line - 1]
        )
    assert documents[3].first_line > documents[1].first_line
    assert "secret" not in "".join(d.text for d in documents)


@pytest.mark.parametrize(
    ("metadata", "source", "language"),
    [
        ({"language_info": {"name": "Rust"}}, "x", "rust"),
        ({"kernelspec": {"language": "C++"}}, "x", "cpp"),
        ({"language_info": {"name": "ipython3"}}, "x", "python"),
        ({}, "%matplotlib inline\n!ls\nx = 1", "python"),
        ({}, "%%bash\nls", "bash"),
        ({}, "%%timeit\nf()", "python"),
        ({}, "%%", "python"),
        ({"language_info": 3, "kernelspec": []}, "x", "python"),
    ],
)
def test_the_kernel_and_magics_give_the_language(
    metadata: dict[str, Any], source: str, language: str
) -> None:
    """A cell is in the kernel's language unless its first line gives it to another interpreter."""
    (document,), _ = read_notebook("a", notebook([code(source)], **metadata))
    assert document.language == language


def test_the_third_format() -> None:
    """Cells lie in worksheets, code is called input, headings have a level."""
    sheet = {
        "cells": [
            {"cell_type": "heading", "level": 2, "source": ["Part"]},
            {"cell_type": "code", "input": ["x = 1"], "language": "python"},
        ]
    }
    documents, problem = read_notebook("a", json.dumps({"worksheets": [sheet], "nbformat": 3}))
    assert problem is None
    assert [(d.text, d.language) for d in documents] == [("## Part", "markdown"), ("x = 1", "python")]


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000, '{"cells": [}'])
def test_a_broken_file_is_named(text: str) -> None:
    """What is no notebook is a problem with the file's name in it."""
    documents, problem = read_notebook("a.ipynb", text)
    assert documents == []
    assert "'a.ipynb'" in str(problem)


@pytest.mark.parametrize(
    "cells", [[3], [{}], [{"source": [1, None]}], [{"source": {"a": 1}}], {"a": 1}, None]
)
def test_odd_cells_are_passed_over(cells: Any) -> None:
    """Cells without a source hold nothing; that is no error."""
    assert read_notebook("a", json.dumps({"cells": cells})) == ([], None)


def test_lone_surrogates_become_text() -> None:
    """JSON can hold what is no Unicode."""
    (document,), _ = read_notebook("a", '{"cells": [{"cell_type": "code", "source": "x = \\"\\ud83d\\""}]}')
    assert document.text == 'x = "\ufffd"'
