"""What a model's tokens cost, by its name alone: the providers' published prices, where they are known."""

from __future__ import annotations

from embatch.providers.facts import facts_for, is_known

_PROVIDERS = ("openai", "gemini")


def price_of(model: str) -> float | None:
    """Dollars per million input tokens of synchronous calls; None for a model that is not known.

    Args:
        model: as a service names it, such as `text-embedding-3-small` or `models/gemini-embedding-001`.
    """
    name = model.rpartition("/")[2]
    for provider in _PROVIDERS:
        if name and is_known(f"{provider}:{name}"):
            prices = facts_for(f"{provider}:{name}").prices
            return None if prices is None else prices.individual
    return None
