"""The tracer and the instruments that everything here records with.

Those of the providers that `setup` made, or the program's own. Instruments are made once per provider.
"""

from __future__ import annotations

import threading
from typing import Any

from opentelemetry import metrics, trace

from embatch._version import __version__
from embatch.frontends.telemetry import names, setup

_SCOPE = "embatch"


class Signals:
    """A tracer, and the histograms of one provider of metrics."""

    def __init__(self, tracers: Any, meters: Any) -> None:
        self.tracer: Any = tracers.get_tracer(_SCOPE, __version__)
        meter = meters.get_meter(_SCOPE, __version__)

        def histogram(name: str, unit: str, buckets: tuple[float, ...], description: str) -> Any:
            return meter.create_histogram(
                name, unit=unit, description=description, explicit_bucket_boundaries_advisory=list(buckets)
            )

        self.tokens = histogram(
            names.TOKEN_USAGE, "{token}", names.TOKENS, "Number of input and output tokens used."
        )
        self.operations = histogram(names.OPERATION_DURATION, "s", names.SECONDS, "GenAI operation duration.")
        self.served = histogram(
            names.SERVER_DURATION, "s", names.SECONDS, "Generative AI server request duration."
        )
        self.requests = histogram(
            names.HTTP_DURATION, "s", names.HTTP_SECONDS, "Duration of HTTP server requests."
        )
        self.batches = histogram(
            names.BATCH_DURATION, "s", names.BRIEF_SECONDS, "From a batch's beginning to its vectors."
        )
        self.items = histogram(names.BATCH_ITEMS, "{item}", names.COUNTS, "Texts that a batch holds.")
        self.waits = histogram(
            names.WAIT_DURATION, "s", names.BRIEF_SECONDS, "From an ask to when the first of it was computed."
        )


_lock = threading.Lock()
_made: dict[tuple[int, int], tuple[Any, Any, Signals]] = {}


def signals() -> Signals:
    """Those of the providers that are in use now."""
    running = setup.running()
    tracers = running.tracers if running is not None else trace.get_tracer_provider()
    meters = running.meters if running is not None else metrics.get_meter_provider()
    key = (id(tracers), id(meters))
    with _lock:
        if key not in _made:
            _made[key] = (tracers, meters, Signals(tracers, meters))  # held, so that its id is not another's
        return _made[key][2]
