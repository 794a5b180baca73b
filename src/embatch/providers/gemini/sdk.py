"""What goes through google-genai itself: streams, and everything on Vertex AI. One request each, sent once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.providers.refusals import refusal
from embatch.providers.work import finish, sent_dimensions
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from embatch.errors import ProviderError
    from embatch.remote import EmbedWork, GenerateWork, ModelFacts
    from embatch.types import FloatArray


def once(timeout_s: float) -> Any:
    """Options for one request that is sent once, whatever the client was told; the SDK counts in milliseconds."""
    from google.genai import types

    return types.HttpOptions(
        timeout=max(1, round(timeout_s * 1000)), retry_options=types.HttpRetryOptions(attempts=1)
    )


def prompt(text: str) -> Any:
    """What the user says."""
    from google.genai import types

    return [types.Content(role="user", parts=[types.Part(text=text)])]


def generation(work: GenerateWork, timeout_s: float) -> Any:
    """Settings of one generated answer. The SDK's own further requests are off: one call is one request, paid once."""
    from google.genai import types

    fields: dict[str, Any] = {
        "system_instruction": work.system,
        "temperature": work.temperature,
        "max_output_tokens": work.max_output_tokens,
        "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
        "http_options": once(timeout_s),
    }
    if "automatic_continuation" in types.GenerateContentConfig.model_fields:
        fields["automatic_continuation"] = False
    return types.GenerateContentConfig(**fields)


def generate(
    client: Any, work: GenerateWork, text: str, timeout_s: float, refusals: AbstractContextManager[None]
) -> dict[str, Any]:
    """The answer for one text on Vertex AI, as the JSON object that it was."""
    with refusals:
        response = client.models.generate_content(
            model=work.model, contents=prompt(text), config=generation(work, timeout_s)
        )
        body: dict[str, Any] = response.model_dump(mode="json", by_alias=True, exclude_none=True)
        return body


def embed(
    client: Any,
    facts: ModelFacts,
    work: EmbedWork,
    texts: Sequence[str],
    timeout_s: float,
    who: str,
    refusals: AbstractContextManager[None],
) -> tuple[list[FloatArray | ProviderError], int | None]:
    """Vectors on Vertex AI, in the order of the texts, and the tokens that were counted.

    Raises:
        ProviderError: refused, or not exactly one vector for each text.
    """
    from google.genai import types

    config = types.EmbedContentConfig(
        task_type=work.task,
        title=work.title,
        output_dimensionality=sent_dimensions(facts, work),
        http_options=once(timeout_s),
    )
    # A Content for each text: strings would be fused into one by gemini-embedding-2.
    contents = [types.Content(parts=[types.Part(text=work.prompt + text)]) for text in texts]
    with refusals:
        response = client.models.embed_content(model=work.model, contents=contents, config=config)
    embeddings = list(response.embeddings or ())
    if len(embeddings) != len(texts):
        raise refusal(who, f"{len(embeddings)} vectors for {len(texts)} texts", kind=ErrorKind.PROTOCOL)
    return [finish(facts, work, embedding.values) for embedding in embeddings], _tokens(response, embeddings)


def _tokens(response: Any, embeddings: Sequence[Any]) -> int | None:
    """Input tokens that the answer counts: of the whole call, or of each text."""
    counted = getattr(getattr(response, "usage_metadata", None), "prompt_token_count", None)
    if counted is not None:
        return int(counted)
    each: list[Any] = [getattr(getattr(e, "statistics", None), "token_count", None) for e in embeddings]
    return round(sum(each)) if each and all(n is not None for n in each) else None
