"""Spans and metrics of a server's requests: an ASGI application around another.

A request's span is a part of its caller's trace, if the caller sent a `traceparent`, and is current while the request
is handled. What the request was about, its routes say with `telemetry.note`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace

from embatch.frontends.telemetry import names
from embatch.frontends.telemetry.observing import for_metrics, what
from embatch.frontends.telemetry.signals import signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Scope]]
    Send = Callable[[Scope], Awaitable[None]]

QUIET = frozenset({"/health", "/ready", "/metrics"})
"""Asked every few seconds by machines: nothing to trace."""

_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}


class TracedApp:
    """The application inside, traced."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._signals = signals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; anything but HTTP goes through as it is."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self._app(scope, receive, send)
            return
        noted: dict[str, Any] = {}
        scope["embatch.telemetry"] = noted
        began = time.perf_counter()
        status: dict[str, int] = {}

        async def sending(message: Scope) -> None:
            if message["type"] == "http.response.start":
                status["code"] = message["status"]
            await send(message)

        attributes = _request(scope)
        method = attributes[names.HTTP_METHOD]
        with self._signals.tracer.start_as_current_span(
            "HTTP" if method == "_OTHER" else method,
            context=propagate.extract(_headers(scope)),
            kind=trace.SpanKind.SERVER,
            attributes=attributes | {names.URL_PATH: scope["path"]},
            record_exception=False,  # a message may quote a text
            set_status_on_exception=False,
        ) as span:
            error = ""
            try:
                await self._app(scope, receive, sending)
            except BaseException as raised:
                error = type(raised).__name__
                raise
            finally:
                self._ended(
                    span, scope, attributes, noted, status.get("code"), error, time.perf_counter() - began
                )

    def _ended(  # what is known of a request, once
        self,
        span: Any,
        scope: Scope,
        attributes: dict[str, Any],
        noted: dict[str, Any],
        code: int | None,
        error: str,
        seconds: float,
    ) -> None:
        route = getattr(scope.get("route"), "path", None)
        told = dict(attributes)
        if route:
            told[names.HTTP_ROUTE] = route
            span.update_name(f"{attributes[names.HTTP_METHOD]} {route}")
        if code is not None:
            told[names.HTTP_STATUS] = code
        error = (
            error or str(noted.get("error", "")) or (str(code) if code is not None and code >= 500 else "")
        )
        if error:
            told[names.ERROR_TYPE] = error
        if error and (code is None or code >= 500):  # a request that was wrong is no error of the server's
            span.set_status(trace.Status(trace.StatusCode.ERROR, error))
        span.set_attributes(told)
        self._signals.requests.record(seconds, told)
        if "model" in noted:
            self._model(span, noted, error, seconds)

    def _model(self, span: Any, noted: dict[str, Any], error: str, seconds: float) -> None:
        subject = what(noted["model"], dimensions=noted.get("dimensions"))
        told = dict(subject)
        told |= {names.INPUT_TOKENS: noted["tokens"]} if "tokens" in noted else {}
        told |= {names.ITEMS: noted["inputs"]} if "inputs" in noted else {}
        told |= {names.ENCODING_FORMATS: [noted["encoding"]]} if "encoding" in noted else {}
        told |= {} if error else {names.RESPONSE_MODEL: subject[names.REQUEST_MODEL]}
        span.set_attributes(told)
        failed = {names.ERROR_TYPE: error} if error else {}
        self._signals.served.record(seconds, for_metrics(subject) | failed)


def _request(scope: Scope) -> dict[str, Any]:
    """What a request's span and metrics have in common, as known when it begins."""
    method = scope["method"].upper()
    found: dict[str, Any] = {
        names.HTTP_METHOD: method if method in _METHODS else "_OTHER",
        names.URL_SCHEME: scope.get("scheme", "http"),
    }
    server = scope.get("server")
    if server and server[0]:
        found[names.SERVER_ADDRESS] = server[0]
        if server[1] is not None:
            found[names.SERVER_PORT] = server[1]
    return found


def _headers(scope: Scope) -> dict[str, str]:
    """The headers that may belong to a trace: of these a propagator reads some."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
