"""An observer that turns asks, batches and calls into spans and metrics.

Spans are made when what they stand for has ended, with the times that were seen. Asks come from other threads than
their callers', so an ask's span belongs to the span within which the observer was made, if there was one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace

from embatch.frontends.telemetry import names
from embatch.frontends.telemetry.signals import signals
from embatch.seen import AskSeen, BatchSeen
from embatch.seen_lanes import CallSeen

if TYPE_CHECKING:
    from embatch.seen_lanes import RunSeen


def what(
    model: str,
    provider: str = "",
    *,
    dimensions: int | None = None,
    address: str = "",
    port: int | None = None,
    operation: str = "embeddings",
) -> dict[str, Any]:
    """The attributes of everything that is asked of this model."""
    prefix, colon, name = model.partition(":")
    known = names.PROVIDERS.get(prefix) if colon else None
    found: dict[str, Any] = {
        names.OPERATION: operation,
        names.PROVIDER: provider or known or names.LOCAL,
        names.REQUEST_MODEL: name if known else model,
    }
    if dimensions is not None:
        found[names.DIMENSION_COUNT] = dimensions
    if address:
        found[names.SERVER_ADDRESS] = address
        found[names.SERVER_PORT] = port if port is not None else 443
    return found


def for_metrics(subject: dict[str, Any], **more: str) -> dict[str, Any]:
    """The attributes that metrics have: few enough values that every combination may be counted."""
    return {name: value for name, value in subject.items() if name != names.DIMENSION_COUNT} | more


def span_kind(subject: dict[str, Any]) -> Any:
    """A provider's model is asked as a client; one of this process within it."""
    return trace.SpanKind.INTERNAL if subject[names.PROVIDER] == names.LOCAL else trace.SpanKind.CLIENT


class TelemetryObserver:
    """Records asks, batches and calls of one model. Implements `RunObserver`, and with it `Observer`.

    What is counted as an operation of the conventions is what a caller asked for, so that no token counts twice: asks
    here, runs in `runs`. Batches, and the calls that take their place with a provider, have measures of their own.

    Args:
        subject: as `what` gives it.
        ask_spans: whether each ask gets a span. Batches get one within a run's span only: alone they are noise.
    """

    def __init__(self, subject: dict[str, Any], *, ask_spans: bool = True) -> None:
        self._subject = subject
        self._signals = signals()
        self._within = context.get_current()
        self._batch_spans = trace.get_current_span(self._within).get_span_context().is_valid
        self._ask_spans = ask_spans

    def see(self, seen: RunSeen) -> None:
        """Record it. Whatever goes wrong with that is nobody's concern."""
        try:
            if isinstance(seen, AskSeen):
                self._ask(seen)
            elif isinstance(seen, BatchSeen):
                self._batch(seen)
            elif isinstance(seen, CallSeen):
                self._call(seen)
        except Exception:  # noqa: BLE001, S110  # observers never raise, and the SDK has logged it
            pass

    def _ask(self, ask: AskSeen) -> None:
        error = "" if ask.outcome == "answered" else ask.error or ask.outcome
        plain = for_metrics(self._subject)
        model = {names.RESPONSE_MODEL: ask.model} if ask.model and ask.outcome == "answered" else {}
        failed = {names.ERROR_TYPE: error} if error else {}
        self._signals.operations.record(ask.seconds, plain | model | failed)
        self._signals.waits.record(ask.waited_s, plain | {names.PRIORITY: str(ask.priority)})
        if ask.tokens:
            self._signals.tokens.record(ask.tokens, plain | model | {names.TOKEN_TYPE: "input"})
        if self._ask_spans:
            told = {
                names.INPUT_TOKENS: ask.tokens,
                names.ITEMS: ask.inputs,
                names.CACHED: ask.cached,
                names.PRIORITY: str(ask.priority),
                names.OUTCOME: ask.outcome,
                names.WAITED: ask.waited_s,
            }
            self._span(ask.at, ask.seconds, model | told, error)

    def _batch(self, batch: BatchSeen) -> None:
        failed = {names.ERROR_TYPE: batch.error} if batch.error else {}
        plain = for_metrics(self._subject) | failed
        self._signals.batches.record(batch.seconds, plain)
        self._signals.items.record(batch.items, plain)
        if self._batch_spans:
            told = {
                names.INPUT_TOKENS: batch.tokens,
                names.ITEMS: batch.items,
                names.BATCH_STREAM: batch.stream,
                names.BATCH_LONGEST: batch.longest,
                names.BATCH_PADDED: batch.padded_tokens,
                names.BATCH_BUDGET: batch.budget,
                names.BATCH_ASKS: batch.asks,
            }
            self._span(batch.at, batch.seconds, told, batch.error)

    def _call(self, call: CallSeen) -> None:
        failed = {names.ERROR_TYPE: call.error} if call.error else {}
        plain = for_metrics(self._subject) | failed
        self._signals.batches.record(call.seconds, plain)
        self._signals.items.record(call.items, plain)
        if self._batch_spans:
            told = {
                names.INPUT_TOKENS: call.tokens,
                names.ITEMS: call.items,
                names.FAILED: call.failed,
            }
            self._span(call.at, call.seconds, told, call.error)

    def _span(self, at: float, seconds: float, attributes: dict[str, Any], error: str) -> None:
        begin = nanoseconds(at)
        span = self._signals.tracer.start_span(
            span_name(self._subject),
            context=self._within,
            kind=span_kind(self._subject),
            attributes=self._subject,
            start_time=begin,
        )
        span.set_attributes(attributes)
        if error:
            span.set_attribute(names.ERROR_TYPE, error)
            span.set_status(trace.Status(trace.StatusCode.ERROR, error))
        span.end(begin + nanoseconds(seconds))


def span_name(subject: dict[str, Any]) -> str:
    """`embeddings MODEL`, as the conventions have it."""
    return f"{subject[names.OPERATION]} {subject[names.REQUEST_MODEL]}"


def nanoseconds(seconds: float) -> int:
    """Whole ones, 0 at least."""
    return max(0, round(seconds * 1e9)) if math.isfinite(seconds) else 0
