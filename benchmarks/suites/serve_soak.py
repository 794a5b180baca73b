"""A soak: at capacity for minutes, with a backend that fails, killed clients, broken bodies and slow clients.

The server is embatch's own over a backend that goes wrong at random and for marked texts, and that is dead for a
moment now and then (`benchmarks/serving/faulty.py`). Orderly clients keep it busy and compare every answer; the others
(`benchmarks/serving/chaos.py`) do what clients should not. Memory is read throughout; after a warm-up a
line through what each of the models that were opened came to says how it grows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, markdown, results, texts
from benchmarks.serving import corpus, faults, servers
from benchmarks.serving.loads import Load, answers_of, plan_for
from benchmarks.serving.servers import MemoryWatch, Server
from benchmarks.serving.tally import OK, latencies
from benchmarks.stats import significant
from benchmarks.worker import REPOSITORY, WorkerError

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings
    from benchmarks.serving.corpus import Corpus

MINUTES = 40.0
QUICK_S = 30.0
QUICK_OUTAGE_S = 14.0
CLIENTS = 48
TIMEOUT_S = 20.0
TROUBLES = 2
"""Processes of troublesome clients, eight kinds side by side in each."""
PAUSE_S = 0.05
OBEY_S = 2.0
"""An orderly client that is refused waits as long as it is told, but no longer."""
WARM_SHARE = 0.2
"""Of the time, before memory counts."""
SETTLE_S = 15.0
WANTED_MIB_PER_MINUTE = 1.0
_STEP_S = 60.0


def run(settings: Settings) -> dict[str, Any]:
    """One long round."""
    seconds = QUICK_S if settings.quick else MINUTES * 60
    rows = corpus.make(settings, "soak", texts.short(settings.scaled(2000, 200)))
    kind = _kind(settings)
    with Server(kind, settings.work) as server:
        found = _soak(settings, server, rows, seconds)
        survived = server.alive
    summary = {**found.pop("summary"), "survived": survived, "exit_code": server.exit_code}
    return results.record(
        "serve_soak",
        parameters={
            "minutes": round(seconds / 60, 2),
            "clients": CLIENTS,
            "trouble_processes": TROUBLES,
            "timeout_s": TIMEOUT_S,
            "slow_clients_have_s": faults.SLOW_CLIENT_S,
            "chances": {name: getattr(faults.Chances(), name) for name in faults.Chances.__slots__},
            "warm_share": WARM_SHARE,
            "wanted_mib_per_minute": WANTED_MIB_PER_MINUTE,
            "corpus": rows.facts,
            "setting": kind.setting,
        },
        rounds=found,
        summary=summary,
        versions={kind.name: servers.versions_of(kind)},
    )


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`serve-soak`: what was wanted, and what came of it."""
    s, asked = result["summary"], result["parameters"]
    rows = [
        ["answers compared with their text's vector", "every one", f"{s['compared']:,}"],
        ["wrong vectors", "0", f"{s['wrong']:,}"],
        ["orderly requests without an answer in their time", "0", f"{s['stuck']:,}"],
        ["orderly requests that an injected fault failed", "", f"{s['failed']:,} of {s['requests']:,}"],
        ["engines that died, models opened again", "", f"{max(0, s['models_opened'] - 1):,}"],
        ["inputs waiting at the end", "0", f"{s['waiting_at_end']:,}"],
        ["clients killed, bodies and streams broken", "", f"{s['killed']:,}, {s['broken']:,}"],
        ["troubles answered as they must not be", "0", f"{s['misbehaved']:,}"],
        [
            "growth of memory from model to model, MiB a minute",
            f"{asked['wanted_mib_per_minute']:g}",
            f"{s['mib_per_minute']:.2f}",
        ],
        ["memory at its beginning and end, MiB", "flat", f"{s['first_mib']:,.0f}, {s['last_mib']:,.0f}"],
        ["texts/s, p99 in ms", "", f"{s['texts_per_s']:,.0f}, {s['p99_ms']:,.0f}"],
    ]
    table = markdown.table([f"{asked['minutes']:g} minutes at capacity", "wanted", "measured"], rows)
    return {"serve-soak": f"{table}\n\n{markdown.footnote(result)}"}


def growth_per_minute(readings: list[tuple[float, float]], life_s: float) -> float:
    """Of a straight line through the peaks of the models' lives, by least squares, from (seconds, MiB).

    A model that was opened again holds less at first, before it has met all shapes. A line through all readings, or
    through the peaks of minutes, would rise through such lives even if each were like the one before: by 0.4 to 0.7 MiB
    a minute in a soak of four lives of four minutes.

    Args:
        readings: of which only whole lives count.
        life_s: of a model; the first begins with the first reading.

    >>> lives = [(0.0, 50.0), (60.0, 100.0), (120.0, 50.0), (180.0, 101.0), (239.0, 101.0)]
    >>> growth_per_minute(lives, 120.0)
    0.5
    """
    first, last = readings[0][0], readings[-1][0]
    peaks: dict[int, float] = {}
    for moment, mib in readings:
        life = int((moment - first) / life_s)
        if life < round((last - first) / life_s):
            peaks[life] = max(peaks.get(life, 0.0), mib)
    if len(peaks) < 2:
        return 0.0
    per_life = float(np.polyfit(list(peaks), list(peaks.values()), 1)[0])
    return round(per_life / life_s * 60.0, 4)


def _soak(settings: Settings, server: Server, rows: Corpus, seconds: float) -> dict[str, Any]:
    out = settings.work / "soak.npz"
    plan = plan_for(
        server,
        rows,
        connections=CLIENTS,
        seconds=seconds,
        timeout_s=TIMEOUT_S + 5.0,
        obey_s=OBEY_S,
        out=str(out),
    )
    began = time.perf_counter()
    with MemoryWatch(server, every_s=0.5) as watch:
        client = Load(plan)
        troubles = [_trouble(server, rows, seconds, seed) for seed in range(TROUBLES)]
        _tell(server, seconds)
        report = client.wait()
        found = [_report(one) for one in troubles]
        standing = _settled(server)
    end = began + seconds
    measured = [one for one in watch.readings if began + seconds * WARM_SHARE <= one[0] <= end]
    counts = _added([one["counts"] for one in found])
    return {
        "orderly": report,
        "by_minute": _by_minute(out, report["started"]),
        "troubles": counts,
        "samples": {name: text for one in found for name, text in one["samples"].items()},
        "memory_mib": [
            [round(moment - began, 1), significant(mib)]
            for moment, mib in watch.readings[:: max(1, len(watch.readings) // 240)]
        ],
        "standing_at_end": standing,
        "summary": summarise(report, counts, measured, standing, life_s=_life_s(settings)),
    }


def summarise(
    report: dict[str, Any],
    counts: dict[str, int],
    measured: list[tuple[float, float]],
    standing: dict[str, int],
    *,
    life_s: float,
) -> dict[str, Any]:
    """What must be nothing, and what says how hard it was."""
    mib = [one for _, one in measured]
    fifth = max(1, len(mib) // 5)
    good = report["statuses"].get(str(OK), 0)
    misbehaved = {name: count for name, count in counts.items() if name.startswith("! ")}
    wrong = sum(count for name, count in misbehaved.items() if "vector" in name)
    broken = sum(count for name, count in counts.items() if name.startswith("broken") and ":" in name)
    return {
        "requests": report["answered"] + sum(report["lost"].values()),
        "failed": report["answered"] - good,
        "compared": report["compared"] + counts.get("compared", 0),
        "wrong": report["wrong"] + wrong,
        "lowest_cosine": report["lowest_cosine"],
        "stuck": sum(report["lost"].values()) + sum(n for name, n in counts.items() if "no answer" in name),
        "waiting_at_end": standing.get("waiting", -1) + standing.get("running", 0),
        "models_opened": standing.get("opened", 0),
        "killed": counts.get("killed", 0),
        "broken": broken,
        "misbehaved": sum(misbehaved.values()),
        "mib_per_minute": growth_per_minute(measured, life_s) if measured else 0.0,
        "first_mib": significant(float(np.median(mib[:fifth]))) if mib else 0.0,
        "last_mib": significant(float(np.median(mib[-fifth:]))) if mib else 0.0,
        "peak_mib": significant(max(mib, default=0.0)),
        "texts_per_s": report["texts_per_s"],
        "p50_ms": report["p50_ms"],
        "p99_ms": report["p99_ms"],
    }


def _life_s(settings: Settings) -> float:
    """Seconds from one outage, after which the model is opened again, to the next."""
    return QUICK_OUTAGE_S if settings.quick else faults.Chances().outage_every_s


def _kind(settings: Settings) -> servers.ServerKind:
    words = ("--model", str(settings.model), "--state", str(settings.work / "state"))
    more = ("--outage-every", f"{_life_s(settings):g}")
    return servers.module(
        "benchmarks.serving.faulty",
        *words,
        "--timeout",
        f"{TIMEOUT_S:g}",
        *more,
        setting="`embatch serve` over a backend with faults",
    )


def _trouble(server: Server, rows: Corpus, seconds: float, seed: int) -> subprocess.Popen[str]:
    plan = {
        "port": server.port,
        "texts": rows.path,
        "reference": rows.reference,
        "least_cosine": corpus.LEAST_COSINE,
        "marks": {"fail": faults.FAIL, "nan": faults.NAN, "tight": faults.TIGHT},
        "client_s": faults.SLOW_CLIENT_S,
        "seed": seed,
        "seconds": seconds,
        "pause_s": PAUSE_S,
    }
    one = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.chaos"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert one.stdin is not None
    one.stdin.write(json.dumps(plan))
    one.stdin.close()
    one.stdin = None
    return one


def _report(one: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process of troublesome clients counted.

    Raises:
        WorkerError: it failed.
    """
    try:
        out, words = one.communicate(timeout=120.0)
    except subprocess.TimeoutExpired as error:
        one.kill()
        raise WorkerError("the troublesome clients did not end in their time") from error
    if one.returncode != 0:
        raise WorkerError(
            f"the troublesome clients failed: {(words.strip().splitlines() or ['no output'])[-1]}"
        )
    report: dict[str, Any] = json.loads(out)
    return report


def _tell(server: Server, seconds: float) -> None:
    """Say now and then how it goes, until the clients are about to end."""
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        time.sleep(min(_STEP_S, left))
        print(f"  {left:,.0f} s left, {server.memory_mib():,.0f} MiB, load {machine.load()}", flush=True)


def _settled(server: Server) -> dict[str, int]:
    """How the queue stands once nobody asks any more; what still waits after a while is stuck."""
    until = time.perf_counter() + SETTLE_S
    while True:
        status, body = server.ask("GET", faults.TELL)
        standing: dict[str, int] = json.loads(body) if status == OK else {}
        calm = standing.get("waiting", 1) + standing.get("running", 1) == 0
        if calm or time.perf_counter() > until:
            return standing
        time.sleep(0.2)


def _by_minute(out: Path, started: float) -> list[dict[str, Any]]:
    """Answers a second and percentiles, minute by minute."""
    answers = answers_of(out)
    minute = ((answers["asked"] - started) // 60).astype(int)
    good = answers["statuses"] == OK
    return [
        {
            "minute": int(one),
            "answered": int((minute == one).sum()),
            "failed": int(((minute == one) & ~good).sum()),
            **latencies((answers["took"][(minute == one) & good] * 1000).tolist()),
        }
        for one in np.unique(minute)
    ]


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    names = sorted({name for one in counts for name in one})
    return {name: sum(one.get(name, 0) for one in counts) for name in names}
