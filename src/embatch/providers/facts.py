"""What is known of providers' models: limits, prices, quotas and tasks, read from a dated data file.

The shipped file is `facts.toml` beside this module; a user's file of the same shape overrides it value by value, and is
checked key by key. Nothing here asks a provider, and no SDK is needed.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embatch.errors import UsageError
from embatch.remote import CallLimits, JobLimits, ModelFacts, Prices, RateLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

Variant = Literal["", "vertex", "azure"]
"""How a model is reached: the provider's own API, or another one that serves the same models."""

FACTS_VARIABLE = "EMBATCH_PROVIDER_FACTS"

_NUMBER = (int, float)
_CALL = dict.fromkeys(("items", "tokens", "bytes", "item_tokens"), (int,))
_JOB: dict[str, Any] = {
    "items": (int,),
    "bytes": (int,),
    "concurrent": (int,),
    "enqueued_tokens": (int,),
    "window_s": _NUMBER,
    "expires_s": _NUMBER,
    "partial": (bool,),
}
_PRICES: dict[str, Any] = {
    "individual": _NUMBER,
    "batch": _NUMBER,
    "output_individual": _NUMBER,
    "output_batch": _NUMBER,
    "as_of": (str,),
}
_TIER = dict.fromkeys(("requests", "items", "tokens", "enqueued_tokens"), (int,))
_MODEL: dict[str, Any] = {
    "like": (str,),
    "generates": (bool,),
    "dimensions": (int,),
    "min_dimensions": (int,),
    "unit_length": (bool,),
    "unit_length_when_cut": (bool,),
    "tasks": (list,),
    "prompts": {"*": (str,)},
    "truncates": (bool,),
    "chars_per_token": _NUMBER,
    "output_tokens": (int,),
    "call": _CALL,
    "job": _JOB,
    "prices": _PRICES,
    "tiers": {"*": _TIER},
    "as_of": (str,),
}
_SHAPE: dict[str, Any] = {
    "as_of": (str,),
    "tier": {"*": (str,)},
    "models": {"*": _MODEL},
    "variants": {"*": _MODEL},
}


def facts_for(
    model: str,
    *,
    facts_file: Path | None = None,
    tier: str | None = None,
    variant: Variant = "",
) -> ModelFacts:
    """What is known of a model, without opening anything.

    Args:
        model: `gemini:NAME`, `openai:NAME` or `compatible:NAME`. A name that is not in the file gets its provider's
            defaults, with dimensions 0 (not known).
        facts_file: a TOML file that overrides the shipped facts; None takes that of EMBATCH_PROVIDER_FACTS, if set.
        tier: which of the provider's tiers the account is on; None takes the file's.
        variant: another API that serves the same models.

    Raises:
        UsageError: no such provider or tier, or a file that is not what it should be.
    """
    provider, _, name = model.partition(":")
    data = _facts(facts_file)
    if not name or f"{provider}:*" not in data["models"]:
        known = ", ".join(sorted(key[:-1] for key in data["models"] if key.endswith(":*")))
        raise UsageError(f"{model!r} names no provider's model", hint=f"Begin it with one of: {known}.")
    entry = _entry(data, model)
    if variant:
        entry = _varied(entry, data["variants"].get(variant, {}))
    if variant and tier is not None:
        raise UsageError(
            f"a tier {tier!r} says nothing of {model} at {variant.title()}: quotas there are the project's own",
            hint="Leave it out: the quotas are learned.",
        )
    quota = {} if variant else _quota(entry, model, tier, data["tier"].get(provider))
    return _model_facts(entry, provider, name, quota, data.get("as_of", ""))


def is_known(model: str, *, facts_file: Path | None = None) -> bool:
    """Whether the facts name this very model, and not only its provider."""
    return model in _facts(facts_file)["models"]


def known_models(*, facts_file: Path | None = None) -> tuple[str, ...]:
    """The names of all models that the facts know, `compatible:` and other patterns left out."""
    return tuple(name for name in _facts(facts_file)["models"] if not name.endswith("*"))


def tiers_of(model: str, *, facts_file: Path | None = None) -> tuple[str, ...]:
    """The tiers that are known for a model, in the file's order; none where its quotas are not known."""
    return tuple(_entry(_facts(facts_file), model).get("tiers", {}))


def _entry(data: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A model's table, with what it inherits from the model that it is like and from its provider's defaults."""
    chain: list[dict[str, Any]] = []
    name: str | None = model
    while name is not None and len(chain) < 8:
        chain.append(data["models"].get(name, {}))
        name = chain[-1].get("like")
    chain.append(data["models"][model.partition(":")[0] + ":*"])
    entry: dict[str, Any] = {}
    for table in reversed(chain):
        entry = _merged(entry, table)
    return entry


def _varied(entry: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A model's table for another API; calls that hold one text (generation) go on holding one."""
    if entry.get("generates"):
        changes = {key: value for key, value in changes.items() if key != "call"}
    return _merged(entry, changes)


def _quota(entry: Mapping[str, Any], model: str, asked: str | None, usual: str | None) -> Mapping[str, Any]:
    tiers, tier = entry.get("tiers", {}), asked or usual
    if not tiers:
        if asked is not None:
            raise UsageError(
                f"{model} has no tiers that are known, so that {asked!r} says nothing",
                hint="Leave it out: the quotas are learned. Or describe them in a file of facts.",
            )
        return {}
    if tier not in tiers:
        raise UsageError(f"{model} has no tier {tier!r}", hint=f"Choose one of: {', '.join(tiers)}.")
    quota: Mapping[str, Any] = tiers[tier]
    return quota


def _model_facts(
    entry: Mapping[str, Any], provider: str, name: str, quota: Mapping[str, Any], as_of: str
) -> ModelFacts:
    limits = entry.get("job", False)
    job = None
    if limits is not False:
        job = JobLimits(**{"enqueued_tokens": quota.get("enqueued_tokens"), **limits})
    return ModelFacts(
        provider=provider,
        model=name,
        dimensions=entry.get("dimensions", 0),
        min_dimensions=entry.get("min_dimensions"),
        unit_length=entry.get("unit_length", True),
        unit_length_when_cut=entry.get("unit_length_when_cut", True),
        tasks=tuple(entry.get("tasks", ())),
        prompts=dict(entry.get("prompts", {})),
        truncates=entry.get("truncates", False),
        output_tokens=entry.get("output_tokens"),
        chars_per_token=float(entry.get("chars_per_token", 4.0)),
        call=CallLimits(**entry.get("call", {})),
        job=job,
        rates=RateLimits(**{key: value for key, value in quota.items() if key != "enqueued_tokens"}),
        prices=Prices(**entry["prices"]) if "prices" in entry else None,
        as_of=entry.get("as_of", as_of),
    )


def _facts(facts_file: Path | None) -> dict[str, Any]:
    chosen = facts_file or os.environ.get(FACTS_VARIABLE) or None
    return _shipped() if chosen is None else _merged(_shipped(), _read(Path(chosen).expanduser()))


@cache
def _shipped() -> dict[str, Any]:
    return _read(Path(__file__).with_name("facts.toml"))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the file of provider facts {str(path)!r} cannot be read: {error.strerror}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the file of provider facts {str(path)!r} is no TOML: {error}") from error
    unknown: list[str] = []
    wrong: list[str] = []
    _check(data, _SHAPE, "", unknown, wrong)
    if unknown:
        raise UsageError(
            f"{str(path)!r} has keys that mean nothing here: {', '.join(unknown)}",
            hint="Keys are those of the shipped facts.toml; check the spelling.",
        )
    if wrong:
        raise UsageError(f"{str(path)!r} has values of the wrong kind: {', '.join(wrong)}")
    return data


def _check(
    table: Mapping[str, Any], shape: Mapping[str, Any], where: str, unknown: list[str], wrong: list[str]
) -> None:
    for key, value in table.items():
        name = f"{where}{key}"
        expected = shape.get(key, shape.get("*"))
        if expected is None:
            unknown.append(name)
        elif isinstance(expected, dict):
            if isinstance(value, dict):
                _check(value, expected, f"{name}.", unknown, wrong)
            elif not (key == "job" and value is False):
                wrong.append(name)
        elif not _fits(value, expected):
            wrong.append(name)


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, list):
        return list in kinds and all(isinstance(element, str) for element in value)
    return isinstance(value, kinds) and not (isinstance(value, _NUMBER) and value < 0)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` over it, tables merged key by key."""
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        result[key] = (
            _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
        )
    return result
