"""What is asked of a provider's model, checked and turned into the provider's words, and what comes back, made whole.

Between the front ends, which say `document` and `query`, and the adapters, which send task types and prompts. Sans I/O:
facts and values in, values out.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import ProviderError, UsageError
from embatch.remote import EmbedWork, ErrorKind
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.remote import ModelFacts, Work
    from embatch.types import FloatArray

_TASK_TYPES = {"document": "RETRIEVAL_DOCUMENT", "query": "RETRIEVAL_QUERY"}
_WORDS = {task: word for word, task in _TASK_TYPES.items()}
_TITLED = "RETRIEVAL_DOCUMENT"  # the only task type that takes a title
_NOT_ASCII_PER_TOKEN = 1.5
_UNIT_SLACK = 1e-3  # a norm this close to 1 is left alone: it is rounding, as of base64 or of text


def resolve_task(facts: ModelFacts, task: str | None) -> tuple[str | None, str]:
    """The provider's task type and the prompt for a task, of which a model knows one, the other, or neither.

    Args:
        facts: of the model.
        task: `document` or `query`, a task type such as `CLUSTERING`, in any case, or None.

    Returns:
        The task type to send (None: none) and the text to put before each item (empty: none).

    Raises:
        UsageError: the model knows no such task.
    """
    if task is None:
        return None, ""
    word = _WORDS.get(task.upper(), task.lower())
    type_ = _TASK_TYPES.get(word, task.upper())
    if type_ in facts.tasks:
        return type_, ""
    if word in facts.prompts:
        return None, facts.prompts[word]
    if word in _TASK_TYPES and not facts.tasks and not facts.prompts:
        return None, ""  # the model makes no difference between documents and queries
    known = [*_TASK_TYPES, *facts.tasks, *(name for name in facts.prompts if name not in _TASK_TYPES)]
    raise UsageError(
        f"{facts.provider}:{facts.model} knows no task {task!r}", hint=f"Choose one of: {', '.join(known)}."
    )


def check_work(facts: ModelFacts, work: Work) -> None:
    """Refuse what the model cannot do, before anything is sent.

    Raises:
        UsageError: dimensions, task or title that this model does not take.
    """
    if not isinstance(work, EmbedWork):
        return
    _check_dimensions(facts, work.dimensions)
    name = f"{facts.provider}:{facts.model}"
    if work.task is not None and facts.tasks and work.task not in facts.tasks:
        raise UsageError(
            f"{name} knows no task {work.task!r}", hint=f"Choose one of: {', '.join(facts.tasks)}."
        )
    # A model that has its tasks put into the text would take a task type, and ignore it.
    if work.task is not None and (facts.provider != "gemini" or (facts.prompts and not facts.tasks)):
        raise UsageError(
            f"{name} takes no task type", hint="Leave `task` out, or put the task into `prompt`."
        )
    if work.title is not None and work.task != _TITLED:
        raise UsageError(f"{name} takes a title only with the task {_TITLED}")


def _check_dimensions(facts: ModelFacts, dimensions: int | None) -> None:
    if dimensions is None or dimensions == facts.dimensions > 0:
        return
    name = f"{facts.provider}:{facts.model}"
    if dimensions < 1:
        raise UsageError(f"dimensions must be at least 1, not {dimensions}")
    if not facts.dimensions:
        return
    if facts.min_dimensions is None:
        raise UsageError(f"{name} has {facts.dimensions} dimensions and no other number, not {dimensions}")
    if not facts.min_dimensions <= dimensions <= facts.dimensions:
        raise UsageError(
            f"{name} has {facts.min_dimensions} to {facts.dimensions} dimensions, not {dimensions}"
        )


def sent_dimensions(facts: ModelFacts, work: EmbedWork) -> int | None:
    """The number of dimensions to put into a request; None: leave it out, as models of one size refuse it."""
    if facts.dimensions and facts.min_dimensions is None:
        return None
    return work.dimensions


def work_spec(facts: ModelFacts, work: EmbedWork) -> ModelSpec:
    """Everything that changes a vector of this work, for fingerprints and stored tables.

    Raises:
        UsageError: the work asks what the model cannot do, or the model's dimensions are not known yet.
    """
    check_work(facts, work)
    dimensions = work.dimensions or facts.dimensions
    if not dimensions:
        raise UsageError(
            f"how many dimensions {facts.provider}:{facts.model} has is not known before its first answer",
            hint="Give `dimensions`, or have one text embedded first: the provider's facts then know.",
        )
    pooling = ":".join(part for part in ("api", work.task, work.title) if part)
    return ModelSpec(
        model=f"{facts.provider}:{facts.model}",
        revision=facts.model,
        dimensions=dimensions,
        max_tokens=facts.call.item_tokens,
        pooling=pooling,
        normalize=facts.unit_length,
        precision="api",
        prompt=work.prompt,
    )


def estimate_tokens(facts: ModelFacts, text: str) -> int:
    """About how many tokens a text has, at least 1, until the provider has counted them.

    ASCII by the model's characters per token, everything else at 1.5 characters per token: tokenisers split other
    scripts finer, and an estimate that is too low would break limits.
    """
    plain = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return max(1, math.ceil(plain / facts.chars_per_token + (len(text) - plain) / _NOT_ASCII_PER_TOKEN))


def as_vector(value: object) -> FloatArray | None:
    """A vector `(dim,)` float32 from a list of numbers, or from base64 of little-endian float32; None if it is none."""
    try:
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
        elif isinstance(value, list) and not any(isinstance(number, str) for number in value[:1]):
            vector = np.asarray(value, dtype=np.float64)
        else:
            return None
    except (ValueError, TypeError, OverflowError, binascii.Error):
        return None
    if vector.ndim != 1:
        return None
    with np.errstate(over="ignore"):  # beyond float32: infinity, which `finish` refuses
        result: FloatArray = vector.astype(np.float32)
    return result


def finish(facts: ModelFacts, work: EmbedWork | None, vector: object) -> FloatArray | ProviderError:
    """A vector as it is handed out: `(dim,)` float32, as many dimensions as asked for, finite, at unit length.

    Unit length holds for models that the facts call normalised; those that come cut and unnormalised are divided by
    their norm here, and nowhere else.

    Args:
        facts: of the model.
        work: what was asked; None if that is not known any more, so that any number up to the model's own will do.
        vector: a list of numbers, base64 of float32, or anything else that a provider sent.

    Returns:
        The vector, or the PROTOCOL error that stands in its place.
    """
    array = as_vector(vector)
    if array is None or not len(array):
        return _broken(facts, "something that is no vector")
    expected = (work.dimensions if work else None) or facts.dimensions
    any_shorter = work is None and facts.min_dimensions is not None
    if expected and len(array) != expected and not (any_shorter and len(array) < expected):
        return _broken(facts, f"a vector of {len(array)} dimensions instead of {expected}")
    if not np.isfinite(array).all():
        return _broken(facts, "a vector with NaN or infinity in it")
    return _at_unit_length(facts, array) if facts.unit_length else array


def _at_unit_length(facts: ModelFacts, array: FloatArray) -> FloatArray | ProviderError:
    norm = float(np.linalg.norm(array))
    if norm == 0.0 or not math.isfinite(norm):
        return _broken(facts, "a vector without a length")
    comes_normalised = len(array) == facts.dimensions or facts.unit_length_when_cut
    if comes_normalised and abs(norm - 1.0) <= _UNIT_SLACK:
        return array
    result: FloatArray = (array / np.float32(norm)).astype(np.float32)
    return result


def learned(facts: ModelFacts, work: EmbedWork, results: Sequence[FloatArray | ProviderError]) -> ModelFacts:
    """The facts with the model's dimensions from an answer, where they were not known. Fewer may be asked for."""
    if facts.dimensions or work.dimensions:
        return facts
    size = next((len(result) for result in results if not isinstance(result, ProviderError)), 0)
    return replace(facts, dimensions=size, min_dimensions=facts.min_dimensions or 1) if size else facts


def _broken(facts: ModelFacts, what: str) -> ProviderError:
    return ProviderError(
        f"{facts.provider}:{facts.model} answered with {what}",
        kind=ErrorKind.PROTOCOL,
        hint="Run the command again; if it stays, the model's name or the base URL is not what it should be.",
    )
