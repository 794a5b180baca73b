"""A provider's model that is only reckoned with: no key, no SDK, nothing sent.

For `plan` and `rehearse`: it counts and splits texts, knows limits and prices, and has what earlier runs have learned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from embatch.errors import UsageError
from embatch.storage.learned import LearnedFacts, default_learned

if TYPE_CHECKING:
    from embatch.frontends.remote import LaneSettings, RemoteModel
    from embatch.remote import ModelFacts


class ReadOnly(LearnedFacts):
    """What real runs have learned, for those that must not add to it."""

    def __init__(self, learned: LearnedFacts) -> None:
        self._learned = learned

    def load(self, key: str) -> dict[str, Any]:
        """What was learned last of the same model, under any account."""
        return self._learned.load_like(key)

    def save(self, key: str, facts: dict[str, Any]) -> None:
        """Nothing is kept."""


class Unopened:
    """Stands where a provider stands, and is never asked anything."""

    account = ""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        self.name = facts.provider

    def close(self) -> None:
        """Nothing was opened."""

    def __getattr__(self, name: str) -> NoReturn:
        raise UsageError(
            f"what {self.name}:{self.facts.model} answers is not known before it is asked ({name})",
            hint="Give --dimensions: how many the model has is not among its facts.",
        )


def planned_model(
    model: str,
    settings: LaneSettings,
    *,
    facts: ModelFacts | None = None,
    dimensions: int | None = None,
    tier: str | None = None,
    base_url: str | None = None,
) -> RemoteModel:
    """The model of this name, to be reckoned with. `dimensions` stand in where the model's are not known.

    Raises:
        UsageError: they are not known, and were not given.
    """
    from embatch.frontends.remote import RemoteModel
    from embatch.providers.registry import facts_for

    found = facts or facts_for(model, tier=tier)
    if found.prices is not None and found.prices.output_individual > 0:
        raise UsageError(
            f"{model} answers prompts: what its answers cost cannot be said before they are there",
            hint="Play the run with `embatch rehearse`, and send a few prompts with `embatch generate` and a --budget.",
        )
    if not found.dimensions:
        if dimensions is None:
            raise UsageError(
                f"how many dimensions {model} has is not known before it is asked",
                hint="Check the name; if it is right, add --dimensions.",
            )
        found = replace(found, dimensions=dimensions)
    provider: Any = Unopened(found)
    learned = ReadOnly(default_learned())
    return RemoteModel(provider, settings=settings, learned=learned, base_url=base_url)
