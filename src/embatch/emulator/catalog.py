"""The models that the emulator serves, with what is theirs: sizes, limits, prices.

Data only. Names and numbers are the providers' own, as far as they are published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProviderName = Literal["gemini", "openai"]
Verb = Literal["embed", "generate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens."""

    individual: float = 0.0
    batch: float = 0.0
    output_individual: float = 0.0
    """Of generated tokens."""
    output_batch: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedModel:
    """One model behind the wire."""

    name: str
    provider: ProviderName
    verb: Verb = "embed"
    dimensions: int = 0
    """Of a full vector; 0 if it generates."""
    min_dimensions: int | None = None
    """Fewest that may be asked for; None if `dimensions` cannot be asked for at all."""
    unit_when_cut: bool = True
    """Whether vectors of fewer dimensions are normalised again."""
    item_tokens: int = 8192
    """Longest text."""
    truncates: bool = False
    """Whether longer texts are cut in silence; else they are refused."""
    tasks: bool = False
    """Whether the task type changes the vector; else it is ignored."""
    price: Price = Price()
    quota_name: str = ""
    """What refusals call it, where that differs from its name."""


MODELS: tuple[EmulatedModel, ...] = (
    EmulatedModel(
        name="gemini-embedding-001",
        provider="gemini",
        dimensions=3072,
        min_dimensions=128,
        unit_when_cut=False,
        item_tokens=2048,
        truncates=True,
        tasks=True,
        price=Price(individual=0.15, batch=0.075),
        quota_name="gemini-embedding-1.0",
    ),
    EmulatedModel(
        name="gemini-embedding-2",
        provider="gemini",
        dimensions=3072,
        min_dimensions=128,
        item_tokens=8192,
        truncates=True,
        price=Price(individual=0.20, batch=0.10),
    ),
    EmulatedModel(
        name="gemini-2.5-flash",
        provider="gemini",
        verb="generate",
        item_tokens=1_048_576,
        price=Price(individual=0.30, batch=0.15, output_individual=2.50, output_batch=1.25),
    ),
    EmulatedModel(
        name="gemini-2.5-flash-lite",
        provider="gemini",
        verb="generate",
        item_tokens=1_048_576,
        price=Price(individual=0.10, batch=0.05, output_individual=0.40, output_batch=0.20),
    ),
    EmulatedModel(
        name="gemini-2.5-pro",
        provider="gemini",
        verb="generate",
        item_tokens=1_048_576,
        price=Price(individual=1.25, batch=0.625, output_individual=10.0, output_batch=5.0),
    ),
    EmulatedModel(
        name="text-embedding-3-small",
        provider="openai",
        dimensions=1536,
        min_dimensions=1,
        price=Price(individual=0.02, batch=0.01),
    ),
    EmulatedModel(
        name="text-embedding-3-large",
        provider="openai",
        dimensions=3072,
        min_dimensions=1,
        price=Price(individual=0.13, batch=0.065),
    ),
    EmulatedModel(
        name="text-embedding-ada-002",
        provider="openai",
        dimensions=1536,
        price=Price(individual=0.10, batch=0.05),
    ),
    EmulatedModel(
        name="gpt-5-mini",
        provider="openai",
        verb="generate",
        item_tokens=272_000,
        price=Price(individual=0.25, batch=0.125, output_individual=2.0, output_batch=1.0),
    ),
    EmulatedModel(
        name="gpt-5-nano",
        provider="openai",
        verb="generate",
        item_tokens=272_000,
        price=Price(individual=0.05, batch=0.025, output_individual=0.40, output_batch=0.20),
    ),
    EmulatedModel(
        name="gpt-4o-mini",
        provider="openai",
        verb="generate",
        item_tokens=128_000,
        price=Price(individual=0.15, batch=0.075, output_individual=0.60, output_batch=0.30),
    ),
    EmulatedModel(
        name="gpt-4.1-mini",
        provider="openai",
        verb="generate",
        item_tokens=1_047_576,
        price=Price(individual=0.40, batch=0.20, output_individual=1.60, output_batch=0.80),
    ),
)

_BY_NAME = {model.name: model for model in MODELS}
_BY_NAME["gemini-embedding-2-preview"] = _BY_NAME["gemini-embedding-2"]


def find_model(name: str) -> EmulatedModel | None:
    """The model of this name; None for one that no provider here has. `models/` in front is allowed."""
    return _BY_NAME.get(name.removeprefix("models/"))
