"""The public face: names, errors, and an import that loads no engine."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import embatch
from embatch import errors
from embatch.errors import EmbatchError

HEAVY = [
    "lance",
    "tree_sitter",
    "numpy",
    "openvino",
    "torch",
    "tokenizers",
    "pyarrow",
    "rich",
    "click",
    "huggingface_hub",
    "sqlite3",
]


def test_every_public_name_is_there() -> None:
    """Each name in __all__ loads, dir() tells them, and an unknown one is an AttributeError."""
    for name in embatch.__all__:
        assert getattr(embatch, name) is not None
    assert dir(embatch) == sorted(embatch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = embatch.nonsense


def test_importing_loads_no_engine() -> None:
    """`import embatch` in a fresh process imports none of the heavy libraries."""
    code = f"import sys, embatch; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


ERRORS = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, EmbatchError) and value.__module__ == "embatch.errors"
]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_answers_the_three_questions(kind: type[EmbatchError]) -> None:
    """Each error has a docstring, a scope, whether a retry helps, a way out, an exit code, and is drawn in the tree."""
    assert kind.__doc__
    assert kind.scope in {"item", "request", "job", "run"}
    assert isinstance(kind.retryable, bool)
    assert kind.default_hint
    assert kind.exit_code in {1, 2, 3, 4, 5, 6, 7, 8, 9, 130}
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__
