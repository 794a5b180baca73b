"""What an index costs: making it against the bare engine, keeping it, and asking it cold and warm."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks import code, machine, markdown, results
from benchmarks.stats import spread
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings
    from embatch.frontends.embedder import Embedder

SAMPLE = 160
"""Files of the standard library in each round; once, all of them are indexed."""
LARGE = 100_000
COLD, WARM = 12, 300
_REST_S = 0.5


def run(settings: Settings) -> dict[str, Any]:
    """Rounds of both on the same sample, then the whole library, then questions."""
    from embatch.frontends.embedder import Embedder

    sample, whole = settings.work / "sample", settings.work / "stdlib"
    code.copy_stdlib(sample, settings.scaled(SAMPLE, 12))
    files = code.copy_stdlib(whole, settings.scaled(1_000_000, 40))
    with Embedder(str(settings.model), on_error="collect") as embedder:
        chunks = _chunks(sample, embedder)
        _engine_s(chunks[: len(chunks) // 4], embedder)  # warm, and the batch size learned
        rounds = []
        for number in range(settings.rounds):
            measures = {
                "engine": lambda: _engine_s(chunks, embedder),
                "index": lambda: _index_s(sample, embedder),
            }
            order = list(measures) if number % 2 else list(measures)[::-1]
            took = {name: measures[name]() for name in order}
            rounds.append({name: round(took[name], 3) for name in measures})
            print(f"  {rounds[-1]}, load {machine.load()}", flush=True)
        made = _whole(whole, embedder)
    kept = _kept(whole, settings)
    large = _large(whole, settings)
    return results.record(
        "index",
        parameters={
            "model": "minilm",
            "sample_files": settings.scaled(SAMPLE, 12),
            "sample_chunks": len(chunks),
        },
        rounds=rounds,
        summary={
            "ratio": spread([one["index"] / one["engine"] for one in rounds]),
            "whole": {"files": files, **made},
            **kept,
            "large": large,
        },
        versions={"embatch": versions(["embatch", "pylance", "openvino", "tokenizers", "numpy"])},
    )


def _chunks(folder: Path, embedder: Embedder) -> list[str]:
    """What an index of a folder embeds."""
    from embatch.frontends.searching.index import CHUNK_TOKENS
    from embatch.frontends.searching.model import IndexModel
    from embatch.frontends.searching.workshop import OpenWorkshop
    from embatch.storage.sources.listing import list_files
    from embatch.storage.sources.skips import SkipLog

    shop = OpenWorkshop(folder, IndexModel({}, embedder)).open(min(CHUNK_TOKENS, embedder.spec.max_tokens))
    files = list_files([str(folder)], SkipLog())
    cut = (shop.cut(shop.read(file).documents) for file in files)
    return [chunk.embedded for chunks in cut for chunk in chunks if chunk.text.strip()]


def _engine_s(texts: list[str], embedder: Embedder) -> float:
    time.sleep(_REST_S)
    started = time.perf_counter()
    for _ in embedder.stream(texts):
        pass
    return time.perf_counter() - started


def _index_s(folder: Path, embedder: Embedder) -> float:
    from embatch.frontends.searching.index import Index

    _forget(folder)
    time.sleep(_REST_S)
    started = time.perf_counter()
    with Index.open(folder, embedder=embedder) as index:
        index.sync()
    return time.perf_counter() - started


def _whole(folder: Path, embedder: Embedder) -> dict[str, Any]:
    from embatch.frontends.searching.index import Index

    with Index.open(folder, embedder=embedder) as index:
        report = index.sync()
        return {
            "chunks": report.chunks,
            "seconds": round(report.seconds, 1),
            "bytes": index.stats().bytes,
            "source_bytes": report.bytes_total,
        }


def _kept(folder: Path, settings: Settings) -> dict[str, Any]:
    """Running `embatch index` again, and after one function has changed; asking in fresh processes."""
    time.sleep(2.5)  # files written just now may change without their time showing it, and are read again
    _command("index", str(folder), "--json")
    again = [_command("index", str(folder), "--json") for _ in range(settings.scaled(5, 2))]
    file = folder / "textwrap.py"
    if not file.exists():
        file = next(folder.rglob("*.py"))
    text = file.read_text("utf-8")
    changed = []
    for number in range(settings.scaled(3, 1)):
        at = text.index("def ")
        line = text.index(":\n", at) + 2
        file.write_text(f"{text[:line]}    # changed {number}\n{text[line:]}", "utf-8")
        changed.append(_command("index", str(folder), "--json"))
    cold = [
        _query(folder, "how is a paragraph of text wrapped?") for _ in range(settings.scaled(COLD, 3) + 1)
    ][1:]
    return {
        "again_s": spread([one["wall_s"] for one in again]),
        "again_embedded": max(one["embedded"] for one in again),
        "changed_s": spread([one["wall_s"] for one in changed]),
        "changed_embedded": [one["embedded"] for one in changed],
        "cold_query_s": spread(cold),
    }


def _command(*arguments: str) -> dict[str, Any]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "embatch", *arguments], check=True, capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**told, "wall_s": round(wall, 3)}


def _query(folder: Path, question: str) -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "embatch", "query", question, "--index", str(folder)],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started


def _large(folder: Path, settings: Settings) -> dict[str, Any]:
    """Warm questions to an index of a hundred thousand chunks: the library, and copies of its modules up to that."""
    from embatch.frontends.searching.index import Index

    asked = [question.text for question in code.questions("stdlib")]
    wanted = settings.scaled(LARGE, 300)
    with Index.open(folder) as index:
        for number, file in enumerate(sorted(folder.glob("*.py"))):
            if index.reader.count() >= wanted:
                break
            for copy in range(4):
                to = folder / "copies" / str(copy) / file.name
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(file.read_bytes())
            if number % 10 == 9:
                index.sync()
        index.sync()
        stats = index.stats()
        for question in asked[:20]:
            index.query(question)
        took: dict[str, list[float]] = {"hybrid": [], "vector": [], "text": []}
        for number in range(settings.scaled(WARM, 10)):
            for mode, times in took.items():
                started = time.perf_counter()
                index.query(asked[number % len(asked)], mode=mode)  # type: ignore[arg-type]  # one of the three
                times.append(1000 * (time.perf_counter() - started))
    return {
        "chunks": stats.chunks,
        "wanted": LARGE,
        "vector_index": stats.vector_index,
        "recall": stats.recall,
        "query_ms": {
            mode: {
                "p50": round(sorted(times)[len(times) // 2], 2),
                "p95": round(sorted(times)[int(0.95 * len(times))], 2),
            }
            for mode, times in took.items()
        },
    }


def _quantile(times: list[float], share: float) -> float:
    return round(sorted(times)[int(share * (len(times) - 1))], 2)


def _forget(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / ".embatch", ignore_errors=True)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`index`: costs, one a line."""
    one = result["summary"]
    whole, large = one["whole"], one["large"]
    rows = [
        [
            f"index Python's standard library: {whole['files']:,} files, {whole['chunks']:,} chunks",
            f"{whole['seconds']:.0f} s",
        ],
        ["the same against the bare engine on the same chunks, wall time", f"{one['ratio']['median']:.3f}x"],
        ["`embatch index` again, nothing changed", f"{one['again_s']['median']:.2f} s"],
        [
            f"the same after one function has changed: {one['changed_embedded'][0]} chunk embedded",
            f"{one['changed_s']['median']:.2f} s",
        ],
        ["`embatch query`, a fresh process", f"{one['cold_query_s']['median']:.2f} s"],
        [
            f"a warm hybrid query, {large['chunks']:,} chunks, p50 / p95",
            f"{large['query_ms']['hybrid']['p50']:.1f} / {large['query_ms']['hybrid']['p95']:.1f} ms",
        ],
    ]
    return {"index": f"{markdown.table(['what', 'takes'], rows)}\n\n{markdown.footnote(result)}"}
