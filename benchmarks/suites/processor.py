"""`BatchEmbeddingProcessor` against one call per chunk, on the emulator, over real HTTP: throughput, and money.

The chunks are those of packages of Python's standard library. Answer times are the emulator's, after published
evidence, on a clock that runs faster than life; what is paid is read from its ledger, text by text.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import markdown, results
from benchmarks.stats import significant, spread
from benchmarks.suites.lanes import DIMENSIONS, KEY, MODEL, emulator
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.harness import Settings
    from embatch.chunks import Chunk
    from embatch.emulator.client import EmulatorClient

SPEED_MODEL = "text-embedding-3-small"
SPEED_SCALE = 5.0
SPEED_CHUNKS = 2_000
SINGLE_CHUNKS = 200  # one after the other takes long, and its rate is known soon
CONCURRENT, BATCH = 5, 100
MONEY_SCALE = 60.0
CHANGED = 20  # every so many-th file
PACKAGES = (
    "asyncio concurrent ctypes curses dbm email encodings html http importlib json logging multiprocessing "
    "sqlite3 tkinter unittest urllib wsgiref xml xmlrpc zoneinfo"
)
_NEW_LINE = "\n\ndef added_by_the_benchmark(value: int) -> int:\n    return value + {number}\n"


def run(settings: Settings) -> dict[str, Any]:
    """Both measurements in each round; each way on an emulator of its own."""
    from embatch.frontends.processor.code_chunks import load_code_chunks

    os.environ["EMBATCH_CACHE"] = str(settings.work / "cache")  # nothing learned before, nothing left behind
    before, after, changed = _code_base(settings)
    first, second = (load_code_chunks(folder, model=MODEL, max_tokens=256) for folder in (before, after))
    rounds = []
    for number in range(settings.rounds):
        rounds.append(
            {
                "speed": _speed(settings, number, first[: settings.scaled(SPEED_CHUNKS, 300)]),
                "money": _money(settings, number, first, second),
            }
        )
        print(f"  round {number + 1}: {rounds[-1]}", flush=True)
    return results.record(
        "processor",
        parameters={
            "rounds": settings.rounds,
            "chunks": len(first),
            "characters": sum(len(chunk.embedded) for chunk in first),
            "distinct": len({chunk.embedded for chunk in first}),
            "files_changed": changed,
            "chunks_changed": len({chunk.embedded for chunk in second} - {chunk.embedded for chunk in first}),
            "speed": {"batch_size": BATCH, "concurrent": CONCURRENT, "virtual_seconds_a_second": SPEED_SCALE},
            "money": {
                "model": MODEL,
                "dollars_a_million_tokens": {"calls": 0.15, "jobs": 0.075},
                "counted": "every text that the emulator billed, at the price of its lane; it has no price per call",
            },
        },
        rounds=rounds,
        summary=_summary(rounds),
        versions={"embatch": versions(["embatch", "google-genai", "openai", "starlette", "uvicorn"])},
    )


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`processor-speed` and `processor-cost`."""
    s, p = result["summary"], result["parameters"]
    speed = markdown.table(
        ["chunks of code, over HTTP", "chunks/s", "processor's gain"],
        [
            ["one call per chunk, one after the other", *_cells(s, "one")],
            [f"one call per chunk, {CONCURRENT} at once", *_cells(s, "several")],
            [
                f"`BatchEmbeddingProcessor`, {CONCURRENT} at once",
                markdown.number(s["processor"]["median"]),
                "",
            ],
        ],
    )
    names = {
        "one call per chunk": "one call per chunk",
        "equal once": "equal chunks once",
        "jobs": "… and as jobs, at half the price, where that pays",
        "cache": "… and nothing twice: with a cache",
    }
    cost = markdown.table(
        [f"{p['chunks']:,} chunks, $", "first run", f"{p['files_changed']} files changed", "both", "saved"],
        [
            [
                words,
                *(f"{s['money'][way][part]:.5f}" for part in ("first", "second", "both")),
                f"{s['money'][way]['saved']:.1%}",
            ]
            for way, words in names.items()
        ],
    )
    note = (
        f"{p['distinct']:,} of {p['chunks']:,} chunks are distinct; {p['chunks_changed']} are new after the change. "
        f"{markdown.footnote(result)}"
    )
    return {
        "processor-speed": f"{speed}\n\n{markdown.footnote(result)}",
        "processor-cost": f"{cost}\n\n{note}",
    }


# --- throughput -------------------------------------------------------------------------------------------------------


class _Service:
    """An embedding service as anybody writes it: OpenAI's own client."""

    def __init__(self, url: str) -> None:
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)

    async def generate_embeddings(self, texts: list[str]) -> Any:
        """One call."""
        return await self._client.embeddings.create(
            model=SPEED_MODEL, input=texts, dimensions=DIMENSIONS, encoding_format="float"
        )

    async def aclose(self) -> None:
        """Give back connections."""
        await self._client.close()


def _speed(settings: Settings, seed: int, chunks: Sequence[Chunk]) -> dict[str, float]:
    """Chunks a second, in the emulator's time, of the same service in three ways."""
    singles = chunks[: settings.scaled(SINGLE_CHUNKS, 20)]
    return {
        "one": asyncio.run(_one_by_one(settings, seed, singles, 1)),
        "several": asyncio.run(_one_by_one(settings, seed, singles, CONCURRENT)),
        "processor": asyncio.run(_processed(settings, seed, chunks)),
    }


async def _one_by_one(settings: Settings, seed: int, chunks: Sequence[Chunk], at_once: int) -> float:
    with emulator("openai", _speed_options(seed), settings) as (url, _):
        service, room = _Service(url), asyncio.Semaphore(at_once)

        async def one(chunk: Chunk) -> None:
            async with room:
                while True:  # an overloaded provider refuses now and then
                    try:
                        await service.generate_embeddings([chunk.embedded])
                    except Exception:  # noqa: BLE001  # whatever a caller would repeat
                        continue
                    return

        started = time.perf_counter()
        await asyncio.gather(*map(one, chunks))
        seconds = time.perf_counter() - started
        await service.aclose()
    return len(chunks) / seconds / SPEED_SCALE


async def _processed(settings: Settings, seed: int, chunks: Sequence[Chunk]) -> float:
    from embatch.engine.lanes.clock import Clock
    from embatch.frontends.processor.processor import BatchEmbeddingProcessor

    with emulator("openai", _speed_options(seed), settings) as (url, _):
        service = _Service(url)
        processor = BatchEmbeddingProcessor(
            service, batch_size=BATCH, max_concurrent_batches=CONCURRENT, clock=Clock(SPEED_SCALE)
        )
        started = time.perf_counter()
        result = await processor.process_chunks(chunks)
        seconds = time.perf_counter() - started
        await service.aclose()
    assert not result.failures, result.failures[0]
    return len(chunks) / seconds / SPEED_SCALE


def _speed_options(seed: int) -> dict[str, Any]:
    return {"seed": seed, "time_scale": SPEED_SCALE}


# --- money ------------------------------------------------------------------------------------------------------------


def _code_base(settings: Settings) -> tuple[Path, Path, int]:
    """Packages as they are, the same with a function added to some files, and how many these are."""
    before, after = settings.work / "before", settings.work / "after"
    library = Path(os.__file__).parent
    for folder in (before, after):
        shutil.rmtree(folder, ignore_errors=True)
        for package in ["json", "http"] if settings.quick else PACKAGES.split():
            ignored = shutil.ignore_patterns("__pycache__", "test", "tests", "*.so", "*.exe")
            shutil.copytree(library / package, folder / package, ignore=ignored)
    files = sorted(after.rglob("*.py"))[::CHANGED]
    for number, file in enumerate(files):
        file.write_text(file.read_text("utf-8") + _NEW_LINE.format(number=number), "utf-8")
    return before, after, len(files)


def _money(
    settings: Settings, seed: int, first: Sequence[Chunk], second: Sequence[Chunk]
) -> dict[str, dict[str, float]]:
    """Dollars that the emulator billed for the code base, and again for the changed one, by each way."""
    options = {"seed": seed, "time_scale": MONEY_SCALE, "tier": "3"}
    bills: dict[str, dict[str, float]] = {}
    with emulator("gemini", {"seed": seed, "latency": "none"}, settings) as (url, control):
        bills["one call per chunk"] = _bills(control, lambda chunks: _each(url, chunks), first, second)
    for way, strategy, cached in (
        ("equal once", "individual", False),
        ("jobs", "auto", False),
        ("cache", "auto", True),
    ):
        cache = settings.work / f"cache-{seed}-{way}.db" if cached else None
        if cache is not None:
            cache.unlink(missing_ok=True)  # of an earlier run in the same folder
        with emulator("gemini", options, settings) as (url, control):

            def embed(
                chunks: Sequence[Chunk], url: str = url, strategy: str = strategy, cache: Path | None = cache
            ) -> None:
                asyncio.run(_by_processor(url, chunks, strategy, cache))

            bills[way] = _bills(control, embed, first, second)
    return bills


def _bills(
    control: EmulatorClient, embed: Any, first: Sequence[Chunk], second: Sequence[Chunk]
) -> dict[str, float]:
    embed(first)
    once = control.billing(entries=False)
    embed(second)
    twice = control.billing(entries=False)
    return {
        "first": once.dollars,
        "second": twice.dollars - once.dollars,
        "first_texts": float(once.texts),
        "second_texts": float(twice.texts - once.texts),
        "job_texts": float(sum(total.texts for total in twice.lane("batch"))),
    }


def _each(url: str, chunks: Sequence[Chunk]) -> None:
    """One call for each chunk, as it comes."""
    from google import genai
    from google.genai import types

    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=url))
    config = types.EmbedContentConfig(task_type="RETRIEVAL_DOCUMENT", output_dimensionality=DIMENSIONS)
    model = MODEL.partition(":")[2]
    with ThreadPoolExecutor(4) as pool:
        texts = [chunk.embedded for chunk in chunks]
        for _ in pool.map(
            lambda text: client.models.embed_content(model=model, contents=text, config=config), texts
        ):
            pass
    client.close()


async def _by_processor(url: str, chunks: Sequence[Chunk], strategy: str, cache: Path | None) -> None:
    from embatch import Embedder
    from embatch.engine.lanes.clock import Clock
    from embatch.frontends.processor.processor import BatchEmbeddingProcessor
    from embatch.frontends.remote import LaneSettings, RemoteModel
    from embatch.providers.registry import open_provider

    provider = open_provider(MODEL, base_url=url, api_key=KEY)
    lanes = LaneSettings(strategy=strategy)  # type: ignore[arg-type]  # one of its words
    remote = RemoteModel(provider, settings=lanes, clock=Clock(MONEY_SCALE), base_url=url)
    with Embedder(backend=remote, dimensions=DIMENSIONS, cache=cache) as embedder:
        result = await BatchEmbeddingProcessor(embedder).process_chunks(chunks)
    assert not result.failures, result.failures[0]


# --- summary ----------------------------------------------------------------------------------------------------------


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    from statistics import median

    speeds = {way: spread([one["speed"][way] for one in rounds]) for way in ("one", "several", "processor")}
    gains = {
        f"over_{way}": spread([one["speed"]["processor"] / one["speed"][way] for one in rounds])
        for way in ("one", "several")
    }
    money: dict[str, dict[str, float]] = {}
    for way in rounds[0]["money"]:
        first = median(one["money"][way]["first"] for one in rounds)
        second = median(one["money"][way]["second"] for one in rounds)
        money[way] = {"first": first, "second": second, "both": first + second}
    dearest = money["one call per chunk"]["both"]
    for bill in money.values():
        bill["saved"] = 1.0 - bill["both"] / dearest
        bill.update({name: significant(value, 5) for name, value in bill.items()})
    return {**speeds, **gains, "money": money}


def _cells(summary: dict[str, Any], way: str) -> tuple[str, str]:
    gain = summary[f"over_{way}"]
    return markdown.number(summary[way]["median"]), f"{gain['median']:.1f} × (lowest {gain['low']:.1f})"
