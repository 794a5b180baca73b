"""When telemetry is on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from embatch.frontends import telemetry


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "mine"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:4318/v1/metrics"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_only_the_standard_variables_turn_it_on(environ: dict[str, str], wanted: bool) -> None:
    """An endpoint or an exporter asks for telemetry, a name does not, and `OTEL_SDK_DISABLED` has the last word."""
    assert telemetry.wanted(environ) is wanted


OFF = """
import os, sys
for name in [name for name in os.environ if name.startswith("OTEL_")]:
    del os.environ[name]
from embatch.frontends import telemetry
assert telemetry.start() is False
assert telemetry.observer("minilm") is None
assert telemetry.both(None, None) is None
app = object()
assert telemetry.middleware(app) is app
scope = {}
telemetry.note(scope, model="minilm", tokens=3)
assert scope == {}
with telemetry.run_span("embed", "minilm") as run:
    assert run is None
assert telemetry.stop() is True
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_of_opentelemetry_is_imported_while_it_is_off() -> None:
    """Every function may be called without it, and none loads it."""
    done = subprocess.run(
        [sys.executable, "-c", OFF], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
