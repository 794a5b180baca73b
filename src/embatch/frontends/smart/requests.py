"""What the clients are asked and what they answer, as data; and which requests can share a run.

A run asks the same of every text, so requests that differ in model, task or dimensions are put into groups, each a run
of its own. Nothing here sends anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from embatch.errors import UsageError
from embatch.remote import GenerateWork

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from embatch.errors import EmbatchError

T = TypeVar("T")
K = TypeVar("K", bound="Hashable")


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """One text to embed."""

    text: str
    tag: str | None = None
    """Comes back with the result."""
    model: str | None = None
    """None: the client's."""
    task_type: str | None = None
    """Such as `RETRIEVAL_QUERY`; None: not sent."""
    output_dimensionality: int | None = None
    """None: as many as the model has."""


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """What became of one text: a vector, or why there is none."""

    tag: str | None
    embedding: list[float] | None = None
    error: str | None = None
    exception: EmbatchError | None = field(default=None, compare=False)
    """The error itself; its `hint` says the way out, its `__cause__` what the provider said."""


@dataclass(frozen=True, slots=True)
class BatchPromptRequest:
    """One prompt to answer."""

    prompt: str
    tag: str | None = None
    """Comes back with the result."""
    model: str | None = None
    """None: the client's."""
    system: str | None = None
    """The system instruction."""
    temperature: float | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class BatchPromptResult:
    """What became of one prompt: an answer, or why there is none."""

    tag: str | None
    text: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    """In the provider's words, such as `STOP` or `MAX_TOKENS`."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    exception: EmbatchError | None = field(default=None, compare=False)
    """As in `EmbeddingResult`."""


def embedding_requests(requests: Iterable[EmbeddingRequest | str]) -> list[EmbeddingRequest]:
    """The requests, with plain strings made into such.

    Raises:
        UsageError: it is one request instead of a list, or something else is in it.
    """
    if isinstance(requests, str | EmbeddingRequest):
        raise UsageError(
            "embed_content takes a list of requests, not one",
            hint="Write embed_content([EmbeddingRequest(text)]).",
        )
    listed = [EmbeddingRequest(one) if isinstance(one, str) else one for one in requests]
    for number, one in enumerate(listed):
        if not isinstance(one, EmbeddingRequest):
            raise UsageError(
                f"request {number} is of type {type(one).__name__}, not EmbeddingRequest",
                hint="Write EmbeddingRequest(text=…), or give the text itself.",
            )
    return listed


def prompt_requests(
    prompts: str | BatchPromptRequest | Iterable[str | BatchPromptRequest],
) -> list[BatchPromptRequest]:
    """The prompts as requests; one prompt is a list of one.

    Raises:
        UsageError: something is neither a string nor a request.
    """
    listed = [prompts] if isinstance(prompts, str | BatchPromptRequest) else list(prompts)
    found = [BatchPromptRequest(one) if isinstance(one, str) else one for one in listed]
    for number, one in enumerate(found):
        if not isinstance(one, BatchPromptRequest):
            raise UsageError(
                f"prompt {number} is of type {type(one).__name__}, not a string or BatchPromptRequest"
            )
    return found


def model_name(name: object) -> str:
    """A model as the provider calls it: without `models/` before it, and without `gemini:`.

    Raises:
        UsageError: it is no name.
    """
    plain = name.removeprefix("gemini:").removeprefix("models/") if isinstance(name, str) else ""
    if not plain or plain != plain.strip() or ":" in plain:
        raise UsageError(f"{name!r} names no Gemini model", hint="Write a name such as gemini-embedding-001.")
    return plain


def generate_work(request: BatchPromptRequest, default_model: str) -> GenerateWork:
    """What is asked for this prompt."""
    return GenerateWork(
        model=model_name(request.model or default_model),
        system=request.system,
        temperature=request.temperature,
        max_output_tokens=request.max_output_tokens,
    )


def grouped(requests: Sequence[T], key: Callable[[T], K]) -> dict[K, list[int]]:
    """Positions of requests that have the same key, in order; keys in the order in which they first appear."""
    groups: dict[K, list[int]] = {}
    for position, request in enumerate(requests):
        groups.setdefault(key(request), []).append(position)
    return groups
