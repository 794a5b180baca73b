"""Servers against each other: single short texts from clients in other processes, at several concurrencies.

All servers are up and warm; one at a time is asked, in rounds whose order rotates. Every answer is compared with the
text's vector in fp32. Before the others are started, one idle request is compared with the bare backend call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks import machine, markdown, results, texts
from benchmarks.harness import rotated
from benchmarks.serving import corpus, servers
from benchmarks.serving.loads import load, plan_for
from benchmarks.serving.servers import EMBATCH, INFINITY, Server
from benchmarks.stats import percentile, significant, spread
from benchmarks.worker import REPOSITORY, WorkerError

if TYPE_CHECKING:
    from benchmarks.harness import Settings
    from benchmarks.serving.corpus import Corpus
    from benchmarks.serving.servers import ServerKind

CONCURRENCY = (1, 16, 64)
TEXTS = 4000
SECONDS = 10.0
WARM_S = 8.0
IDLE_REQUESTS = 200
IDLE_PAUSE_S = 0.02
WANTED = {"1": 1.0, "16": 3.0, "64": 4.0}
"""Times infinity's throughput that embatch is to reach, by concurrency."""
WANTED_IDLE_MS = 3.0
_REST_S = 0.5


def run(settings: Settings) -> dict[str, Any]:
    """Every server that can run here, at each concurrency, round by round."""
    rows = corpus.make(settings, "serve", texts.short(settings.scaled(TEXTS, 300)))
    seconds = settings.scaled(int(SECONDS), 1)
    kinds = kinds_of(settings)
    problems: dict[str, str] = {}
    rounds: list[dict[str, Any]] = []
    idle: list[dict[str, float]] = []
    with ExitStack() as stack:
        up = _open([kind for kind in kinds if kind.name == EMBATCH], settings, stack, problems)
        _warm_up(up, rows, settings)
        if EMBATCH in up:  # alone: servers that nobody asks still use a little of the processor
            idle += [_idle(settings, up[EMBATCH], rows) for _ in range(settings.rounds)]
        peers = _open([kind for kind in kinds if kind.name != EMBATCH], settings, stack, problems)
        _warm_up(peers, rows, settings)
        up |= peers
        for number in range(settings.rounds):
            print(f"  round {number + 1} of {settings.rounds}, load {machine.load()}", flush=True)
            for place, clients in enumerate(CONCURRENCY):
                for name in rotated(list(up), number + place):
                    rounds.append(_turn(up, name, rows, number, clients, seconds))  # noqa: PERF401  # timed
    return results.record(
        "serve",
        parameters={
            "rounds": settings.rounds,
            "seconds": seconds,
            "concurrency": list(CONCURRENCY),
            "corpus": rows.facts,
            "format": "one text a request, vectors in base64, keep-alive, loopback",
            "idle": {"requests": settings.scaled(IDLE_REQUESTS, 10), "pause_s": IDLE_PAUSE_S},
            "settings": {kind.name: kind.setting for kind in kinds},
            "wanted": {"times_infinity": WANTED, "idle_over_ms": WANTED_IDLE_MS},
        },
        rounds={"loads": rounds, "idle": idle},
        summary=summarise(rounds, idle),
        versions={kind.name: servers.versions_of(kind) for kind in kinds if kind.name not in problems},
        problems=problems,
    )


def kinds_of(settings: Settings) -> list[ServerKind]:
    """embatch's server and its peers'."""
    state = settings.work / "state"
    model = settings.model
    return [servers.embatch(model, state), servers.infinity(model), servers.plain(model)]


def summarise(rounds: list[dict[str, Any]], idle: list[dict[str, float]]) -> dict[str, Any]:
    """Rates and percentiles by concurrency and server, and embatch's against each peer, taken within a round."""
    summary: dict[str, Any] = {}
    for clients in dict.fromkeys(one["clients"] for one in rounds):
        by_name: dict[str, list[dict[str, Any]]] = {}
        for one in rounds:
            if one["clients"] == clients:
                by_name.setdefault(one["system"], []).append(one)
        summary[str(clients)] = {
            name: {
                "texts_per_s": spread([one["texts_per_s"] for one in each]),
                **{key: spread([one[key] for one in each]) for key in ("p50_ms", "p99_ms")},
                "compared": sum(one["compared"] for one in each),
                "wrong": sum(one["wrong"] for one in each),
                "lowest_cosine": min(one["lowest_cosine"] for one in each),
                "not_answered": sum(_without_answer(one) for one in each),
                "client_cpu_share": significant(
                    sum(one["client_cpu_s"] for one in each) / sum(one["seconds"] for one in each), 2
                ),
                **_against(by_name, name),
            }
            for name, each in by_name.items()
        }
    over = [one["request_p50_ms"] - one["bare_p50_ms"] for one in idle]
    beside = {"over_ms": spread(over), **_idle_medians(idle)} if idle else {}
    against = {
        clients: by_name[INFINITY]["embatch_ratio"]["median"]
        for clients, by_name in summary.items()
        if "embatch_ratio" in by_name.get(INFINITY, {})
    }
    return {"concurrency": summary, "idle": beside, "times_infinity": against}


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`serve`: throughput and latency by server and concurrency; `serve-idle`: one request alone."""
    head = ["one short text a request", "clients", "texts/s", "p50, ms", "p99, ms", "embatch is × faster"]
    rows = []
    for clients, by_name in result["summary"]["concurrency"].items():
        for name in result["parameters"]["settings"]:
            if (one := by_name.get(name)) is None:
                continue
            figures = [markdown.number(one[key]["median"]) for key in ("texts_per_s", "p50_ms", "p99_ms")]
            ratio = f"{one['embatch_ratio']['median']:.2f}" if "embatch_ratio" in one else "–"
            rows.append([name, clients, *figures, ratio])
    every = [one for by_name in result["summary"]["concurrency"].values() for one in by_name.values()]
    compared, wrong, missing = (
        sum(one[name] for one in every) for name in ("compared", "wrong", "not_answered")
    )
    said = f"{compared:,} vectors compared, {wrong:,} wrong; {missing:,} requests without a vector."
    note = f"\n\n{said}\n\n{markdown.footnote(result)}"
    found = {"serve": markdown.table(head, rows) + note}
    if idle := result["summary"]["idle"]:
        names = {
            "bare_p50_ms": "bare backend call",
            "request_p50_ms": "one idle request",
            "over_ms": "over it",
        }
        lines = [[what, markdown.number(idle[key]["median"])] for key, what in names.items()]
        found["serve-idle"] = markdown.table(["one short text, p50", "ms"], lines)
    return found


def _open(
    kinds: list[ServerKind], settings: Settings, stack: ExitStack, problems: dict[str, str]
) -> dict[str, Server]:
    up: dict[str, Server] = {}
    for kind in kinds:
        problem = kind.problem()
        try:
            if problem is None:
                up[kind.name] = stack.enter_context(Server(kind, settings.work))
        except WorkerError as error:
            problem = str(error)
        if problem is not None:
            problems[kind.name] = problem
            print(f"  without {kind.name}: {problem}", flush=True)
    return up


def _warm_up(up: dict[str, Server], rows: Corpus, settings: Settings) -> None:
    for server in up.values():
        for clients in CONCURRENCY:
            load(plan_for(server, rows, connections=clients, seconds=WARM_S if not settings.quick else 0.5))


def _turn(
    up: dict[str, Server], name: str, rows: Corpus, number: int, clients: int, seconds: float
) -> dict[str, Any]:
    """One server under load; what the others use of the processor meanwhile is noted."""
    others = [one for other, one in up.items() if other != name]
    idle, own = sum(one.cpu_s() for one in others), up[name].cpu_s()
    # Other texts each round, the same for all servers within one.
    first = number * 997 % len(rows.rows)
    report = load(plan_for(up[name], rows, connections=clients, seconds=seconds, first=first))
    facts = {
        "server_cpu_s": significant(up[name].cpu_s() - own),
        "others_cpu_s": significant(sum(one.cpu_s() for one in others) - idle),
        "server_mib": significant(up[name].memory_mib()),
    }
    time.sleep(_REST_S)
    return {"round": number, "clients": clients, "system": name, **report, **facts}


def _idle(settings: Settings, server: Server, rows: Corpus) -> dict[str, float]:
    """Medians of the bare backend call and of a request, one at a time with a pause between."""
    count = settings.scaled(IDLE_REQUESTS, 10)
    asked = {"model": str(settings.model), "texts": rows.rows[:count], "pause_s": IDLE_PAUSE_S}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.bare"],
        cwd=REPOSITORY,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    bare = json.loads(done.stdout)
    report = load(plan_for(server, rows, connections=1, seconds=600.0, pause_s=IDLE_PAUSE_S, requests=count))
    return {
        "bare_p50_ms": significant(percentile(bare["ms"], 0.5)),
        "bare_p99_ms": significant(percentile(bare["ms"], 0.99)),
        "request_p50_ms": report["p50_ms"],
        "request_p99_ms": report["p99_ms"],
        "wrong": report["wrong"],
    }


def _idle_medians(idle: list[dict[str, float]]) -> dict[str, Any]:
    names = ("bare_p50_ms", "request_p50_ms", "bare_p99_ms", "request_p99_ms")
    return {name: spread([one[name] for one in idle]) for name in names}


def _without_answer(one: dict[str, Any]) -> int:
    """Requests that were refused, failed or lost: an idle machine's server has no reason for any."""
    good = int(one["statuses"].get("200", 0))
    return int(one["answered"] - good + sum(one["lost"].values()))


def _against(by_name: dict[str, list[dict[str, Any]]], name: str) -> dict[str, Any]:
    """embatch's throughput over this server's, and its p99 as a share of this server's."""
    if name == EMBATCH or EMBATCH not in by_name:
        return {}
    pairs = list(zip(by_name[EMBATCH], by_name[name], strict=True))
    return {
        "embatch_ratio": spread([own["texts_per_s"] / one["texts_per_s"] for own, one in pairs]),
        "embatch_p99_share": spread([own["p99_ms"] / one["p99_ms"] for own, one in pairs]),
    }
