"""OpenAI's wire formats, there and back, without a wire: requests, answers, lines of job files, states of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.errors import ProviderError
from embatch.providers.jsonl import count_of, first, key_of, table
from embatch.providers.openai.errors import openai_refusal
from embatch.providers.refusals import refusal
from embatch.providers.work import finish, sent_dimensions
from embatch.remote import EmbedWork, ErrorKind, Generated, JobRow, JobState, JobView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.remote import GenerateWork, ModelFacts, Work
    from embatch.types import FloatArray

TAG = "embatch_tag"
"""The metadata of a job under which its tag lies."""
EMBEDDINGS = "/v1/embeddings"
CHAT = "/v1/chat/completions"

_STATES = {
    "validating": JobState.QUEUED,
    "in_progress": JobState.RUNNING,
    "finalizing": JobState.FINALIZING,
    "completed": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "expired": JobState.EXPIRED,
    "cancelling": JobState.CANCELLING,
    "cancelled": JobState.CANCELLED,
}


def embed_body(
    facts: ModelFacts, work: EmbedWork, texts: Sequence[str] | str, *, encoding: str
) -> dict[str, Any]:
    """The body of a request for vectors.

    Args:
        facts: of the model.
        work: what is asked.
        texts: without the prompt, which is put before each.
        encoding: `base64` or `float`; always said, since the SDK would ask for base64 and many servers break on it.
    """
    inputs = work.prompt + texts if isinstance(texts, str) else [work.prompt + text for text in texts]
    body: dict[str, Any] = {"model": work.model, "input": inputs, "encoding_format": encoding}
    if (dimensions := sent_dimensions(facts, work)) is not None:
        body["dimensions"] = dimensions
    return body


def chat_body(facts: ModelFacts, work: GenerateWork, text: str) -> dict[str, Any]:
    """The body of a request for one generated answer."""
    messages = [{"role": "user", "content": text}]
    if work.system is not None:
        messages.insert(0, {"role": "system", "content": work.system})
    body: dict[str, Any] = {"model": work.model, "messages": messages}
    if work.temperature is not None:
        body["temperature"] = work.temperature
    if work.max_output_tokens is not None:
        # OpenAI's newer models refuse the older name, and other servers do not know the newer one.
        name = "max_tokens" if facts.provider == "compatible" else "max_completion_tokens"
        body[name] = work.max_output_tokens
    return body


def input_line(facts: ModelFacts, work: Work, key: str, text: str, *, encoding: str) -> dict[str, Any]:
    """One line of a job's file: one text, so that each has a key, a status and an error of its own."""
    if isinstance(work, EmbedWork):
        body, url = embed_body(facts, work, text, encoding=encoding), EMBEDDINGS
    else:
        body, url = chat_body(facts, work, text), CHAT
    return {"custom_id": key, "method": "POST", "url": url, "body": body}


def vectors(
    facts: ModelFacts, work: EmbedWork | None, body: Mapping[str, Any], count: int, who: str
) -> list[FloatArray | ProviderError]:
    """The vectors of an answer, in the order of the texts: by `index`, never by place.

    Raises:
        ProviderError: PROTOCOL, if there is not exactly one for each text.
    """
    data = body.get("data")
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    if len(entries) != count:
        raise refusal(who, f"{len(entries)} vectors for {count} texts", kind=ErrorKind.PROTOCOL)
    indices = [entry.get("index") for entry in entries]
    if any(index is not None for index in indices):
        by_index = dict(zip(indices, entries, strict=True))
        if set(by_index) != set(range(count)):
            raise refusal(who, f"vectors with the indices {indices[:8]}", kind=ErrorKind.PROTOCOL)
        entries = [by_index[index] for index in range(count)]
    return [finish(facts, work, entry.get("embedding")) for entry in entries]


def prompt_tokens(body: Mapping[str, Any]) -> int | None:
    """Input tokens that an answer counts."""
    usage = table(body.get("usage"))
    counted = count_of(usage.get("prompt_tokens"))
    return count_of(usage.get("total_tokens")) if counted is None else counted


def answer(facts: ModelFacts, body: Mapping[str, Any]) -> Generated | ProviderError:
    """One generated answer; BAD_INPUT where it was refused or filtered, PROTOCOL where there is none."""
    choice = first(body.get("choices"))
    message = table(choice.get("message"))
    reason = choice.get("finish_reason")
    text = message.get("content")
    who = f"{facts.provider}:{facts.model}"
    if not text and (message.get("refusal") or reason == "content_filter"):
        words = str(message.get("refusal") or "the content filter took the answer away")
        return refusal(who, words, kind=ErrorKind.BAD_INPUT, code="refusal")
    if not choice:
        return refusal(who, "an answer without a choice", kind=ErrorKind.PROTOCOL)
    usage = table(body.get("usage"))
    return Generated(
        text=text if isinstance(text, str) else "",
        input_tokens=count_of(usage.get("prompt_tokens")),
        output_tokens=count_of(usage.get("completion_tokens")),
        finish_reason=str(reason) if reason else None,
    )


def result_row(facts: ModelFacts, work: Work | None, line: Mapping[str, Any]) -> JobRow:
    """One line of a job's output or error file. `work` is None where it is not known any more."""
    key = key_of(line.get("custom_id"))
    who = f"{facts.provider}:{facts.model}: a row"
    response = table(line.get("response"))
    body = table(response.get("body"))
    status = count_of(response.get("status_code"))
    if line.get("error"):
        return JobRow(key, openai_refusal({"error": line["error"]}, who, status=status))
    if status not in {None, 200} or body.get("error"):
        return JobRow(key, openai_refusal(dict(body), who, status=None if status == 200 else status))
    tokens = prompt_tokens(body)
    if "choices" in body:
        return JobRow(key, answer(facts, body), tokens)
    try:
        asked = work if isinstance(work, EmbedWork) else None
        return JobRow(key, vectors(facts, asked, body, 1, who)[0], tokens)
    except ProviderError as error:
        return JobRow(key, error, tokens)


def job_view(batch: Mapping[str, Any], who: str) -> JobView:
    """How a job stands. `failed` comes with the provider's reason, which may be that the queue was full."""
    counts = table(batch.get("request_counts"))
    done, failed = count_of(counts.get("completed")), count_of(counts.get("failed"))
    error = first(table(batch.get("errors")).get("data"))
    status = batch.get("status")
    return JobView(
        state=_STATES.get(str(status), JobState.UNKNOWN),
        total=count_of(counts.get("total")) or None,
        completed=None if done is None and failed is None else (done or 0) + (failed or 0),
        failed=failed,
        error=openai_refusal(dict(error), f"{who}: the job failed", creating_job=True, items=2)
        if error
        else None,
        tokens=count_of(table(batch.get("usage")).get("input_tokens")) or None,
    )


def output_files(batch: Mapping[str, Any]) -> list[str]:
    """The files of a job's good and bad rows: both, one, or none."""
    names = (batch.get("output_file_id"), batch.get("error_file_id"))
    return [name for name in names if isinstance(name, str) and name]


def tag_of(batch: Mapping[str, Any]) -> str | None:
    """The tag that a job was given."""
    tag = table(batch.get("metadata")).get(TAG)
    return tag if isinstance(tag, str) else None
