"""Sending by OTLP over HTTP, as the environment says: to a collector, to one that is away, and to none."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import pytest

from embatch.frontends import telemetry
from embatch.frontends.telemetry import setup

if TYPE_CHECKING:
    from tests.integration.telemetry.conftest import Collector

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that whoever runs the tests has set."""
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "METRICS_ENDPOINT", "PROTOCOL", "HEADERS"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in (
        "TRACES_EXPORTER",
        "METRICS_EXPORTER",
        "SDK_DISABLED",
        "SERVICE_NAME",
        "RESOURCE_ATTRIBUTES",
    ):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_spans_and_metrics_reach_a_collector(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded is there, as protobuf, after `stop`; the service has the name that was given."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    assert telemetry.start("embatch-serve") is True
    assert telemetry.start("embatch-serve") is True
    with telemetry.run_span("embed", "minilm") as run:
        assert run is not None
        run.done(items=2, tokens=9)
    assert telemetry.stop(10) is True
    assert telemetry.enabled() is False
    traces = ExportTraceServiceRequest.FromString(collector.posted["/v1/traces"][0])
    (spans,) = traces.resource_spans
    assert [span.name for span in spans.scope_spans[0].spans] == ["embeddings minilm"]
    resource = {entry.key: entry.value.string_value for entry in spans.resource.attributes}
    assert resource["service.name"] == "embatch-serve"
    told = ExportMetricsServiceRequest.FromString(collector.posted["/v1/metrics"][-1])
    found = {metric.name for scope in told.resource_metrics[0].scope_metrics for metric in scope.metrics}
    assert {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"} <= found


def test_the_environment_names_the_service_and_the_signals(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name from the environment wins, and a signal whose exporter is `none` is not sent."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/mine")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert telemetry.start() is True
    with telemetry.run_span("embed", "minilm"):
        pass
    assert telemetry.stop(10) is True
    assert list(collector.posted) == ["/mine"]
    sent = ExportTraceServiceRequest.FromString(collector.posted["/mine"][0])
    attributes = {entry.key: entry.value.string_value for entry in sent.resource_spans[0].resource.attributes}
    assert attributes["service.name"] == "mine"


def test_a_collector_that_is_away_hurts_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Work goes on, `stop` comes back in its time and says that not all was sent, and one line tells of it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    logging.getLogger("opentelemetry").handlers.clear()
    with caplog.at_level(logging.WARNING, logger="embatch.telemetry"):
        assert telemetry.start() is True
        for _ in range(5000):  # more than its queue holds
            with telemetry.run_span("embed", "minilm"):
                pass
        telemetry.stop(0.3)
    assert telemetry.enabled() is False
    told = [record for record in caplog.records if record.name == "embatch.telemetry"]
    assert len(told) <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_what_cannot_be_done_is_said_and_telemetry_stays_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    """An exporter or a protocol that there is not is named in the log, with those that there are."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, logger="embatch.telemetry"):
        assert telemetry.start() is False
    assert value in caplog.text
    assert setup.running() is None


def test_the_console_shows_spans_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`OTEL_TRACES_EXPORTER=console` needs no collector, and keeps out of results."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert telemetry.start() is True
    with telemetry.run_span("embed", "minilm"):
        pass
    assert telemetry.stop(10) is True
    shown = capsys.readouterr()
    assert '"name": "embeddings minilm"' in shown.err
    assert shown.out == ""
