"""The load client: bytes to answers, answers to figures, and what the suites of the server make of them."""

from __future__ import annotations

import asyncio
import doctest
import json
import random
from base64 import b64encode
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from benchmarks.serving import faults, mutation
from benchmarks.serving.corpus import interactive, write_job
from benchmarks.serving.load import Client, Plan
from benchmarks.serving.servers import EMBATCH, INFINITY
from benchmarks.serving.tally import Tally, merged
from benchmarks.serving.wire import BadAnswerError, Response, ResponseParser, request, vector
from benchmarks.suites import serve, serve_mixed, serve_soak

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VECTORS = np.eye(3, dtype=np.float32)


def body(row: int) -> bytes:
    """An answer's body with the vector of a row."""
    coded = b64encode(VECTORS[row].astype("<f4").tobytes()).decode()
    return json.dumps({"object": "list", "data": [{"object": "embedding", "embedding": coded}]}).encode()


def answer(data: bytes, status: str = "200 OK", more: str = "") -> bytes:
    """A whole answer on the wire."""
    return f"HTTP/1.1 {status}\r\ndate: x\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data


@pytest.mark.parametrize("name", ["serving.jobs", "suites.serve_storm", "suites.serve_soak"])
def test_examples_in_docstrings(name: str) -> None:
    """The examples in the docstrings are true."""
    found = doctest.testmod(import_module(f"benchmarks.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_answers_are_found_however_the_bytes_are_cut(size: int) -> None:
    """Two answers behind each other come out whole, whatever pieces the network makes of them."""
    data = answer(body(0)) + answer(b"{}", "429 Too Many Requests", "Retry-After: 3\r\nConnection: close\r\n")
    parser = ResponseParser()
    found = [one for at in range(0, len(data), size) for one in parser.feed(data[at : at + size])]
    assert found == [Response(200, body(0)), Response(429, b"{}", retry_after=3, close=True)]


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    """Other protocols, broken status lines and answers without a length are named, and never waited for."""
    with pytest.raises(BadAnswerError):
        ResponseParser().feed(data)


def test_vector_is_read_from_any_spelling() -> None:
    """The vector is found with and without spaces, beside other fields of the same name's letters."""
    assert np.array_equal(vector(body(1)), VECTORS[1])  # type: ignore[arg-type]  # not None
    assert np.array_equal(vector(body(1).replace(b": ", b":")), VECTORS[1])  # type: ignore[arg-type]  # as above
    assert vector(b'{"error": {}}') is None


def test_tally_finds_a_swapped_vector() -> None:
    """An answer with another text's vector, with NaN, or without one counts as wrong."""
    tally = Tally(VECTORS)
    tally.answer(0, 1.0, 1.1, Response(200, body(0)))
    tally.answer(0, 1.0, 1.2, Response(200, body(1)))
    tally.answer(0, 1.0, 1.3, Response(200, b"{}"))
    nan = b64encode(np.full(3, np.nan, dtype="<f4").tobytes())
    tally.answer(0, 1.0, 1.4, Response(200, b'{"embedding":"' + nan + b'"}'))
    report = tally.report(1.0, 2.0)
    assert (report["compared"], report["wrong"]) == (4, 3)
    assert report["texts_per_s"] == 4.0


def test_latencies_are_of_good_answers() -> None:
    """A quick refusal does not make a server look fast; one without Retry-After is counted."""
    tally = Tally()
    for _ in range(9):
        tally.answer(0, 0.0, 0.001, Response(429, b"", retry_after=1))
    tally.answer(0, 0.0, 0.001, Response(503, b""))
    tally.answer(0, 0.0, 0.5, Response(200, b""))
    tally.lose("closed without an answer")
    report = tally.report(0.0, 1.0)
    assert (report["p50_ms"], report["texts_per_s"], report["no_retry_after"]) == (500.0, 1.0, 1)
    assert report["statuses"] == {"200": 1, "429": 9, "503": 1}
    both = merged([{**report, "client_cpu_s": 0.1}] * 2)
    assert (both["answered"], both["statuses"]["429"], both["lost"]) == (
        22,
        18,
        {"closed without an answer": 2},
    )


def report_of(plan: Plan, handler: Callable[[int], bytes | None]) -> dict[str, Any]:
    """What a client reports of a server that answers each request by `handler(number)`; None closes."""
    numbers = iter(range(10_000))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                data = handler(next(numbers))
                if data is None:
                    break
                writer.write(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> dict[str, Any]:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with server:
            return await Client(replace(plan, port=server.sockets[0].getsockname()[1])).run()

    return asyncio.run(run())


@pytest.fixture
def base(tmp_path: Path) -> Plan:
    """A plan over three texts and their vectors."""
    (tmp_path / "t.json").write_text(json.dumps(["a", "b", "c"]), "utf-8")
    np.save(tmp_path / "v.npy", VECTORS)
    texts, reference = str(tmp_path / "t.json"), str(tmp_path / "v.npy")
    return Plan(port=0, texts=texts, reference=reference, seconds=5.0, timeout_s=1.0)


def test_closed_loop_asks_so_often_and_compares(base: Plan) -> None:
    """Each connection asks as often as it is told; every answer is compared with its own text's vector."""
    plan = replace(base, requests=6)
    report = report_of(plan, lambda number: answer(body(number % 3)))
    assert (report["answered"], report["compared"], report["wrong"], report["lost"]) == (6, 6, 0, {})


def test_lost_requests_are_counted_and_the_connection_replaced(base: Plan) -> None:
    """A server that hangs up without an answer loses that request and no other."""
    plan = replace(base, requests=3)
    report = report_of(plan, lambda number: None if number == 1 else answer(body(number % 3)))
    assert (report["answered"], report["lost"]) == (2, {"closed without an answer": 1})


def test_open_loop_counts_from_when_a_request_was_due(base: Plan) -> None:
    """Arrivals do not wait for the server: a few hundred a second come whatever it does."""
    plan = replace(base, connections=4, rate=200.0, seconds=0.3)
    report = report_of(plan, lambda _: answer(b"{}"))
    assert 20 < report["answered"] < 120
    assert report["lost"] == {}


def test_mutations_are_the_same_for_a_seed() -> None:
    """A run of the fuzzer can be repeated; its bodies differ from each other."""
    first = [mutation.body(random.Random(seed), "a text") for seed in range(50)]
    assert first == [mutation.body(random.Random(seed), "a text") for seed in range(50)]
    assert len(set(first)) > 20
    assert all(mutation.stream(random.Random(seed), "/v1/embeddings", "a text") for seed in range(50))


def test_job_file_repeats_no_text(tmp_path: Path) -> None:
    """Rows of a job are all different, each a request of its own."""
    write_job(tmp_path / "job.jsonl", ["a", "b"], 5, "minilm")
    rows = [json.loads(line) for line in (tmp_path / "job.jsonl").read_text("utf-8").splitlines()]
    assert len({row["custom_id"] for row in rows}) == len({row["body"]["input"] for row in rows}) == 5


def test_interactive_mix() -> None:
    """The mix is as large as asked, all texts different."""
    rows = interactive(100)
    assert len(rows) == len(set(rows)) == 100


def load(clients: int, system: str, rate: float, p99: float) -> dict[str, Any]:
    """One turn of the suite `serve`."""
    zero = {
        "wrong": 0,
        "compared": 10,
        "lost": {},
        "statuses": {"200": 10},
        "answered": 10,
        "lowest_cosine": 1.0,
    }
    more = {"client_cpu_s": 0.1, "seconds": 1.0, "p50_ms": 1.0}
    return {"clients": clients, "system": system, "texts_per_s": rate, "p99_ms": p99, **zero, **more}


def test_servers_are_compared_within_a_round() -> None:
    """A machine that halves its speed between two rounds changes no ratio; a missing peer is no error."""
    rounds = [load(16, EMBATCH, rate * 4, 10.0) for rate in (100.0, 50.0)]
    rounds += [load(16, INFINITY, rate, 40.0) for rate in (100.0, 50.0)]
    summary = serve.summarise(rounds, [])
    assert summary["times_infinity"] == {"16": 4.0}
    assert summary["concurrency"]["16"][INFINITY]["embatch_p99_share"]["median"] == 0.25
    assert serve.summarise(rounds[:2], [])["times_infinity"] == {}


def mixed_round(job: float, *, stolen: float = 0.0) -> dict[str, Any]:
    """A round of the mixed day on a machine that slowed down by a third from its first half to its second."""
    one = {"p50_ms": 1.0, "compared": 1, "wrong": 0, "answered": 1, "statuses": {"200": 1}, "lost": {}}
    return {
        "rate": 50.0,
        "capacity": [{**one, "texts_per_s": 120.0}, {**one, "texts_per_s": 80.0}],
        "alone": [{**one, "p99_ms": p99, "texts_per_s": 50.0} for p99 in (8.0, 12.0)],
        "beside": [{**one, "p99_ms": p99, "texts_per_s": 50.0} for p99 in (12.0, 18.0)],
        "job_alone_texts_per_s": [240.0, 160.0],
        "job_beside_texts_per_s": [job * 1.2, job * 0.8],
        "stolen": [0.0, stolen],
        "again": 1,
    }


def test_job_is_measured_against_what_interactive_requests_left() -> None:
    """At half capacity half of the job's own speed is left: 80 of 200 a second are 80% of it."""
    figures = serve_mixed.figures(mixed_round(80.0))
    assert (figures["p99_times_alone"], figures["job_of_what_is_left"]) == (1.5, 0.8)


def test_rounds_that_others_disturbed_are_kept_but_not_summed_up() -> None:
    """The median is of calm rounds; errors of all rounds count; without a calm one all do."""
    summary = serve_mixed.summarise([mixed_round(80.0), mixed_round(20.0, stolen=0.2)])
    assert summary["job_of_what_is_left"]["low"] == 0.8
    assert (summary["rounds"], summary["calm_rounds"], summary["compared"]) == (2, 1, 12)
    assert summary["windows_measured_again"] == 2
    disturbed = serve_mixed.summarise([mixed_round(20.0, stolen=0.2)])
    assert (disturbed["calm_rounds"], disturbed["job_of_what_is_left"]["median"]) == (0, 0.2)


def test_soak_counts_what_must_not_be() -> None:
    """Lost requests are stuck waiters, wrong vectors of any client are wrong, and what a mark names is on record."""
    report = {
        "answered": 10,
        "statuses": {"200": 8, "500": 2},
        "lost": {"no answer in its time": 1},
        "compared": 8,
        "wrong": 0,
        "lowest_cosine": 1.0,
        "texts_per_s": 1.0,
        "p50_ms": 1.0,
        "p99_ms": 1.0,
    }
    counts = {"! many: wrong vector": 2, "compared": 5, "killed": 3, "broken body: 400": 4, "broken body": 4}
    standing = {"waiting": 0, "running": 0}
    found = serve_soak.summarise(report, counts, [(0.0, 100.0), (60.0, 100.0)], standing, life_s=30.0)
    assert (found["stuck"], found["wrong"], found["compared"], found["failed"]) == (1, 2, 13, 2)
    assert (found["mib_per_minute"], found["waiting_at_end"], found["broken"]) == (0.0, 0, 4)
    assert set(faults.MARKS) == {faults.FAIL, faults.NAN, faults.TIGHT}


def lives(growth: float, *, count: int = 4) -> list[tuple[float, float]]:
    """Readings of memory: each model of four minutes comes from 250 MiB to so many more than the last one."""
    return [
        (240.0 * life + second, 250.0 + (50.0 + growth * life) * min(1.0, second / 60.0))
        for life in range(count)
        for second in range(0, 240, 5)
    ]


@pytest.mark.parametrize(("growth", "per_minute"), [(0.0, 0.0), (2.0, 0.5), (-4.0, -1.0)])
def test_memory_grows_from_model_to_model(growth: float, per_minute: float) -> None:
    """What one model does over and over is no growth; a life that is cut short does not count."""
    assert serve_soak.growth_per_minute(lives(growth), 240.0) == pytest.approx(per_minute)
    cut = [*lives(growth), (961.0, 20.0), (990.0, 900.0)]
    assert serve_soak.growth_per_minute(cut, 240.0) == pytest.approx(per_minute)
    assert serve_soak.growth_per_minute(lives(growth, count=1), 240.0) == 0.0


def test_request_is_whole() -> None:
    """A request names its length, so that the server need not guess."""
    data = request("/v1/embeddings", "Grüße", model="minilm")
    head, sent = data.split(b"\r\n\r\n")
    assert f"Content-Length: {len(sent)}".encode() in head
    assert json.loads(sent)["input"] == "Grüße"
