"""Remote runs against the emulator, over real HTTP: answer times, quotas, and money.

The official SDKs talk to an emulator in another process, whose clock runs faster than life where minutes would pass.
embatch lives by the same clock, so that what is measured are its decisions and its pacing; answer times are measured
in real time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks import markdown, results
from benchmarks.stats import significant, spread
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.harness import Settings
    from embatch import Embedder
    from embatch.emulator.client import EmulatorClient

MODEL = "gemini:gemini-embedding-001"
KEY = "a-key-for-the-emulator"
QUERIES = 200
DIMENSIONS = 128  # fewer numbers to send around, where the clock runs faster than life
ITEMS_A_MINUTE, TOKENS_A_MINUTE = 3_000, 1_000_000
QUOTA_ITEMS = 20_000
QUOTA_SCALE = 30.0
MONEY_ITEMS = 100_000
MONEY_SCALE = 60.0
_WORDS = "the flow over a heated plate at high speed changes with pressure and the shape of its leading edge"


def run(settings: Settings) -> dict[str, Any]:
    """Each measurement in each round; each on an emulator of its own."""
    os.environ["EMBATCH_CACHE"] = str(settings.work / "cache")  # nothing learned before, nothing left behind
    rounds = []
    for number in range(settings.rounds):
        rounds.append(
            {
                "overhead": _overhead(settings, number),
                "small": _small(settings, number),
                "quota": [_quota(settings, number, provider) for provider in ("gemini", "openai")],
                "unknown quota": [_unknown(settings, number, factor) for factor in (0.5, 2.0)],
                "money": _money(settings, number),
            }
        )
        print(f"  round {number + 1}: {rounds[-1]}", flush=True)
    return results.record(
        "lanes",
        parameters={
            "rounds": settings.rounds,
            "quota": {
                "items": settings.scaled(QUOTA_ITEMS, 6_000),
                "items_a_minute": ITEMS_A_MINUTE,
                "tokens_a_minute": TOKENS_A_MINUTE,
                "virtual_seconds_a_second": QUOTA_SCALE,
            },
            "money": {
                "items": settings.scaled(MONEY_ITEMS, 20_000),
                "virtual_seconds_a_second": MONEY_SCALE,
            },
        },
        rounds=rounds,
        summary=_summary(rounds),
        versions={"embatch": versions(["embatch", "google-genai", "openai", "starlette", "uvicorn"])},
    )


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`lanes`: what was reached, beside what was wanted."""
    s = result["summary"]
    over = f"{_ms(s['overhead_p50_s'])} p50, {_ms(s['overhead_p99_s'])} p99"
    query = f"{s['query_p50_s']:.2f} s p50, {s['query_p95_s']:.2f} s p95"
    five = f"{s['five_p50_s']:.2f} s p50, {s['five_p95_s']:.2f} s p95"
    rows = [
        ["one query, over the provider's own answer", "20 ms", over],
        ["a single query, with the providers' latencies", "3 s", query],
        ["5 items, with the providers' latencies", "5 s", five],
    ]
    for provider in ("gemini", "openai"):
        used, refused = s[f"{provider}_quota_used"], s[f"{provider}_refused"]
        words = f"{used['median']:.1%} (lowest {used['low']:.1%}), {refused['median']:.2%} refused"
        rows.append([f"binding quota used after the first minute, {provider}", "95 %, 0.5 % refused", words])
    for what in ("halved", "doubled"):
        used = s[f"unknown_{what}_used"]
        words = f"{used['median']:.1%} (lowest {used['low']:.1%})"
        rows.append([f"unknown quota that is {what} in the middle, used", "85 %", words])
    money = s["over_all_batch"]
    words = f"{money['median']:.2%} (highest {money['high']:.2%})"
    rows.append(["bill of 100,000 items without a deadline, over all by jobs", "2 %", words])
    table = markdown.table(["remote, on the emulator", "wanted", "measured"], rows)
    return {"lanes": f"{table}\n\n{markdown.footnote(result)}"}


# --- measurements -----------------------------------------------------------------------------------------------------


def _overhead(settings: Settings, seed: int) -> dict[str, float]:
    """Seconds that a query takes beyond the same request by the provider's own SDK, one after the other."""
    from google import genai
    from google.genai import types

    count = settings.scaled(QUERIES, 20)
    options = {"seed": seed, "latency": "none"}
    with emulator("gemini", options, settings) as (url, _), _embedder(url, 1.0, strategy="auto") as embedder:
        http = types.HttpOptions(base_url=url, retry_options=types.HttpRetryOptions(attempts=1))
        client = genai.Client(api_key=KEY, http_options=http)
        config = types.EmbedContentConfig(task_type="RETRIEVAL_QUERY", output_dimensionality=DIMENSIONS)
        bare, ours = [], []
        for number in range(count + 5):
            text = f"query number {number} about boundary layers"
            started = time.perf_counter()
            client.models.embed_content(model="gemini-embedding-001", contents=text, config=config)
            between = time.perf_counter()
            embedder.embed_query(text)
            bare.append(between - started)
            ours.append(time.perf_counter() - between)
    over = sorted(mine - theirs for mine, theirs in zip(ours[5:], bare[5:], strict=True))
    sdk = _quantile(sorted(bare[5:]), 0.5)
    return {"p50_s": _quantile(over, 0.5), "p99_s": _quantile(over, 0.99), "sdk_p50_s": sdk}


def _small(settings: Settings, seed: int) -> dict[str, float]:
    """Seconds of single queries and of five items, in real time, with the latencies of the published evidence."""
    count = settings.scaled(40, 4)
    with (
        emulator("gemini", {"seed": seed}, settings) as (url, _),
        _embedder(url, 1.0, strategy="auto") as embedder,
    ):
        one = sorted(_seconds(lambda n=n: embedder.embed_query(f"query {n}")) for n in range(count))
        five = sorted(
            _seconds(lambda n=n: embedder.embed([f"text {n} {i}" for i in range(5)])) for n in range(count)
        )
    return {
        "query_p50_s": _quantile(one, 0.5),
        "query_p95_s": _quantile(one, 0.95),
        "five_p50_s": _quantile(five, 0.5),
        "five_p95_s": _quantile(five, 0.95),
    }


def _quota(settings: Settings, seed: int, provider: str) -> dict[str, float]:
    """Share of the binding quota that is used after the first minute, and of calls that are refused."""
    items = settings.scaled(QUOTA_ITEMS, 6_000)
    # Gemini counts texts, OpenAI requests: there, tokens bind.
    counted = "items" if provider == "gemini" else "requests"
    quotas = {counted: ITEMS_A_MINUTE, "tokens": TOKENS_A_MINUTE}
    options = {"seed": seed, "time_scale": QUOTA_SCALE, "quotas": quotas}
    model = MODEL if provider == "gemini" else "openai:text-embedding-3-small"
    words = 40 if provider == "gemini" else 160
    with (
        emulator(provider, options, settings) as (url, control),
        _embedder(url, QUOTA_SCALE, model=model, strategy="individual") as embedder,
    ):
        embedder.embed(_texts(items, words, seed))
        seen = control.requests
    return {"provider": provider, **_use(seen, provider)}  # type: ignore[dict-item]  # a name


def _unknown(settings: Settings, seed: int, factor: float) -> dict[str, float]:
    """Share used of a quota that embatch is not told, and that changes in the middle."""
    items = settings.scaled(3 * QUOTA_ITEMS, 6_000)
    before = ITEMS_A_MINUTE
    options = {"seed": seed, "time_scale": QUOTA_SCALE, "quotas": {"items": before}}
    changed_at: list[float] = []
    with (
        emulator("openai", options, settings) as (url, control),
        _embedder(
            url, QUOTA_SCALE, model="compatible:text-embedding-3-small", strategy="individual"
        ) as embedder,
    ):

        def change() -> None:
            control.change_quotas({"items": int(before * factor)})
            changed_at.append(control.now())

        timer = threading.Timer(0.5 * items / before * 60.0 / QUOTA_SCALE, change)
        timer.start()
        embedder.embed(_texts(items, 20, seed))
        timer.join()
        seen = control.requests
    return {"factor": factor, **_use_changed(seen, before, before * factor, changed_at[0])}


def _money(settings: Settings, seed: int) -> dict[str, float]:
    """The bill of many items without a deadline, against all of them by jobs."""
    items = settings.scaled(MONEY_ITEMS, 20_000)
    options = {"seed": seed, "time_scale": MONEY_SCALE, "tier": "3"}
    with (
        emulator("gemini", options, settings) as (url, control),
        _embedder(url, MONEY_SCALE, strategy="auto") as embedder,
    ):
        embedder.embed(_texts(items, 40, seed))
        bill = control.billing(entries=False)
    by_jobs = sum(total.tokens for total in bill.totals) * 0.075 / 1e6
    return {"dollars": bill.dollars, "by_jobs": by_jobs, "over": bill.dollars / by_jobs - 1.0}


# --- tools ------------------------------------------------------------------------------------------------------------


def _use(seen: Any, provider: str) -> dict[str, float]:
    """After the first minute and before the last call: what the binding quota was used for."""
    accepted = sorted(seen.accepted)
    first, last = accepted[0].time, accepted[-1].time
    late = [each for each in accepted if first + 60.0 <= each.time < last]
    minutes = (last - first - 60.0) / 60.0
    counted = sum(each.items for each in late) if provider == "gemini" else len(late)
    tokens = sum(each.tokens for each in late)
    used = max(counted / (ITEMS_A_MINUTE * minutes), tokens / (TOKENS_A_MINUTE * minutes))
    asked = seen.counts["embed"]
    return {"used": used, "refused": seen.refused["embed"] / asked, "calls": float(asked)}


def _use_changed(seen: Any, before: float, after: float, changed_at: float) -> dict[str, float]:
    accepted = sorted(seen.accepted)
    first, last = accepted[0].time, accepted[-1].time
    late = [each for each in accepted if first + 60.0 <= each.time < last]
    from_ = first + 60.0
    minutes = (max(0.0, changed_at - from_) / 60.0, max(0.0, last - max(changed_at, from_)) / 60.0)
    allowed = minutes[0] * before + minutes[1] * after
    asked = seen.counts["embed"]
    return {"used": sum(each.items for each in late) / allowed, "refused": seen.refused["embed"] / asked}


def _texts(count: int, words: int, seed: int) -> list[str]:
    """Distinct texts whose lengths vary by half."""
    known = _WORDS.split()
    texts = []
    for number in range(count):
        length = words // 2 + (number * 7) % words
        texts.append(f"{seed} {number} " + " ".join(known[(number + i) % len(known)] for i in range(length)))
    return texts


@contextmanager
def emulator(
    provider: str, options: dict[str, Any], settings: Settings
) -> Iterator[tuple[str, EmulatorClient]]:
    """An emulator in a process of its own, as `embatch emulate` starts it."""
    import json

    from embatch.emulator.client import EmulatorClient

    scenario = settings.work / f"scenario-{time.monotonic_ns()}.json"
    scenario.write_text(json.dumps(options), "utf-8")
    command = [
        sys.executable,
        "-m",
        "embatch",
        "emulate",
        provider,
        "--port",
        "0",
        "--scenario",
        str(scenario),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(
            word.rstrip("/.,:") for word in line.replace("=", " ").split() if word.startswith("http://")
        )
        yield url, EmulatorClient(url.removesuffix("/v1"))
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def _embedder(url: str, scale: float, *, model: str = MODEL, strategy: str) -> Iterator[Embedder]:
    from embatch import Embedder
    from embatch.engine.lanes.clock import Clock
    from embatch.frontends.remote import LaneSettings, RemoteModel
    from embatch.providers.registry import open_provider

    provider = open_provider(model, base_url=url, api_key=KEY)
    settings = LaneSettings(strategy=strategy)  # type: ignore[arg-type]  # one of its words
    remote = RemoteModel(provider, settings=settings, clock=Clock(scale), base_url=url)
    with Embedder(backend=remote, dimensions=DIMENSIONS) as embedder:
        yield embedder


def _seconds(task: Any) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def _quantile(ordered: Sequence[float], share: float) -> float:
    return significant(ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))], 4)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    from statistics import median

    def middle(part: str, name: str) -> float:
        return significant(median(one[part][name] for one in rounds), 4)

    summary: dict[str, Any] = {
        "overhead_p50_s": middle("overhead", "p50_s"),
        "overhead_p99_s": middle("overhead", "p99_s"),
        **{
            name: middle("small", name) for name in ("query_p50_s", "query_p95_s", "five_p50_s", "five_p95_s")
        },
        "over_all_batch": spread([one["money"]["over"] for one in rounds]),
    }
    for place, provider in enumerate(("gemini", "openai")):
        summary[f"{provider}_quota_used"] = spread([one["quota"][place]["used"] for one in rounds])
        summary[f"{provider}_refused"] = spread([one["quota"][place]["refused"] for one in rounds])
    for place, what in enumerate(("halved", "doubled")):
        summary[f"unknown_{what}_used"] = spread([one["unknown quota"][place]["used"] for one in rounds])
    return summary
