"""`/metrics`: what the board, the coalescers and the door have counted, in Prometheus' format.

A collector reads them when somebody asks, so that requests pay nothing for it. Names follow Prometheus' conventions:
base units, `_total` for counters, labels of few values only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response
from starlette.routing import Route

from embatch._version import __version__
from embatch.frontends.server.tallies import COUNTS, SECONDS, SHARES, cumulative, cumulative_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from starlette.requests import Request

    from embatch.frontends.server.state import ServerState
    from embatch.frontends.server.tallies import Tally
    from embatch.serving import Snapshot

_ASK = ("model", "priority")
_MODEL = ("model",)


class Collector:
    """Reads a server when it is scraped.

    Args:
        state: the server.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._process = psutil.Process()

    def collect(self) -> Iterator[Any]:
        """All families."""
        totals = self._state.board.totals()
        yield from _of_asks(totals)
        yield from _of_batches(totals)
        yield from _of_snapshots(self._snapshots(), self._state.pool.names())
        yield from self._of_server()

    def _snapshots(self) -> dict[str, Snapshot]:
        return {name: embedder.snapshot() for name, embedder in self._state.pool.open_models().items()}

    def _of_server(self) -> Iterator[Any]:
        state = self._state
        traffic = state.board.traffic
        yield InfoMetricFamily("embatch_build", "What runs.", {"version": __version__})
        yield _gauge("embatch_start_time_seconds", "When the server started.", state.started_at)
        yield _gauge(
            "embatch_resident_memory_bytes", "Memory of the process.", self._process.memory_info().rss
        )
        yield _gauge(
            "embatch_ready", "1 if the first model is open.", int(state.ready and not state.draining)
        )
        yield _gauge("embatch_draining", "1 while the server is stopping.", int(state.draining))
        yield _gauge("embatch_open_connections", "Connections that are open.", traffic.open)
        yield _gauge("embatch_http_requests_in_progress", "Requests being answered.", traffic.under_way)
        yield _counter("embatch_connections", "Connections let in.", {(): traffic.accepted})
        cuts = {(why,): count for why, count in dict(traffic.cuts).items()}
        yield _counter("embatch_connections_cut", "Connections cut off, by reason.", cuts, ("reason",))
        answers = {(path, str(status)): count for (path, status), count in dict(traffic.answers).items()}
        yield _counter("embatch_http_requests", "Answers by path and status.", answers, ("path", "status"))
        if state.jobs is not None:
            jobs = {(name,): count for name, count in state.jobs.counts().items()}
            yield _gauges("embatch_jobs", "Batch jobs, by state.", jobs, ("state",))


def routes(state: ServerState) -> list[Any]:
    """`GET /metrics`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(state))

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body = encode(registry)  # in the loop's thread, which pools and jobs belong to: a few milliseconds
        return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return [Route("/metrics", metrics)]


def _of_asks(totals: Mapping[tuple[str, str], Tally]) -> Iterator[Any]:
    asks = {series: tally for series, tally in totals.items() if tally.outcomes}
    yield _counter(
        "embatch_asks",
        "Asks that have ended, by outcome.",
        {(*s, outcome): count for s, tally in asks.items() for outcome, count in tally.outcomes.items()},
        (*_ASK, "outcome"),
    )
    yield _counter(
        "embatch_ask_errors",
        "Asks that ended with an error, by its name.",
        {(*s, error): count for s, tally in asks.items() for error, count in tally.errors.items()},
        (*_ASK, "error"),
    )
    for name, says, field in (
        ("embatch_inputs", "Inputs of answered asks.", "inputs"),
        ("embatch_tokens", "Tokens of answered asks.", "tokens"),
        ("embatch_cached_inputs", "Inputs whose vector was stored already.", "cached"),
    ):
        yield _counter(name, says, {s: getattr(tally, field) for s, tally in asks.items()}, _ASK)
    seconds = HistogramMetricFamily(
        "embatch_ask_duration_seconds", "From the ask to the answer, of answered asks.", labels=_ASK
    )
    waits = HistogramMetricFamily(
        "embatch_ask_wait_seconds", "From the ask to its first batch, of answered asks.", labels=_ASK
    )
    for series, tally in asks.items():
        _fill(seconds, series, SECONDS, cumulative_seconds(tally.seconds), tally.seconds_sum)
        _fill(waits, series, SECONDS, cumulative_seconds(tally.waits), tally.wait_sum)
    yield seconds
    yield waits


def _of_batches(totals: Mapping[tuple[str, str], Tally]) -> Iterator[Any]:
    models = _by_model(totals)
    sizes = HistogramMetricFamily("embatch_batch_inputs", "Inputs of a batch.", labels=_MODEL)
    tokens = HistogramMetricFamily(
        "embatch_batch_tokens", "Tokens of a batch, padding counted.", labels=_MODEL
    )
    padding = HistogramMetricFamily(
        "embatch_batch_padding_ratio", "Share of a batch that is padding.", labels=_MODEL
    )
    for model, tally in models.items():
        _fill(sizes, (model,), COUNTS, cumulative(tally.batch_items, len(COUNTS)), tally.items)
        _fill(tokens, (model,), COUNTS, cumulative(tally.batch_tokens, len(COUNTS)), tally.padded_tokens)
        _fill(padding, (model,), SHARES, cumulative(tally.padding, len(SHARES)), tally.batch_padded)
    yield from (sizes, tokens, padding)
    for name, says, field in (
        ("embatch_batches", "Batches that came back from the backend.", "batches"),
        ("embatch_computed_tokens", "Tokens computed, padding not counted.", "real_tokens"),
        ("embatch_padded_tokens", "Tokens computed, padding counted.", "padded_tokens"),
        ("embatch_device_seconds", "Seconds inside the backend, summed over its streams.", "device_seconds"),
    ):
        yield _counter(name, says, {(m,): getattr(tally, field) for m, tally in models.items()}, _MODEL)
    failed = {(m, error): n for m, tally in models.items() for error, n in tally.batch_errors.items()}
    yield _counter("embatch_batch_errors", "Batches that failed, by error.", failed, (*_MODEL, "error"))


def _of_snapshots(snapshots: Mapping[str, Snapshot], names: Iterable[str]) -> Iterator[Any]:
    opened = {(name,): int(name in snapshots) for name in names}
    yield _gauges("embatch_model_open", "1 for models that are open.", opened, _MODEL)
    waiting = {(m, str(p)): n for m, snapshot in snapshots.items() for p, n in snapshot.waiting.items()}
    yield _gauges("embatch_queue_inputs", "Inputs that wait.", waiting, _ASK)
    for name, says, field in (
        ("embatch_model_alive", "1 while the model's engine works.", "alive"),
        ("embatch_queue_tokens", "About how many tokens wait.", "waiting_tokens"),
        ("embatch_queue_room_inputs", "Inputs that may wait at most.", "room"),
        ("embatch_running_inputs", "Inputs that are being computed.", "running"),
        ("embatch_streams", "Batches that can be computed side by side.", "streams"),
        ("embatch_batch_budget_tokens", "Token budget in use.", "budget"),
        ("embatch_batch_budget_settled", "1 once the search for the best budget has ended.", "settled"),
        ("embatch_speed_tokens_per_second", "Recent speed of all streams while they work.", "tokens_per_s"),
    ):
        yield _gauges(name, says, {(m,): getattr(each, field) for m, each in snapshots.items()}, _MODEL)
    dollars = {(m,): each.dollars for m, each in snapshots.items()}
    yield _counter(
        "embatch_spend_dollars", "Spent at a provider since the model was opened.", dollars, _MODEL
    )


def _by_model(totals: Mapping[tuple[str, str], Tally]) -> dict[str, Tally]:
    from embatch.frontends.server.tallies import summed

    models = sorted({model for model, _ in totals})
    found = {m: summed(tally for (model, _), tally in totals.items() if model == m) for m in models}
    return {model: tally for model, tally in found.items() if tally.batches}


def _fill(
    family: Any, labels: Sequence[str], borders: Sequence[float], counts: Sequence[int], total: float
) -> None:
    named = [(str(float(border)), count) for border, count in zip(borders, counts, strict=False)]
    family.add_metric(list(labels), [*named, ("+Inf", counts[-1])], total)


def _counter(
    name: str, says: str, values: Mapping[Any, float], labels: Sequence[str] = ()
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, says, labels=labels)
    for series, value in values.items():
        family.add_metric(list(series), value)
    return family


def _gauges(name: str, says: str, values: Mapping[Any, float], labels: Sequence[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=labels)
    for series, value in values.items():
        family.add_metric(list(series), float(value))
    return family


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, value=value)
