"""Facts of providers' models: read from the shipped file, chosen by tier, overridden by a user's file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.errors import UsageError
from embatch.providers.facts import FACTS_VARIABLE, facts_for, is_known, tiers_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_facts_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FACTS_VARIABLE, raising=False)


@pytest.fixture
def facts_file(tmp_path: Path) -> Callable[[str], Path]:
    """`facts_file(text)` writes a user's file of facts."""

    def write(text: str) -> Path:
        path = tmp_path / "facts.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_gemini_embedding_001_as_published() -> None:
    """Limits, quotas of tier 1, prices and tasks of the model that most will use."""
    facts = facts_for("gemini:gemini-embedding-001")
    assert (facts.provider, facts.model, facts.dimensions) == ("gemini", "gemini-embedding-001", 3072)
    assert (facts.unit_length, facts.unit_length_when_cut) == (True, False)
    assert (facts.call.items, facts.call.item_tokens) == (100, 2048)
    assert (facts.rates.items, facts.rates.tokens, facts.rates.requests) == (3000, 1_000_000, None)
    assert facts.job is not None
    assert (facts.job.enqueued_tokens, facts.job.expires_s, facts.job.partial) == (500_000, 172_800, False)
    assert facts.prices is not None
    assert (facts.prices.individual, facts.prices.batch) == (0.15, 0.075)
    assert "RETRIEVAL_DOCUMENT" in facts.tasks
    assert facts.as_of


def test_openai_counts_calls_and_keeps_partial_results() -> None:
    """OpenAI's quota is of requests, and an expired job keeps what it has."""
    facts = facts_for("openai:text-embedding-3-small")
    assert (facts.call.items, facts.call.tokens, facts.call.item_tokens) == (2048, 300_000, 8192)
    assert (facts.rates.requests, facts.rates.items) == (3000, None)
    assert facts.job is not None
    assert (facts.job.items, facts.job.bytes, facts.job.partial) == (50_000, 200_000_000, True)


def test_a_model_like_another_differs_only_in_what_it_says() -> None:
    """`like` takes over limits and tiers, but not what the model says itself."""
    small, large = facts_for("openai:text-embedding-3-small"), facts_for("openai:text-embedding-3-large")
    assert large.dimensions == 3072
    assert large.prices != small.prices
    assert (large.rates, large.job, large.call) == (small.rates, small.job, small.call)
    preview = facts_for("gemini:gemini-embedding-2-preview")
    assert preview.prompts == facts_for("gemini:gemini-embedding-2").prompts


def test_unknown_models_get_their_providers_defaults() -> None:
    """A name that is not in the file keeps the provider's limits, with dimensions and price unknown."""
    facts = facts_for("openai:text-embedding-9-huge")
    assert (facts.dimensions, facts.prices, facts.call.items) == (0, None, 2048)
    assert not is_known("openai:text-embedding-9-huge")
    assert is_known("openai:text-embedding-3-small")
    compatible = facts_for("compatible:bge-m3")
    assert (compatible.job, compatible.call.items, compatible.unit_length) == (None, 64, False)


@pytest.mark.parametrize("model", ["mistral:embed", "gemini:", "gemini", "minilm", ":x"])
def test_names_of_no_provider_are_refused(model: str) -> None:
    """What is no provider's model is a usage error that names the providers."""
    with pytest.raises(UsageError) as error:
        facts_for(model)
    assert "gemini:" in error.value.hint


def test_tiers_decide_quotas() -> None:
    """A tier changes quotas and the queue's limit; one that does not exist is refused with those that do."""
    model = "gemini:gemini-embedding-001"
    free, third = facts_for(model, tier="free"), facts_for(model, tier="3")
    assert (free.rates.items, third.rates.items) == (100, 10_000)
    assert free.job is not None
    assert third.job is not None
    assert (free.job.enqueued_tokens, third.job.enqueued_tokens) == (None, 10_000_000)
    with pytest.raises(UsageError) as error:
        facts_for(model, tier="9")
    assert all(tier in error.value.hint for tier in tiers_of(model))


def test_on_vertex_there_are_no_jobs_and_other_limits() -> None:
    """Vertex AI takes 250 texts and 20,000 tokens a call, has no embedding jobs here, and quotas that are unknown."""
    facts = facts_for("gemini:gemini-embedding-001", variant="vertex")
    assert facts.job is None
    assert (facts.call.items, facts.call.tokens, facts.call.item_tokens) == (250, 20_000, 2048)
    assert facts.rates.items is None
    assert facts_for("gemini:gemini-2.5-flash", variant="vertex").call.items == 1


def test_a_users_file_overrides_value_by_value(
    facts_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user's file says wins, by argument or variable; everything else stays."""
    path = facts_file(
        """
        [tier]
        gemini = "2"
        [models."gemini:gemini-embedding-001"]
        prices = { individual = 9.0 }
        [models."gemini:gemini-embedding-001".call]
        items = 7
        [models."compatible:mine"]
        dimensions = 12
        call = { items = 3 }
        """
    )
    facts = facts_for("gemini:gemini-embedding-001", facts_file=path)
    assert facts.prices is not None
    assert (facts.prices.individual, facts.prices.batch) == (9.0, 0.075)
    assert (facts.call.items, facts.call.item_tokens) == (7, 2048)
    assert facts.rates.items == 5000
    monkeypatch.setenv(FACTS_VARIABLE, str(path))
    assert facts_for("compatible:mine").dimensions == 12
    assert facts_for("compatible:mine").call.items == 3
    assert is_known("compatible:mine")


def test_jobs_can_be_switched_off_by_a_users_file(facts_file: Callable[[str], Path]) -> None:
    """`job = false` says that there are none."""
    path = facts_file('[models."openai:text-embedding-3-small"]\njob = false')
    assert facts_for("openai:text-embedding-3-small", facts_file=path).job is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("price = 3", "price"),
        ('[models."openai:x"]\ndimension = 3', "models.openai:x.dimension"),
        ('[models."openai:x".call]\nitem = 3', "models.openai:x.call.item"),
        ('[models."openai:x".tiers.1]\nrpm = 3', "models.openai:x.tiers.1.rpm"),
    ],
)
def test_unknown_keys_are_named(facts_file: Callable[[str], Path], text: str, named: str) -> None:
    """A misspelt key is no silent default: the error says which."""
    with pytest.raises(UsageError, match="mean nothing") as error:
        facts_for("openai:x", facts_file=facts_file(text))
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[models."openai:x"]\ndimensions = "3"', "models.openai:x.dimensions"),
        ('[models."openai:x"]\ndimensions = -3', "models.openai:x.dimensions"),
        ('[models."openai:x"]\njob = true', "models.openai:x.job"),
        ('[models."openai:x"]\ntasks = [1]', "models.openai:x.tasks"),
        ('[models."openai:x"]\nunit_length = 1', "models.openai:x.unit_length"),
        ("[models", "no TOML"),
    ],
)
def test_values_of_the_wrong_kind_are_named(facts_file: Callable[[str], Path], text: str, said: str) -> None:
    """A value that cannot be meant is refused with its place."""
    with pytest.raises(UsageError) as error:
        facts_for("openai:x", facts_file=facts_file(text))
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        facts_for("openai:x", facts_file=tmp_path / "nowhere.toml")
