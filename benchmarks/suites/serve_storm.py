"""A storm: 10,000 connections at once on a queue of 1,000, every request with a deadline, and how soon it is over.

Client processes open all connections first, hold them, and ask at the same moment; each connection asks again after
its answer. A probe goes on asking throughout. The same server goes through several storms: what the first one leaves
in memory, a later one must not add to.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, markdown, results, texts
from benchmarks.serving import corpus, servers
from benchmarks.serving.loads import Load, answers_of, load, loads, plan_for
from benchmarks.serving.servers import MemoryWatch, Server
from benchmarks.serving.tally import OK, REFUSALS
from benchmarks.stats import percentile, significant, spread

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings
    from benchmarks.serving.corpus import Corpus
    from benchmarks.serving.load import Plan

CONNECTIONS = 10_000
PROCESSES = 4
QUEUE = 1000
REQUESTS = 2
"""Of each connection: the second one a moment after the first's answer."""
DEADLINE_S = 10.0
"""Told to the server as its timeout; an answer later than this counts as missing."""
GRACE_S = 1.0
"""For an answer that the server sent in time to be read by a client among 2,500."""
TIMEOUT_S = DEADLINE_S + 3 * GRACE_S
"""After which a client gives up a request."""
AGAIN_S = 1.0
STORMS = 3
PROBE_PAUSE_S = 0.02
GATHER_S = 8.0
"""For opening the connections; less than the server gives a client that sends nothing."""
CALM_S = 8.0
CONNECTION_KIB = 32
WAITING_KIB = 16
SLACK_MIB = 64
"""The bound of memory: what was there before, so much a connection, so much a place in the queue, and slack."""
WANTED_RECOVERY_S = 2.0


def run(settings: Settings) -> dict[str, Any]:
    """Storm after storm on one server."""
    connections = settings.scaled(CONNECTIONS, 400)
    queue = settings.scaled(QUEUE, 40)
    rows = corpus.make(settings, "storm", texts.short(settings.scaled(2000, 200)))
    limits = ("--queue", str(queue), "--timeout", f"{DEADLINE_S:g}s")
    kind = servers.embatch(settings.model, settings.work / "state", *limits)
    storms = []
    with Server(kind, settings.work) as server:
        load(plan_for(server, rows, timeout_s=TIMEOUT_S, connections=16, seconds=settings.scaled(6, 1)))
        first_mib = server.memory_mib()
        for number in range(min(settings.rounds, STORMS)):
            storms.append(_storm(settings, server, rows, connections, number))
            shown = {name: one for name, one in storms[-1].items() if name != "memory_mib"}
            print(f"  storm {number + 1}, load {machine.load()}: {shown}", flush=True)
        last_mib = server.memory_mib()
    return results.record(
        "serve_storm",
        parameters={
            "storms": len(storms),
            "connections": connections,
            "client_processes": PROCESSES,
            "queue": queue,
            "requests_per_connection": REQUESTS,
            "deadline_s": DEADLINE_S,
            "grace_s": GRACE_S,
            "bound_mib": _bound_mib(connections, queue),
            "bound": f"{CONNECTION_KIB} KiB a connection, {WAITING_KIB} KiB a place in the queue, {SLACK_MIB} MiB",
            "wanted_recovery_s": WANTED_RECOVERY_S,
            "corpus": rows.facts,
            "setting": kind.setting,
        },
        rounds=storms,
        summary=summarise(storms, first_mib, last_mib, server.exit_code),
        versions={kind.name: servers.versions_of(kind)},
    )


def summarise(
    storms: list[dict[str, Any]], first_mib: float, last_mib: float, exit_code: int | None
) -> dict[str, Any]:
    """The worst over all storms, and whether memory grew from the first to the last."""
    statuses: dict[str, int] = {}
    for one in storms:
        for status, count in one["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        "requests": sum(one["answered"] + sum(one["lost"].values()) for one in storms),
        "most_open": min(one["most_open"] for one in storms),
        "statuses": statuses,
        "neither_answered_nor_refused": sum(one["neither"] for one in storms),
        "late": sum(one["late"] for one in storms),
        "wrong": sum(one["wrong"] for one in storms),
        "no_retry_after": sum(one["no_retry_after"] for one in storms),
        "slowest_answer_ms": max(one["slowest_answer_ms"] for one in storms),
        "recovery_s": spread([one["recovery_s"] for one in storms]),
        "before_mib": significant(first_mib),
        "peak_mib": significant(max(one["peak_mib"] for one in storms)),
        "peaks_mib": [one["peak_mib"] for one in storms],
        "after_mib": significant(last_mib),
        "grown_at_peak_mib": significant(max(one["peak_mib"] for one in storms) - first_mib),
        "survived": all(one["alive"] for one in storms),
        "exit_code": exit_code,
    }


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`serve-storm`: what was wanted, and what came of it."""
    s, asked = result["summary"], result["parameters"]
    refused = sum(count for code, count in s["statuses"].items() if int(code) in REFUSALS)
    answered, missing = s["statuses"].get("200", 0), s["neither_answered_nor_refused"]
    rows = [
        ["connections open at once", f"{asked['connections']:,}", f"{s['most_open']:,}"],
        ["requests, answered and refused", "all", f"{s['requests']:,}: {answered:,} and {refused:,}"],
        ["neither answered nor refused in time", "0", f"{missing + s['late']:,}"],
        ["wrong vectors", "0", f"{s['wrong']:,}"],
        ["slowest answer or refusal", f"{asked['deadline_s']:g} s", f"{s['slowest_answer_ms'] / 1000:.2f} s"],
        [
            "memory beyond that before, at the peak",
            f"{asked['bound_mib']:,.0f} MiB",
            f"{s['grown_at_peak_mib']:,.0f} MiB",
        ],
        ["peak of each storm, MiB", "no growth", ", ".join(f"{one:,.0f}" for one in s["peaks_mib"])],
        [
            "until a request takes as long as before",
            f"{asked['wanted_recovery_s']:g} s",
            f"{s['recovery_s']['high']:.2f} s",
        ],
    ]
    head = [f"{asked['storms']} storms on a queue of {asked['queue']:,}", "wanted", "measured"]
    return {"serve-storm": f"{markdown.table(head, rows)}\n\n{markdown.footnote(result)}"}


def recovery_s(asked: Any, took: Any, statuses: Any, *, over: float, normal_s: float) -> float:
    """Seconds from the end of a storm to the first good answer of normal speed to a probe that began after it.

    Infinite if there is none.

    >>> import numpy as np
    >>> probes = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.9, 0.1]), np.array([200, 200, 200])
    >>> round(recovery_s(*probes, over=1.5, normal_s=0.2), 3)
    1.6
    """
    good = (asked >= over) & (statuses == OK) & (took <= normal_s)
    return float((asked + took)[good].min() - over) if good.any() else float("inf")


def _storm(settings: Settings, server: Server, rows: Corpus, connections: int, number: int) -> dict[str, Any]:
    gather_s = float(settings.scaled(int(GATHER_S), 3))
    calm_s = float(settings.scaled(int(CALM_S), 2))
    processes = PROCESSES if not settings.quick else 2
    before, cpu_s = server.memory_mib(), server.cpu_s()
    probe_out = settings.work / f"probe-{number}.npz"
    with MemoryWatch(server) as watch:
        most_s = gather_s + (DEADLINE_S + GRACE_S + AGAIN_S) * REQUESTS + calm_s * 2
        probe = Load(_probe(server, rows, most_s, probe_out))
        time.sleep(calm_s)
        begins = time.perf_counter() + gather_s
        plans = [
            plan_for(
                server,
                rows,
                timeout_s=TIMEOUT_S,
                connections=connections // processes,
                seconds=REQUESTS * (DEADLINE_S + GRACE_S) + AGAIN_S,
                requests=REQUESTS,
                pause_s=AGAIN_S,
                together_at=begins,
                first=(number * processes + place) * 499,
            )
            for place in range(processes)
        ]
        report = loads(plans, settings.work)
        probe.wait()
        alive = server.alive
    took_s = np.concatenate(
        [answers_of(settings.work / f"client-{place}.npz")["took"] for place in range(processes)]
    )
    return {
        **report,
        **_recovery(probe_out, begins, report["last_answer"], calm_s, gather_s),
        "storm_s": significant(report["last_answer"] - begins),
        "late": int((took_s > DEADLINE_S + GRACE_S).sum()),
        "neither": _neither(report),
        "server_cpu_s": significant(server.cpu_s() - cpu_s),
        "before_mib": significant(before),
        "peak_mib": significant(watch.peak_mib),
        "after_mib": significant(server.memory_mib()),
        "memory_mib": [significant(mib) for _, mib in watch.readings[::10]],
        "alive": alive,
    }


def _neither(report: dict[str, Any]) -> int:
    """Requests without an answer, or with one that is neither vectors nor a refusal."""
    proper = {str(OK), *map(str, REFUSALS)}
    others = sum(count for status, count in report["statuses"].items() if status not in proper)
    return int(others + sum(report["lost"].values()))


def _recovery(out: Path, begins: float, over: float, calm_s: float, gather_s: float) -> dict[str, float]:
    """What the probe saw before the storm, in it, and after its last answer."""
    probes = answers_of(out)
    asked, took, statuses = probes["asked"], probes["took"], probes["statuses"]
    calm = took[asked < begins - gather_s - calm_s / 10].tolist()
    normal_s = 2 * percentile(calm, 0.99)
    within = (asked >= begins) & (asked < over)
    return {
        "normal_s": significant(normal_s),
        "probe_p50_before_ms": significant(1000 * percentile(calm, 0.5)),
        "probes_in_storm": int(within.sum()),
        "recovery_s": significant(recovery_s(asked, took, statuses, over=over, normal_s=normal_s)),
    }


def _probe(server: Server, rows: Corpus, seconds: float, out: Path) -> Plan:
    """One client that asks, rests a moment, and asks again."""
    return plan_for(
        server,
        rows,
        timeout_s=TIMEOUT_S,
        connections=1,
        seconds=seconds,
        pause_s=PROBE_PAUSE_S,
        out=str(out),
    )


def _bound_mib(connections: int, queue: int) -> float:
    return round((connections * CONNECTION_KIB + queue * WAITING_KIB) / 1024 + SLACK_MIB, 1)
