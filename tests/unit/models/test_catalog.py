"""The table of well-known models: one meaning per name, and prompts that the models' authors ask for."""

from __future__ import annotations

import re

import pytest

from embatch.backends.catalog import DEFAULT, MODELS, KnownModel, find, unknown

MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.alias)


@MODEL
def test_every_spelling_finds_its_model(model: KnownModel) -> None:
    """Alias, owner/name and the bare name lead to the same model, whatever the case."""
    bare = model.name.partition("/")[2]
    for spelling in (model.alias, model.name, bare, model.name.upper(), f" {model.alias} "):
        assert find(spelling) is model


@MODEL
def test_every_row_is_plausible(model: KnownModel) -> None:
    """A row has a canonical name, sizes that embedding models have, and a prompt that ends in a separator."""
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.name)
    assert model.dimensions in {384, 768, 1024}
    assert 128 <= model.max_tokens <= 8192
    assert 20 < model.parameters < 600
    assert all(prompt.endswith(": ") for prompt in model.prompts.values())


def test_aliases_are_unique() -> None:
    """No two rows share an alias or a name."""
    assert len({model.alias for model in MODELS}) == len({model.name for model in MODELS}) == len(MODELS)


def test_the_default_is_pinned_and_mirrored() -> None:
    """The default model's weights have one digest, wherever they come from."""
    model = find(DEFAULT)
    assert model is not None
    assert model.mirror is not None
    assert model.name == "sentence-transformers/all-MiniLM-L6-v2"
    weights = next(file for file in model.pinned if file.path == "model.safetensors")
    assert weights.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert set(model.pinned) <= set(model.mirror.files)
    assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256) for file in model.mirror.files)
    assert all(not file.path.startswith("/") and ".." not in file.path for file in model.mirror.files)


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("minilm", {}),
        ("e5-base", {"query": "query: ", "document": "passage: "}),
        ("bge-small", {"query": "Represent this sentence for searching relevant passages: "}),
        ("modernbert", {"query": "search_query: ", "document": "search_document: "}),
        ("arctic-l-v2", {"query": "query: "}),
        ("gte-base", {}),
    ],
)
def test_prompts(name: str, prompts: dict[str, str]) -> None:
    """Prompts are those of the models' cards, and empty ones are left out."""
    model = find(name)
    assert model is not None
    assert model.prompts == prompts


def test_an_unknown_name_finds_nothing() -> None:
    """A name outside the table is None, not the closest."""
    assert find("minilmm") is None
    assert find("") is None


def test_close_names_are_suggested() -> None:
    """A misspelled name is answered with the alias that was probably meant."""
    assert "minilm" in unknown("minillm", "no such model").hint
    assert "e5-small" in unknown("intfloat/e5-smal-v2", "no such model").hint
    assert "Did you mean" not in unknown("qqqq", "no such model").hint
