"""Providers of traces and metrics that send what the environment asks for, and how they end.

They are ours alone, not the process's global ones. The SDK reads its own variables (endpoints, headers, sampling,
intervals, resource). A collector that is away costs a line on standard error and no time: queues are bounded and drop.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import Any

_LOG = logging.getLogger("embatch.telemetry")
_lock = threading.Lock()
_state: dict[str, Any] = {"running": None}


@dataclass(frozen=True, slots=True)
class Running:
    """What sends."""

    tracers: Any
    meters: Any


def running() -> Running | None:
    """What was started and not stopped."""
    found: Running | None = _state["running"]
    return found


def start(service: str) -> bool:
    """See `telemetry.start`."""
    with _lock:
        if _state["running"] is not None:
            return True
        try:
            made = _made(service)
        except ImportError as error:
            _LOG.warning(
                'OTEL_* asks for telemetry, and it is not installed (%s): pip install "embatch[otel]"', error
            )
            return False
        except Exception as error:  # noqa: BLE001  # whatever a variable made the SDK raise: work goes on without
            _LOG.warning("Telemetry stays off: %s", error)
            return False
        _state["running"] = made
        return made is not None


def stop(timeout_s: float) -> bool:
    """See `telemetry.stop`."""
    with _lock:
        made, _state["running"] = running(), None
    if made is None:
        return True
    ended = threading.Event()

    def end() -> None:
        for provider, each in ((made.tracers, timeout_s / 2), (made.meters, timeout_s / 2)):
            try:
                provider.force_flush(timeout_millis=max(1, int(each * 1000)))
                provider.shutdown()
            except Exception as error:  # noqa: BLE001  # nothing that telemetry does may fail a program's end
                _LOG.debug("telemetry could not be sent: %s", error)
        ended.set()

    # The SDK's own limits are not kept while an exporter tries again: a thread that nobody waits for keeps them.
    threading.Thread(target=end, name="embatch-telemetry-end", daemon=True).start()
    return ended.wait(timeout_s)


def _made(service: str) -> Running | None:
    """Providers with exporters; None if both signals are off."""
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import NoOpTracerProvider

    spans, numbers = _exporter("traces"), _exporter("metrics")
    if spans is None and numbers is None:
        return None
    _tell_once()
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {"service.name": service})
    tracers: Any = NoOpTracerProvider()
    meters: Any = NoOpMeterProvider()
    if spans is not None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(spans))
    if numbers is not None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        meters = MeterProvider(
            [PeriodicExportingMetricReader(numbers)], resource=resource, shutdown_on_exit=False
        )
    return Running(tracers, meters)


def _exporter(signal: str) -> Any:
    """The exporter of `traces` or `metrics` that the environment names; None if it is none."""
    upper = signal.upper()
    named = os.environ.get(f"OTEL_{upper}_EXPORTER", "").strip()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT")
    if not named:
        named = "otlp" if any(os.environ.get(name, "").strip() for name in endpoints) else "none"
    if named == "none":
        return None
    kind = "SpanExporter" if signal == "traces" else "MetricExporter"
    if named == "console":
        module = importlib.import_module(
            f"opentelemetry.sdk.{'trace' if signal == 'traces' else 'metrics'}.export"
        )
        return getattr(module, f"Console{kind}")(out=sys.stderr)  # results go to standard output
    if named != "otlp":
        raise ValueError(f"OTEL_{upper}_EXPORTER is {named!r}; use otlp, console or none")
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if (protocol or "http/protobuf") != "http/protobuf":
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; use http/protobuf")
    folder = "trace_exporter" if signal == "traces" else "metric_exporter"
    module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.http.{folder}")
    return getattr(module, f"OTLP{kind}")()


class _Once(logging.Handler):
    """Says the first trouble of the exporters, instead of each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.said:
            self.said = True
            _LOG.warning("Telemetry cannot be sent, work goes on: %s", record.getMessage())


def _tell_once() -> None:
    log = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _Once) for handler in log.handlers):
        log.addHandler(_Once())
