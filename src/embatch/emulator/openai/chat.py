"""`POST /v1/chat/completions`, whole and as a stream: answers derived from the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, as_json, dumps
from embatch.emulator.openai import errors
from embatch.emulator.openai.embedding import check_fields, model_of, payload
from embatch.emulator.prose import generated
from embatch.emulator.rows import POISON, Prompt
from embatch.emulator.tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import EmulatedModel

_FIELDS = frozenset(
    [
        "model",
        "messages",
        "temperature",
        "top_p",
        "n",
        "stream",
        "stream_options",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "user",
        "seed",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "service_tier",
        "store",
        "metadata",
        "reasoning_effort",
        "modalities",
        "prediction",
        "audio",
        "verbosity",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "web_search_options",
        "functions",
        "function_call",
        "moderation",
    ]
)


def prompt_of(body: dict[str, Any], model: EmulatedModel) -> Prompt:
    """What is to be answered: the last message; all of them are counted.

    Raises:
        Refused: what the API would not take.
    """
    check_fields(body, _FIELDS)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise errors.bad(
            "Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages"
        )
    said = [_said(message, place) for place, message in enumerate(messages)]
    tokens = sum(map(count_tokens, said))
    if any(POISON in text for text in said):
        raise errors.bad("Invalid 'messages': the text cannot be answered.", "messages")
    if tokens > model.item_tokens:
        raise errors.bad(
            f"This model's maximum context length is {model.item_tokens} tokens. However, your messages resulted in "
            f"{tokens} tokens. Please reduce the length of the messages.",
            "messages",
            "context_length_exceeded",
        )
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return Prompt(said[-1], tokens, most if isinstance(most, int) else None)


def _said(message: object, place: int) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise errors.bad(f"Invalid value for 'messages[{place}].content': expected a string.", "messages")
    return content


def completion(model: EmulatedModel, prompt: Prompt, name: str, created: int) -> dict[str, Any]:
    """A whole reply."""
    answer = generated(prompt.text, prompt.max_output_tokens)
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return {
        "id": name,
        "object": "chat.completion",
        "created": created,
        "model": model.name,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": "stop" if answer.is_whole else "length",
            }
        ],
        "usage": usage_of(prompt),
    }


def usage_of(prompt: Prompt) -> dict[str, int]:
    """Tokens in and out."""
    output = prompt.charge.output_tokens
    return {
        "prompt_tokens": prompt.tokens,
        "completion_tokens": output,
        "total_tokens": prompt.tokens + output,
    }


def completions(call: Call) -> Answer:
    """`POST /v1/chat/completions`."""
    body = payload(call)
    model = model_of(body.get("model"), "generate")
    call.path = {**call.path, "model": model.name}
    prompt = prompt_of(body, model)
    core = call.core
    exceeded = core.admit(call.operation, model, call.now, items=1, tokens=prompt.tokens)
    if exceeded is not None:
        raise errors.quota(call, model, exceeded)
    if core.is_overloaded(call.now):
        raise errors.refused(503, errors.OVERLOADED, "service_unavailable")
    core.charge(model, [prompt.charge], call.now)
    seconds = core.call_s(items=1, tokens=prompt.tokens, output_tokens=prompt.charge.output_tokens)
    name = f"chatcmpl-{core.passing_id()}"
    whole = completion(model, prompt, name, int(core.unix(call.now)))
    if body.get("stream"):
        return _stream(call, prompt, whole, body, seconds)
    if call.has("empty_answer"):
        whole["choices"] = []
    return as_json(whole, seconds=seconds)


def _stream(
    call: Call, prompt: Prompt, whole: dict[str, Any], body: dict[str, Any], seconds: float
) -> Answer:
    """The reply as server-sent events, with [DONE] at the end."""
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    head = {name: whole[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    if wants_usage:
        head["usage"] = None
    pieces = [] if call.has("empty_answer") else generated(prompt.text, prompt.max_output_tokens).pieces
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": piece}, None) for piece in pieces]
    deltas.append(({}, whole["choices"][0]["finish_reason"]))
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    if wants_usage:
        chunks.append({**head, "choices": [], "usage": usage_of(prompt)})
    lines = [dumps(chunk) for chunk in chunks] + [b"[DONE]"]
    if call.has("stream_error"):
        lines = [*lines[: len(lines) // 2], dumps(errors.body(errors.SERVER_ERROR, "server_error"))]
    return Answer(
        body=_events(lines),
        media="text/event-stream; charset=utf-8",
        seconds=seconds / 2,
        piece_s=seconds / 2 / len(lines),
    )


def _events(lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield b"data: " + line + b"\n\n"
