"""What is recorded of asks, batches, calls, runs and requests, kept in memory by the SDK."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from embatch.frontends import telemetry
from embatch.frontends.telemetry import names
from embatch.seen import AskSeen, BatchSeen
from embatch.seen_lanes import CallSeen
from embatch.serving import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.telemetry.conftest import Kept

    from embatch.seen import Outcome

pytest.importorskip("opentelemetry.sdk")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ask(outcome: Outcome = "answered", error: str = "") -> AskSeen:
    return AskSeen(
        at=1_700_000_000.0,
        seconds=0.25,
        waited_s=0.01,
        inputs=3,
        tokens=42,
        priority=Priority.INTERACTIVE,
        outcome=outcome,
        error=error,
        model="all-minilm",
    )


def batch(error: str = "") -> BatchSeen:
    return BatchSeen(
        at=1_700_000_000.0,
        seconds=0.02,
        stream=1,
        items=8,
        longest=12,
        tokens=80,
        padded_tokens=96,
        budget=1024,
        error=error,
    )


def test_names_are_those_of_the_conventions() -> None:
    """Every name of the conventions that is used is one that the installed package of conventions has."""
    attributes = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    metrics = pytest.importorskip("opentelemetry.semconv._incubating.metrics.gen_ai_metrics")
    http = pytest.importorskip("opentelemetry.semconv.metrics.http_metrics")
    known = {
        value
        for module in (attributes, metrics, http)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    generative = {name for name in ours if name.startswith("gen_ai.")}
    assert generative
    assert generative | {names.HTTP_DURATION} <= known


def test_an_ask_is_an_operation_with_a_span(kept: Kept) -> None:
    """An answered ask has a span with the conventions' attributes and its own times, a duration, and its tokens."""
    observer = telemetry.observer("openai:text-embedding-3-small", dimensions=256, address="api.openai.com")
    assert observer is not None
    observer.see(ask())
    (span,) = kept.spans()
    assert span.name == "embeddings text-embedding-3-small"
    assert span.kind.name == "CLIENT"
    assert span.end_time - span.start_time == 250_000_000
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "text-embedding-3-small",
        "gen_ai.response.model": "all-minilm",
        "gen_ai.usage.input_tokens": 42,
        "gen_ai.embeddings.dimension.count": 256,
        "server.address": "api.openai.com",
        "server.port": 443,
        "embatch.items": 3,
        "embatch.items.cached": 0,
        "embatch.priority": "interactive",
        "embatch.outcome": "answered",
        "embatch.waited": 0.01,
    }
    (tokens,) = kept.points("gen_ai.client.token.usage")
    assert (tokens.sum, tokens.attributes["gen_ai.token.type"]) == (42, "input")
    assert tokens.explicit_bounds[:4] == (1, 4, 16, 64)
    (duration,) = kept.points("gen_ai.client.operation.duration")
    assert duration.sum == pytest.approx(0.25)
    assert "error.type" not in duration.attributes


def test_an_ask_that_failed_says_with_what(kept: Kept) -> None:
    """The span is an error of the named type, and so is the duration; a refusal is one by its name."""
    observer = telemetry.observer("minilm")
    assert observer is not None
    observer.see(ask("failed", "BackendError"))
    observer.see(ask("refused"))
    assert [span.attributes["error.type"] for span in kept.spans()] == ["BackendError", "refused"]
    assert {span.status.status_code.name for span in kept.spans()} == {"ERROR"}
    assert {span.kind.name for span in kept.spans()} == {"INTERNAL"}
    found = {point.attributes["error.type"] for point in kept.points("gen_ai.client.operation.duration")}
    assert found == {"BackendError", "refused"}


def test_a_server_can_leave_spans_of_asks_out(kept: Kept) -> None:
    """Without spans of asks and outside of a run there are metrics alone."""
    observer = telemetry.observer("minilm", ask_spans=False)
    assert observer is not None
    observer.see(ask())
    observer.see(batch())
    assert kept.spans() == []
    assert kept.points("gen_ai.client.operation.duration")[0].count == 1
    assert kept.points("embatch.batch.items")[0].sum == 8


def test_batches_and_calls_are_children_of_their_run(kept: Kept) -> None:
    """What is observed within a run's span belongs to it, and the run says what it did."""
    with telemetry.run_span("embed", "gemini:gemini-embedding-001", dimensions=768) as run:
        assert run is not None
        observer = telemetry.observer("gemini:gemini-embedding-001")
        assert observer is not None
        observer.see(batch())
        observer.see(CallSeen(at=1.0, seconds=0.5, items=4, done=3, failed=1, back=0, tokens=9, dollars=0.0))
        run.done(items=8, tokens=80, failed=1, model="gemini-embedding-001")
    first, call, parent = kept.spans()
    assert parent.name == "embeddings gemini-embedding-001"
    assert parent.attributes["gen_ai.provider.name"] == "gcp.gemini"
    assert parent.attributes["embatch.run.kind"] == "embed"
    assert parent.attributes["gen_ai.usage.input_tokens"] == 80
    assert {child.parent.span_id for child in (first, call)} == {parent.context.span_id}
    assert first.attributes["embatch.batch.padded_tokens"] == 96
    assert call.attributes["embatch.items.failed"] == 1
    assert kept.points("gen_ai.client.token.usage")[0].sum == 80  # once, not again for its batches


def test_a_run_that_raises_is_an_error_without_its_message(kept: Kept) -> None:
    """The span names the error; its message, which may quote a text, is nowhere."""
    with pytest.raises(ValueError, match="secret"), telemetry.run_span("generate", "openai:gpt"):
        raise ValueError("a secret text")
    (span,) = kept.spans()
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["gen_ai.operation.name"] == "chat"
    assert "secret" not in span.to_json()


def test_what_is_not_known_is_left_alone(kept: Kept) -> None:
    """An observer neither raises nor records for kinds, or numbers, that make no sense to it."""
    observer = telemetry.observer("minilm")
    assert observer is not None
    observer.see(object())  # type: ignore[arg-type]  # a kind of a later version
    assert kept.spans() == []


async def _answering(scope: Any, _: Any, send: Any) -> None:
    telemetry.note(scope, model="minilm", tokens=7, inputs=2, dimensions=384, encoding="base64")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _refusing(scope: Any, _: Any, send: Any) -> None:
    telemetry.note(scope, model="minilm", error="OverloadedError")
    await send({"type": "http.response.start", "status": 429, "headers": []})


async def _breaking(_: Any, __: Any, ___: Any) -> None:
    raise RuntimeError("a secret text")


def requested(
    app: Callable[..., Any], path: str = "/v1/embeddings", *, traceparent: str = PARENT
) -> list[Any]:
    """Ask an application for a path; what it sent."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"traceparent", traceparent.encode())]
    server = ("127.0.0.1", 8080)
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "scheme": "http",
        "headers": headers,
        "server": server,
    }
    asyncio.run(telemetry.middleware(app)(scope, None, send))
    return sent


def test_a_request_is_a_part_of_its_callers_trace(kept: Kept) -> None:
    """A server's span has the caller's trace, what HTTP knows of it, and what its route noted."""
    assert requested(_answering)[0]["status"] == 200
    (span,) = kept.spans()
    assert span.kind.name == "SERVER"
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    expected = {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/embeddings",
        "server.port": 8080,
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "minilm",
        "gen_ai.response.model": "minilm",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.embeddings.dimension.count": 384,
        "gen_ai.request.encoding_formats": ("base64",),
    }
    assert expected.items() <= dict(span.attributes).items()
    assert kept.points("gen_ai.server.request.duration")[0].count == 1
    (http,) = kept.points("http.server.request.duration")
    assert "url.path" not in http.attributes  # anybody could make any number of them


def test_a_refusal_is_no_error_of_the_server(kept: Kept) -> None:
    """A 4xx names its error and leaves the span's status alone."""
    requested(_refusing)
    (span,) = kept.spans()
    assert span.attributes["error.type"] == "OverloadedError"
    assert span.status.status_code.name == "UNSET"
    assert kept.points("gen_ai.server.request.duration")[0].attributes["error.type"] == "OverloadedError"


def test_a_request_that_breaks_is_an_error_and_still_raises(kept: Kept) -> None:
    """What the application raises goes on, and the span names it without its message."""
    with pytest.raises(RuntimeError, match="secret"):
        requested(_breaking)
    (span,) = kept.spans()
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["error.type"] == "RuntimeError"
    assert "secret" not in span.to_json()


def test_a_broken_traceparent_begins_a_new_trace(kept: Kept) -> None:
    """Whatever a client sends as its trace, the request is answered."""
    assert requested(_answering, traceparent="nonsense\xff")[0]["status"] == 200
    (span,) = kept.spans()
    assert span.parent is None


def test_checks_of_machines_are_not_traced(kept: Kept) -> None:
    """Liveness and scrapes of metrics leave no span."""
    for path in ("/health", "/ready", "/metrics"):
        requested(_answering, path)
    assert kept.spans() == []


def test_the_route_names_the_span(kept: Kept) -> None:
    """With Starlette, a span is called by its route's pattern and not by what a client wrote."""
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    responses = pytest.importorskip("starlette.responses")

    async def found(_: Any) -> Any:
        return responses.PlainTextResponse("yes")

    routes = [routing.Route("/v1/batches/{id}", found, methods=["POST"])]
    requested(applications.Starlette(routes=routes), "/v1/batches/17")
    (span,) = kept.spans()
    assert span.name == "POST /v1/batches/{id}"
    assert kept.points("http.server.request.duration")[0].attributes["http.route"] == "/v1/batches/{id}"


def test_several_observers_are_told(kept: Kept) -> None:
    """`both` leaves out what is None, and tells the others."""

    class Counting:
        seen = 0

        def see(self, seen: Any) -> None:
            self.seen += 1

    counting = Counting()
    observer = telemetry.both(counting, None, telemetry.observer("minilm"))
    assert observer is not None
    observer.see(ask())
    assert counting.seen == 1
    assert len(kept.spans()) == 1
    assert telemetry.both(None, counting) is counting
