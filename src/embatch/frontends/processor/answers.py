"""What an embedding service answers, read with suspicion: vectors in the order of the texts, and what was used.

Between `services`, which asks, and the engine, which checks each vector's size and numbers. Sans I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.errors import ProviderError
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import FloatArray

_TOTALS = ("total_tokens", "prompt_tokens", "input_tokens", "tokens")
_VECTORS = ("embeddings", "data", "vectors")
_VECTOR = ("embedding", "vector", "values")
_MOST_COUNT = 2**53  # more than that is no count of tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A service's answer to one call."""

    results: Sequence[FloatArray | ProviderError]
    """One a text, in the order of the texts."""
    model: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Its counts, by its own names."""

    @property
    def tokens(self) -> int | None:
        """Input tokens that the service counted; None if it does not say."""
        return next((self.usage[name] for name in _TOTALS if name in self.usage), None)


def read_answer(raw: object, count: int) -> Answer:
    """Read what a service gave back for `count` texts: an object or mapping with `embeddings`, `model`, `usage`.

    An embedding is numbers, or an object or mapping with `embedding` and perhaps `index`. Where all have an index, it
    decides which text each belongs to.

    Raises:
        ProviderError: PROTOCOL, if the vectors cannot be told apart: there are more or fewer than texts, or an index is
            missing, doubled or out of range.
    """
    entries = raw if isinstance(raw, list | tuple | np.ndarray) else _field(raw, _VECTORS)
    if entries is None or isinstance(entries, str | bytes | Mapping):
        raise _nonsense(f"the service answered a {type(raw).__name__} without `embeddings`")
    try:
        listed = list(entries)
    except TypeError:
        raise _nonsense(f"the service answered `embeddings` of type {type(entries).__name__}") from None
    if len(listed) != count:
        raise _nonsense(f"the service answered {len(listed)} embeddings for {count} texts")
    model = _field(raw, ("model",))
    return Answer(
        results=[_vector(entry) for entry in _ordered(listed)],
        model=model if isinstance(model, str) else "",
        usage=_usage(_field(raw, ("usage",))),
    )


def _ordered(entries: list[Any]) -> list[Any]:
    """Entries by their indices, if they have any."""
    indices: list[Any] = [None if _plain(entry) else _field(entry, ("index",)) for entry in entries]
    if all(index is None for index in indices):
        return entries
    if sorted(index for index in indices if type(index) is int) != list(range(len(entries))):
        raise _nonsense(f"the service answered indices that are not those of {len(entries)} texts")
    places: list[Any] = [None] * len(entries)
    for index, entry in zip(indices, entries, strict=True):
        places[index] = entry
    return places


def _vector(entry: Any) -> FloatArray | ProviderError:
    raw = entry if _plain(entry) else _field(entry, _VECTOR)
    if raw is None:
        return _nonsense("the service answered no vector for this text")
    try:
        with np.errstate(over="ignore"):  # infinity is found by the engine
            vector = np.array(raw, np.float32)
    except (TypeError, ValueError, OverflowError):
        return _nonsense(f"the service answered a vector that is no list of numbers: {type(raw).__name__}")
    if vector.ndim != 1 or not vector.size or isinstance(raw, str):
        return _nonsense(f"the service answered a vector of shape {vector.shape}")
    return vector


def _plain(entry: Any) -> bool:
    """Whether it is the vector itself, or nothing."""
    return entry is None or isinstance(entry, list | tuple | np.ndarray | str | bytes)


def _usage(raw: object) -> dict[str, int]:
    """Whatever counts something, by name. A bare number is the total."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        raw = {"total_tokens": raw}
    if not isinstance(raw, Mapping):
        dump = getattr(raw, "model_dump", None)
        found = dump() if callable(dump) else getattr(raw, "__dict__", None)
        raw = found or {name: getattr(raw, name, None) for name in _TOTALS}
    return {str(name): int(value) for name, value in raw.items() if _is_count(value)}


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and 0 <= value <= _MOST_COUNT


def _field(raw: Any, names: Sequence[str]) -> Any:
    """The first of these fields or attributes that there is."""
    for name in names:
        value = raw.get(name) if isinstance(raw, Mapping) else getattr(raw, name, None)
        if value is not None:
            return value
    return None


def _nonsense(message: str) -> ProviderError:
    return ProviderError(message, kind=ErrorKind.PROTOCOL)
