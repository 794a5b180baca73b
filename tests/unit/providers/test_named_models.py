"""Every model that embatch names somewhere is one that it knows, and that the emulator serves at the same price."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embatch.emulator.catalog import MODELS, find_model
from embatch.providers.facts import FACTS_VARIABLE, facts_for, is_known, known_models

ROOT = Path(__file__).parents[3]
_NAMED = re.compile(r"\b(?:gemini|openai):([a-z]+-[a-z0-9.-]*[a-z0-9])")


@pytest.fixture(autouse=True)
def _no_facts_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FACTS_VARIABLE, raising=False)


@pytest.mark.parametrize("model", known_models())
def test_the_emulator_serves_what_the_facts_know(model: str) -> None:
    """A rehearsal of any known model bills what the provider would."""
    facts, emulated = facts_for(model), find_model(model.partition(":")[2])
    assert emulated is not None
    assert emulated.provider == facts.provider
    assert (emulated.dimensions, emulated.item_tokens) == (facts.dimensions, facts.call.item_tokens)
    assert facts.prices is not None
    mine, theirs = facts.prices, emulated.price
    assert (mine.individual, mine.batch) == (theirs.individual, theirs.batch)
    assert (mine.output_individual, mine.output_batch) == (theirs.output_individual, theirs.output_batch)


@pytest.mark.parametrize("name", [f"{model.provider}:{model.name}" for model in MODELS])
def test_the_facts_know_what_the_emulator_serves(name: str) -> None:
    """Whoever tries a model of the emulator is not told that it is unknown."""
    assert is_known(name)


def test_what_texts_name_is_known() -> None:
    """Help texts, hints and documentation name no model that does not exist here."""
    files = [
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
    found = {
        f"{match[0]} in {file.name}"
        for file in files
        for match in _NAMED.finditer(file.read_text(encoding="utf-8"))
        if find_model(match[1]) is None
    }
    assert not found
