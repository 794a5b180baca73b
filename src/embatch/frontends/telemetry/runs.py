"""A span around a run of the command line, or a call of a program. What is observed within becomes its children."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from embatch.frontends.telemetry import names
from embatch.frontends.telemetry.observing import for_metrics, span_kind, span_name
from embatch.frontends.telemetry.signals import signals

if TYPE_CHECKING:
    from collections.abc import Iterator


class RunSpan:
    """A run under way."""

    def __init__(self, span: Any) -> None:
        self._span = span
        self.input_tokens = 0
        self.output_tokens = 0

    def done(
        self,
        *,
        items: int,
        tokens: int,
        failed: int = 0,
        cached: int = 0,
        output_tokens: int = 0,
        model: str = "",
    ) -> None:
        """Say what was done, at the end.

        Args:
            items: texts, with a vector or without.
            tokens: that were computed or sent.
            failed: texts without a vector.
            cached: texts whose vector was there already.
            output_tokens: of answers, where text is generated.
            model: that answered, as it calls itself.
        """
        self.input_tokens, self.output_tokens = tokens, output_tokens
        told: dict[str, Any] = {
            names.ITEMS: items,
            names.INPUT_TOKENS: tokens,
            names.FAILED: failed,
            names.CACHED: cached,
        }
        told |= {names.OUTPUT_TOKENS: output_tokens} if output_tokens else {}
        told |= {names.RESPONSE_MODEL: model} if model else {}
        self._span.set_attributes(told)


@contextmanager
def running_span(kind: str, subject: dict[str, Any]) -> Iterator[RunSpan]:
    """See `telemetry.run_span`."""
    recorded, began = signals(), time.perf_counter()
    failed: dict[str, str] = {}
    with recorded.tracer.start_as_current_span(
        span_name(subject),
        kind=span_kind(subject),
        attributes={**subject, names.RUN_KIND: kind},
        record_exception=False,  # a message may quote a text
        set_status_on_exception=False,
    ) as span:
        run = RunSpan(span)
        try:
            yield run
        except BaseException as error:
            failed = {names.ERROR_TYPE: type(error).__name__}
            span.set_attributes(failed)
            span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            plain = for_metrics(subject)
            recorded.operations.record(time.perf_counter() - began, plain | failed)
            for direction, tokens in (("input", run.input_tokens), ("output", run.output_tokens)):
                if tokens:
                    recorded.tokens.record(tokens, plain | {names.TOKEN_TYPE: direction})
