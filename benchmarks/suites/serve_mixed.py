"""A mixed day: interactive requests at half the server's capacity, alone and beside a job of 100,000 texts.

In each round: how many interactive requests a second the server can answer at most; half of that alone, at random
moments; the job alone; and both together; then the same once more in reverse order, so that a machine that grows slower
or faster meanwhile touches all alike. The job is not run to its end: its speed is taken over windows after a warm-up,
and it is cancelled. What is left for it is its speed alone times the share of the server's capacity that the
interactive requests did not use.

A window in which other machines took the cores away for long is measured again, whatever it gave, up to twice; the one
that was disturbed least counts. The summary is of the rounds that had only calm windows, if there are any.
"""

from __future__ import annotations

import time
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks import machine, markdown, results, texts
from benchmarks.serving import corpus, servers
from benchmarks.serving.jobs import Job, rate, upload
from benchmarks.serving.loads import Load, load, plan_for
from benchmarks.serving.servers import Server
from benchmarks.stats import significant, spread
from benchmarks.suites.throughput import token_lengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.harness import Settings
    from benchmarks.serving.corpus import Corpus
    from benchmarks.serving.load import Plan

TEXTS = 2000
JOB_TEXTS = 100_000
JOB_DIFFERENT = 4000
CLIENTS = 64
"""Requests under way when capacity is measured."""
SHARE = 0.5
CAPACITY_S = 15.0
WINDOW_S = 40.0
WARM_S = 8.0
ROUNDS = 3
CALM = 0.05
"""Part of the cores' time that others may take in a window that counts."""
TRIES = 3
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
    rounds: list[dict[str, Any]] = []
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
            "windows": "two of each kind in a round, in mirrored order; rates and percentiles are their means",
            "calm": f"others took {CALM:.0%} of the cores' time at most; up to {TRIES} tries of each window",
            "wanted": {"p99_times_alone": WANTED_P99, "job_of_what_is_left": WANTED_JOB},
            "setting": kind.setting,
        },
        rounds=rounds,
        summary=summarise(rounds),
        versions={kind.name: servers.versions_of(kind)},
    )


def figures(one: dict[str, Any]) -> dict[str, float]:
    """What one round says: each ratio is taken within it, from the means of its two windows of each kind."""
    capacity, job_alone = _mean(one["capacity"], "texts_per_s"), mean(one["job_alone_texts_per_s"])
    used = _mean(one["beside"], "texts_per_s") / capacity
    alone_p99, beside_p99 = _mean(one["alone"], "p99_ms"), _mean(one["beside"], "p99_ms")
    left, beside = job_alone * (1.0 - used), mean(one["job_beside_texts_per_s"])
    return {
        "capacity_texts_per_s": significant(capacity),
        "asked_texts_per_s": significant(one["rate"]),
        "used_share": significant(used, 3),
        "alone_p50_ms": significant(_mean(one["alone"], "p50_ms")),
        "alone_p99_ms": significant(alone_p99),
        "beside_p50_ms": significant(_mean(one["beside"], "p50_ms")),
        "beside_p99_ms": significant(beside_p99),
        "p99_times_alone": significant(beside_p99 / alone_p99),
        "job_alone_texts_per_s": significant(job_alone),
        "job_beside_texts_per_s": significant(beside),
        "job_of_what_is_left": significant(beside / left) if left > 0.0 else 0.0,
        "stolen": significant(max(one["stolen"])),
    }


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the calm rounds, or over all if none was; whatever should not have happened, in all added up."""
    calm = [one for one in rounds if _calm(one)]
    found = [figures(one) for one in calm or rounds]
    loads = [each for one in rounds for name in ("capacity", "alone", "beside") for each in one[name]]
    return {
        **{name: spread([one[name] for one in found]) for name in found[0]},
        "rounds": len(rounds),
        "calm_rounds": len(calm),
        "windows_measured_again": sum(one["again"] for one in rounds),
        "wrong": sum(one["wrong"] for one in loads),
        "compared": sum(one["compared"] for one in loads),
        "not_answered": sum(
            one["answered"] - one["statuses"].get("200", 0) + sum(one["lost"].values()) for one in loads
        ),
    }


def _mean(windows: list[dict[str, Any]], name: str) -> float:
    return mean(float(one[name]) for one in windows)


def _calm(one: dict[str, Any]) -> bool:
    return bool(max(one["stolen"]) <= CALM)


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
    found: dict[str, list[Any]] = {
        name: [] for name in ("capacity", "alone", "job_alone", "beside", "stolen")
    }
    again = 0

    def capacity() -> dict[str, Any]:
        seconds = float(settings.scaled(int(CAPACITY_S), 2))
        return load(plan_for(server, rows, connections=CLIENTS, seconds=seconds))

    def measure(name: str, how: Callable[[], Any]) -> None:
        nonlocal again
        tries: list[tuple[float, Any]] = []
        while not tries or (tries[-1][0] > CALM and len(tries) < TRIES):
            stolen, result = machine.Stolen(), how()
            tries.append((stolen.share(), result))
        again += len(tries) - 1
        taken, result = min(tries, key=lambda one: one[0])
        found[name].append(result)
        found["stolen"].append(taken)

    measure("capacity", capacity)
    asked = found["capacity"][0]["texts_per_s"] * SHARE
    arriving = plan_for(
        server, rows, connections=CONNECTIONS, rate=asked, seconds=window_s, seed=number, first=number * 499
    )
    others: list[tuple[str, Callable[[], Any]]] = [
        ("alone", lambda: load(arriving)),
        ("job_alone", lambda: _job_alone(settings, server, file, window_s)),
        ("beside", lambda: _beside(settings, server, file, arriving)),
    ]
    for name, how in [*others, *reversed(others)]:
        measure(name, how)
    measure("capacity", capacity)
    return {
        "rate": asked,
        "capacity": found["capacity"],
        "alone": found["alone"],
        "beside": [answers for answers, _ in found["beside"]],
        "job_alone_texts_per_s": [rate(seen) for seen in found["job_alone"]],
        "job_beside_texts_per_s": [rate(seen) for _, seen in found["beside"]],
        "job_seen": [
            [[round(moment - seen[0][0], 2), count] for moment, count in seen] for _, seen in found["beside"]
        ],
        "stolen": found["stolen"],
        "again": again,
        "server_mib": significant(server.memory_mib()),
    }


def _job_alone(settings: Settings, server: Server, file: str, window_s: float) -> list[tuple[float, int]]:
    job = Job(server, file)
    job.wait_until_going()
    time.sleep(settings.scaled(int(WARM_S), 1))
    seen = job.watch(window_s)
    job.cancel()
    return seen


def _beside(
    settings: Settings, server: Server, file: str, arriving: Plan
) -> tuple[dict[str, Any], list[tuple[float, int]]]:
    """What the interactive client reports, and the job's rows done at moments meanwhile."""
    job = Job(server, file)
    job.wait_until_going()
    time.sleep(settings.scaled(int(WARM_S), 1))
    client = Load(arriving)
    time.sleep(min(2.0, arriving.seconds / 4))  # the client's own start
    seen = job.watch(arriving.seconds * 0.9)
    answers = client.wait()
    job.cancel()
    return answers, seen


def _warm(settings: Settings, server: Server, rows: Corpus, file: str) -> None:
    load(plan_for(server, rows, connections=CLIENTS, seconds=float(settings.scaled(8, 1))))
    _job_alone(settings, server, file, settings.scaled(15, 2))


def _mean_tokens(settings: Settings, rows: list[str]) -> float:
    lengths = token_lengths(settings.model, rows)
    return round(sum(lengths) / len(lengths), 1)
