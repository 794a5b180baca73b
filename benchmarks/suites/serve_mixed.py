"""A mixed day: interactive requests at half the server's capacity, alone and beside a job of 100,000 texts.

In each round: how many interactive requests a second the server can answer at most; half of that alone, at random
moments; the job alone; and both together. The job is not run to its end: its speed is taken over a window after a
warm-up, and it is cancelled. What is left for it is its speed alone times the share of the server's capacity that the
interactive requests did not use.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks import machine, markdown, results, texts
from benchmarks.serving import corpus, servers
from benchmarks.serving.jobs import Job, rate, upload
from benchmarks.serving.loads import Load, load, plan_for
from benchmarks.serving.servers import Server
from benchmarks.stats import significant, spread
from benchmarks.suites.throughput import token_lengths

if TYPE_CHECKING:
    from benchmarks.harness import Settings
    from benchmarks.serving.corpus import Corpus

TEXTS = 2000
JOB_TEXTS = 100_000
JOB_DIFFERENT = 4000
CLIENTS = 64
"""Requests under way when capacity is measured."""
SHARE = 0.5
CAPACITY_S = 20.0
WINDOW_S = 60.0
WARM_S = 8.0
ROUNDS = 3
CONNECTIONS = 512
WANTED_P99 = 2.0
WANTED_JOB = 0.8


def run(settings: Settings) -> dict[str, Any]:
    """Round by round on one server."""
    rows = corpus.make(settings, "interactive", corpus.interactive(settings.scaled(TEXTS, 200)))
    job_rows = texts.mixed(settings.scaled(JOB_DIFFERENT, 200))
    job_texts = settings.scaled(JOB_TEXTS, 20_000)
    path = settings.work / "job.jsonl"
    corpus.write_job(path, job_rows, job_texts, "minilm")
    kind = servers.embatch(settings.model, settings.work / "state")
    rounds = []
    with Server(kind, settings.work) as server:
        file = upload(server, path)
        _warm(settings, server, rows, file)
        for number in range(min(settings.rounds, ROUNDS)):
            rounds.append(_round(settings, server, rows, file, number))
            print(f"  round {number + 1}, load {machine.load()}: {figures(rounds[-1])}", flush=True)
    return results.record(
        "serve_mixed",
        parameters={
            "rounds": len(rounds),
            "interactive": {
                "mix": "four task lines to one abstract or piece of code, one text a request",
                "mean_tokens": _mean_tokens(settings, rows.rows),
                "arrivals": "Poisson",
                "share_of_capacity": SHARE,
                **rows.facts,
            },
            "job": {
                "texts": job_texts,
                "set": "mixed",
                "mean_tokens": _mean_tokens(settings, job_rows),
                "measured": "for a window after a warm-up, then cancelled",
            },
            "capacity": f"a closed loop of {CLIENTS} clients",
            "window_s": settings.scaled(int(WINDOW_S), 15),
            "wanted": {"p99_times_alone": WANTED_P99, "job_of_what_is_left": WANTED_JOB},
            "setting": kind.setting,
        },
        rounds=rounds,
        summary=summarise(rounds),
        versions={kind.name: servers.versions_of(kind)},
    )


def figures(one: dict[str, Any]) -> dict[str, float]:
    """What one round says: each ratio is taken within it."""
    capacity, job_alone = one["capacity"]["texts_per_s"], one["job_alone_texts_per_s"]
    used = one["beside"]["texts_per_s"] / capacity
    left = job_alone * (1.0 - used)
    return {
        "capacity_texts_per_s": capacity,
        "asked_texts_per_s": significant(one["rate"]),
        "used_share": significant(used, 3),
        "alone_p50_ms": one["alone"]["p50_ms"],
        "alone_p99_ms": one["alone"]["p99_ms"],
        "beside_p50_ms": one["beside"]["p50_ms"],
        "beside_p99_ms": one["beside"]["p99_ms"],
        "p99_times_alone": significant(one["beside"]["p99_ms"] / one["alone"]["p99_ms"]),
        "job_alone_texts_per_s": significant(job_alone),
        "job_beside_texts_per_s": significant(one["job_beside_texts_per_s"]),
        "job_of_what_is_left": significant(one["job_beside_texts_per_s"] / left) if left > 0.0 else 0.0,
    }


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and whatever should not have happened added up."""
    found = [figures(one) for one in rounds]
    loads = [one[name] for one in rounds for name in ("capacity", "alone", "beside")]
    return {
        **{name: spread([one[name] for one in found]) for name in found[0]},
        "wrong": sum(one["wrong"] for one in loads),
        "compared": sum(one["compared"] for one in loads),
        "not_answered": sum(
            one["answered"] - one["statuses"].get("200", 0) + sum(one["lost"].values()) for one in loads
        ),
    }


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`serve-mixed`: interactive latency alone and beside the job, and the job's speed."""
    s, wanted = result["summary"], result["parameters"]["wanted"]

    left = s["job_of_what_is_left"]["median"]

    def cell(name: str) -> str:
        return markdown.number(s[name]["median"])

    rows = [
        [
            "interactive at half capacity, requests/s",
            cell("asked_texts_per_s"),
            cell("asked_texts_per_s"),
            "",
        ],
        ["p50, ms", cell("alone_p50_ms"), cell("beside_p50_ms"), ""],
        [
            "p99, ms",
            cell("alone_p99_ms"),
            cell("beside_p99_ms"),
            f"× {s['p99_times_alone']['median']:.2f} (wanted: {wanted['p99_times_alone']:g} at most)",
        ],
        [
            "job, texts/s",
            cell("job_alone_texts_per_s"),
            cell("job_beside_texts_per_s"),
            f"{left:.0%} of what is left (wanted: {wanted['job_of_what_is_left']:.0%})",
        ],
    ]
    table = markdown.table(["a mixed day", "alone", "together", ""], rows)
    return {"serve-mixed": f"{table}\n\n{markdown.footnote(result)}"}


def _round(settings: Settings, server: Server, rows: Corpus, file: str, number: int) -> dict[str, Any]:
    window_s = float(settings.scaled(int(WINDOW_S), 15))
    capacity = load(
        plan_for(server, rows, connections=CLIENTS, seconds=float(settings.scaled(int(CAPACITY_S), 2)))
    )
    asked = capacity["texts_per_s"] * SHARE
    arriving = plan_for(
        server, rows, connections=CONNECTIONS, rate=asked, seconds=window_s, seed=number, first=number * 499
    )
    alone = load(arriving)
    job_alone = _job_alone(settings, server, file, window_s)
    job = Job(server, file)
    job.wait_until_going()
    time.sleep(settings.scaled(int(WARM_S), 1))
    client = Load(arriving)
    time.sleep(min(2.0, window_s / 4))  # the client's own start
    seen = job.watch(window_s * 0.9)
    beside = client.wait()
    job.cancel()
    return {
        "rate": asked,
        "capacity": capacity,
        "alone": alone,
        "beside": beside,
        "job_alone_texts_per_s": rate(job_alone),
        "job_beside_texts_per_s": rate(seen),
        "job_seen": [[round(moment - seen[0][0], 2), count] for moment, count in seen],
        "server_mib": significant(server.memory_mib()),
    }


def _job_alone(settings: Settings, server: Server, file: str, window_s: float) -> list[tuple[float, int]]:
    job = Job(server, file)
    job.wait_until_going()
    time.sleep(settings.scaled(int(WARM_S), 1))
    seen = job.watch(window_s)
    job.cancel()
    return seen


def _warm(settings: Settings, server: Server, rows: Corpus, file: str) -> None:
    load(plan_for(server, rows, connections=CLIENTS, seconds=float(settings.scaled(8, 1))))
    _job_alone(settings, server, file, settings.scaled(15, 2))


def _mean_tokens(settings: Settings, rows: list[str]) -> float:
    lengths = token_lengths(settings.model, rows)
    return round(sum(lengths) / len(lengths), 1)
