"""OpenTelemetry traces and metrics, by the conventions for generative AI; off unless somebody asks for them.

It is on when the standard environment variables say so and the extra is installed (`start` then sends by OTLP over
HTTP), or when the program has set up OpenTelemetry itself (the API alone is used then). While it is off, nothing of
OpenTelemetry is imported, and every function here returns at once. Texts are never recorded: numbers, names, outcomes.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence

    from embatch.frontends.telemetry.runs import RunSpan
    from embatch.seen import Observer
    from embatch.seen_lanes import RunObserver

AnyObserver = TypeVar("AnyObserver", "Observer", "RunObserver")

RunKind = Literal["embed", "index", "query", "generate"]
"""What a span of a run is called: the command, or the method of `Embedder`."""

STOP_S = 3.0
"""So long a shutdown waits for what is not sent yet."""

_NOTED = "embatch.telemetry"  # the key of a request's notes in its ASGI scope
_WISHES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
)


def wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the environment asks for telemetry. Imports nothing."""
    environ = os.environ if environ is None else environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return any(environ.get(name, "").strip() not in {"", "none"} for name in _WISHES)


def enabled() -> bool:
    """Whether anything would be recorded: it was started, or the program has set up OpenTelemetry itself."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    setup = sys.modules.get("embatch.frontends.telemetry.setup")
    return (setup is not None and setup.running() is not None) or _set_up_by_program()


def start(service: str = "embatch") -> bool:
    """Send traces and metrics as the environment says, until `stop`; whether it does. Calling twice is allowed.

    Nothing happens where the environment asks for nothing, where the program has set up OpenTelemetry itself, and where
    the extra is not installed, which is logged.
    """
    if not wanted() or _set_up_by_program():
        return False
    from embatch.frontends.telemetry import setup

    return setup.start(service)


def stop(timeout_s: float = STOP_S) -> bool:
    """Send what is not sent yet, for at most so long; whether all was. Never raises."""
    setup = sys.modules.get("embatch.frontends.telemetry.setup")
    return True if setup is None else bool(setup.stop(timeout_s))


def observer(
    model: str,
    provider: str = "",
    *,
    dimensions: int | None = None,
    address: str = "",
    port: int | None = None,
    ask_spans: bool = True,
) -> RunObserver | None:
    """What turns asks, batches and calls into metrics and spans; None while telemetry is off.

    Made within a span (`run_span`, or one of the program's own), its spans are children of that one.

    Args:
        model: as it was asked for; what a provider's model begins with, as in `openai:NAME`, names its provider.
        provider: by the conventions' names, if it is not the one that the model's name says.
        dimensions: of its vectors.
        address: host of the provider's API.
        port: of the same.
        ask_spans: whether each ask gets a span. A server that has spans of requests needs none.
    """
    if not enabled():
        return None
    from embatch.frontends.telemetry.observing import TelemetryObserver, what

    subject = what(model, provider, dimensions=dimensions, address=address, port=port)
    return TelemetryObserver(subject, ask_spans=ask_spans)


def both(*observers: AnyObserver | None) -> AnyObserver | None:
    """One observer that tells all of these; None if there is none."""
    there = [one for one in observers if one is not None]
    if len(there) < 2:
        return there[0] if there else None
    return cast("AnyObserver", _All(there))


def middleware(app: Any) -> Any:
    """An ASGI application with a span and metrics for each of its requests; `app` itself while telemetry is off.

    A request's W3C `traceparent` makes its span a part of the caller's trace. Liveness checks and scrapes of metrics
    get none.
    """
    if not enabled():
        return app
    from embatch.frontends.telemetry.requests import TracedApp

    return TracedApp(app)


def note(
    scope: MutableMapping[str, Any],
    *,
    model: str | None = None,
    tokens: int | None = None,
    inputs: int | None = None,
    dimensions: int | None = None,
    encoding: str | None = None,
    error: str | None = None,
) -> None:
    """Say of the request with this ASGI scope what it was about. Does nothing for a request without a span.

    Args:
        scope: the request's (`request.scope`).
        model: that answers.
        tokens: of all inputs, as billed.
        inputs: how many.
        dimensions: of the vectors.
        encoding: of the vectors in the answer: `float` or `base64`.
        error: name of what it ended with.
    """
    noted = scope.get(_NOTED)
    if noted is not None:
        told = {"model": model, "tokens": tokens, "inputs": inputs, "dimensions": dimensions}
        told |= {"encoding": encoding, "error": error}
        noted.update({name: value for name, value in told.items() if value is not None})


@contextmanager
def run_span(
    kind: RunKind,
    model: str,
    provider: str = "",
    *,
    dimensions: int | None = None,
    address: str = "",
    port: int | None = None,
) -> Iterator[RunSpan | None]:
    """A span around a run, or a call of a program; None within the block while telemetry is off.

    What the block raises ends the span as an error, and goes on. Say what was done with `RunSpan.done`.
    """
    if not enabled():
        yield None
        return
    from embatch.frontends.telemetry.observing import what
    from embatch.frontends.telemetry.runs import running_span

    operation = "chat" if kind == "generate" else "embeddings"
    subject = what(model, provider, dimensions=dimensions, address=address, port=port, operation=operation)
    with running_span(kind, subject) as span:
        yield span


class _All:
    """Tells several observers."""

    def __init__(self, observers: Sequence[Any]) -> None:
        self._observers = observers

    def see(self, seen: Any) -> None:
        for one in self._observers:
            one.see(seen)


def _set_up_by_program() -> bool:
    """Whether whoever runs us has set providers: the API's own stand-ins record nothing."""
    for name, getter in (
        ("opentelemetry.trace", "get_tracer_provider"),
        ("opentelemetry.metrics", "get_meter_provider"),
    ):
        module = sys.modules.get(name)
        if module is not None and not type(getattr(module, getter)()).__module__.startswith(name):
            return True
    return False
