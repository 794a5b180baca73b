"""Gemini's wire formats, there and back, without a wire: lines of job files, generated answers, rows of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.providers.gemini.errors import gemini_refusal
from embatch.providers.jsonl import count_of, first, key_of, table
from embatch.providers.refusals import refusal
from embatch.providers.work import finish, sent_dimensions
from embatch.remote import EmbedWork, ErrorKind, Generated, JobRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embatch.errors import ProviderError
    from embatch.remote import GenerateWork, ModelFacts, Work
    from embatch.types import FloatArray

_BLOCKED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"}


def input_line(facts: ModelFacts, work: Work, key: str, text: str) -> dict[str, Any]:
    """One line of a job's file. Its key comes back with its result: nothing rests on the order."""
    if isinstance(work, EmbedWork):
        return {"key": key, "request": embed_request(facts, work, text)}
    return {"key": key, "request": generate_request(work, text)}


def embed_request(facts: ModelFacts, work: EmbedWork, text: str) -> dict[str, Any]:
    """The request for one text's vector: in a line of a job's file, and in a call's list."""
    request: dict[str, Any] = {
        "model": f"models/{work.model.removeprefix('models/')}",
        "content": {"parts": [{"text": work.prompt + text}]},
    }
    if work.task is not None:
        request["taskType"] = work.task
    if work.title is not None:
        request["title"] = work.title
    if (dimensions := sent_dimensions(facts, work)) is not None:
        request["outputDimensionality"] = dimensions
    return request


def generate_request(work: GenerateWork, text: str) -> dict[str, Any]:
    """The body of a request for one generated answer."""
    request: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    if work.system is not None:
        request["systemInstruction"] = {"parts": [{"text": work.system}]}
    settings = {"temperature": work.temperature, "maxOutputTokens": work.max_output_tokens}
    if settings := {name: value for name, value in settings.items() if value is not None}:
        request["generationConfig"] = settings
    return request


def vectors(
    facts: ModelFacts, work: EmbedWork, body: Mapping[str, Any], count: int, who: str
) -> list[FloatArray | ProviderError]:
    """The vectors of a call's answer, in the order of its requests.

    Raises:
        ProviderError: PROTOCOL, if there is not exactly one for each text.
    """
    embeddings = body.get("embeddings")
    if not isinstance(embeddings, list) or len(embeddings) != count:
        found = len(embeddings) if isinstance(embeddings, list) else "no"
        raise refusal(who, f"{found} vectors for {count} texts", kind=ErrorKind.PROTOCOL)
    return [finish(facts, work, table(embedding).get("values")) for embedding in embeddings]


def answer_text(response: Mapping[str, Any]) -> str:
    """The text of the first candidate, without its thoughts."""
    parts = table(first(response.get("candidates")).get("content")).get("parts")
    texts = [part.get("text") for part in parts or () if isinstance(part, dict) and not part.get("thought")]
    return "".join(text for text in texts if isinstance(text, str))


def answer(facts: ModelFacts, response: Mapping[str, Any]) -> Generated | ProviderError:
    """One generated answer; BAD_INPUT where the prompt or the answer was blocked, PROTOCOL where there is none."""
    usage = table(response.get("usageMetadata"))
    candidate = first(response.get("candidates"))
    reason = candidate.get("finishReason")
    text = answer_text(response)
    blocked = table(response.get("promptFeedback")).get("blockReason")
    who = f"gemini:{facts.model}"
    if not text and (blocked or reason in _BLOCKED):
        return refusal(
            who, f"blocked: {blocked or reason}", kind=ErrorKind.BAD_INPUT, code=str(blocked or reason)
        )
    if not candidate:
        return refusal(who, "an answer without a candidate", kind=ErrorKind.PROTOCOL)
    thoughts = count_of(usage.get("thoughtsTokenCount")) or 0
    output = count_of(usage.get("candidatesTokenCount"))
    return Generated(
        text=text,
        input_tokens=count_of(usage.get("promptTokenCount")),
        output_tokens=None if output is None and not thoughts else (output or 0) + thoughts,
        finish_reason=str(reason) if reason else None,
    )


def result_row(facts: ModelFacts, work: Work | None, line: Mapping[str, Any]) -> JobRow:
    """One line of a job's results. `work` is None where it is not known any more; the line then says what it holds."""
    key = key_of(line.get("key")) or key_of(table(line.get("metadata")).get("key"))
    response = table(line.get("response"))
    error = line.get("error") or response.get("error")
    if error:
        return JobRow(key, gemini_refusal({"error": error}, f"gemini:{facts.model}: a row"))
    if "candidates" in response or "promptFeedback" in response:
        generated = answer(facts, response)
        tokens = generated.input_tokens if isinstance(generated, Generated) else None
        return JobRow(key, generated, tokens)
    if "embedding" in response:
        values = table(response["embedding"]).get("values")
        tokens = count_of(response.get("tokenCount"))
        if tokens is None:
            tokens = count_of(table(response.get("usageMetadata")).get("promptTokenCount"))
        asked = work if isinstance(work, EmbedWork) else None
        return JobRow(key, finish(facts, asked, values), tokens)
    return JobRow(
        key, refusal(f"gemini:{facts.model}", "a row with neither result nor error", kind=ErrorKind.PROTOCOL)
    )
