"""Every exception class that the SDKs can raise has a kind by a table, not by accident."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

import pytest

from embatch.providers.gemini.errors import SDK_TABLE as GEMINI_TABLE
from embatch.providers.openai.errors import SDK_TABLE as OPENAI_TABLE
from embatch.providers.refusals import TABLE, table_kind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from embatch.remote import ErrorKind

pytestmark = pytest.mark.remote

# Told apart by their status, in `gemini_refusal`.
ANSWERS = {
    "google.genai.errors.APIError",
    "google.genai.errors.ClientError",
    "google.genai.errors.ServerError",
}


def exceptions(module: ModuleType) -> list[type[Exception]]:
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and not issubclass(value, Warning)
    ]
    assert found, f"{module.__name__} has no exceptions any more: look where they went"
    return found


def unmapped(name: str, table: Mapping[str, Mapping[str, ErrorKind]]) -> set[str]:
    module = importlib.import_module(name)
    root = name.split(".", maxsplit=1)[0]
    missing = set()
    for cls in exceptions(module):
        where = f"{cls.__module__}.{cls.__name__}"
        if cls.__module__.startswith(root) and table_kind(cls, table, TABLE) is None:
            missing.add(where)
    return missing - ANSWERS


def test_google_genai() -> None:
    """Those of `google.genai.errors` and of its HTTP layer."""
    assert unmapped("google.genai.errors", GEMINI_TABLE) == set()
    assert unmapped("google.genai._api_client", GEMINI_TABLE) == set()


def test_openai() -> None:
    """The whole tree below OpenAIError, and what stands beside it."""
    assert unmapped("openai", OPENAI_TABLE) == set()
    assert unmapped("openai._exceptions", OPENAI_TABLE) == set()


@pytest.mark.parametrize("library", ["httpx2", "httpx", "aiohttp", "requests", "google.auth.exceptions"])
def test_libraries_under_the_sdks(library: str) -> None:
    """HTTP libraries that an SDK uses here or elsewhere."""
    pytest.importorskip(library)
    assert unmapped(library, {}) == set()


def test_pydantic() -> None:
    """An answer that the SDK's models refuse."""
    import pydantic

    class Model(pydantic.BaseModel):  # type: ignore[misc]  # of an extra: Any to the checker
        number: int

    with pytest.raises(pydantic.ValidationError) as error:
        Model.model_validate({"number": []})
    assert table_kind(error.type, GEMINI_TABLE, TABLE) == "protocol"
