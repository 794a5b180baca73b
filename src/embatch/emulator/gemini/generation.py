"""`generateContent` and `streamGenerateContent`: answers derived from the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, as_json, dumps
from embatch.emulator.gemini import errors, fields
from embatch.emulator.gemini.embedding import model_of, payload
from embatch.emulator.prose import generated
from embatch.emulator.rows import POISON, Prompt
from embatch.emulator.tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import EmulatedModel


def prompt_of(request: dict[str, Any], model: EmulatedModel, where: str) -> Prompt:
    """What is to be answered: the last thing that was said; all of it is counted.

    Raises:
        Refused: what the API would not take.
    """
    contents = request.get("contents") or []
    texts = [[part.get("text") or "" for part in content.get("parts") or []] for content in contents]
    if not contents:
        raise errors.bad(f"{where}.contents: contents is not specified")
    if not all(map(any, texts)):
        raise errors.bad(f"{where}.contents[0].parts: contents.parts must not be empty.")
    said = ["".join(parts) for parts in texts]
    system = request.get("systemInstruction") or {}
    said += [part.get("text") or "" for part in system.get("parts") or []]
    tokens = sum(map(count_tokens, filter(None, said)))
    if any(POISON in text for text in said):
        raise errors.bad(f"{where}.contents: the text cannot be answered")
    if tokens > model.item_tokens:
        raise errors.refused(
            400,
            f"The input token count ({tokens}) exceeds the maximum number of tokens allowed ({model.item_tokens}).",
        )
    most = (request.get("generationConfig") or {}).get("maxOutputTokens")
    return Prompt("".join(texts[-1]), tokens, most if isinstance(most, int) else None)


def response_of(
    model: EmulatedModel, prompt: Prompt, text: str | None = None, *, is_last: bool = True
) -> dict[str, Any]:
    """A reply, or a piece of one; the last one says why it ends and what it took."""
    answer = generated(prompt.text, prompt.max_output_tokens)
    content = {"parts": [{"text": answer.text if text is None else text}], "role": "model"}
    candidate: dict[str, Any] = {"content": content, "index": 0}
    if is_last:
        candidate["finishReason"] = "STOP" if answer.is_whole else "MAX_TOKENS"
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": prompt.tokens,
            "candidatesTokenCount": answer.tokens,
            "totalTokenCount": prompt.tokens + answer.tokens,
        },
        "modelVersion": model.name,
    }


def generate(call: Call) -> Answer:
    """`generateContent`."""
    model, prompt, seconds = _admitted(call)
    response = response_of(model, prompt)
    if call.has("empty_answer"):
        response["candidates"] = []
    return as_json(response, seconds=seconds)


def stream(call: Call) -> Answer:
    """`streamGenerateContent`: server-sent events with `alt=sse`, else one JSON array."""
    model, prompt, seconds = _admitted(call)
    pieces = generated(prompt.text, prompt.max_output_tokens).pieces
    chunks = [
        response_of(model, prompt, text, is_last=place == len(pieces) - 1)
        for place, text in enumerate(pieces)
    ]
    if call.has("empty_answer"):
        chunks = [{"usageMetadata": {"promptTokenCount": prompt.tokens}}]
    if call.has("stream_error"):
        chunks = [*chunks[: len(chunks) // 2], errors.body(503, errors.OVERLOADED)]
    if call.query.get("alt") != "sse":
        return as_json(chunks, seconds=seconds)
    return Answer(
        body=_events(chunks),
        media="text/event-stream",
        seconds=seconds / 2,
        piece_s=seconds / 2 / len(chunks),
    )


def _events(chunks: list[dict[str, Any]]) -> Iterator[bytes]:
    for chunk in chunks:
        yield b"data: " + dumps(chunk) + b"\r\n\r\n"


def _admitted(call: Call) -> tuple[EmulatedModel, Prompt, float]:
    """The model, what it is asked, and how long that takes; quota taken and billed."""
    model = model_of(call, "generate")
    prompt = prompt_of(payload(call, fields.GENERATE), model, "GenerateContentRequest")
    core = call.core
    exceeded = core.admit(call.operation, model, call.now, items=1, tokens=prompt.tokens)
    if exceeded is not None:
        raise errors.quota(call, model, exceeded)
    if core.is_overloaded(call.now):
        raise errors.refused(503, errors.OVERLOADED)
    core.charge(model, [prompt.charge], call.now)
    output = prompt.charge.output_tokens
    return model, prompt, core.call_s(items=1, tokens=prompt.tokens, output_tokens=output)
