"""How well searches find: nDCG@10 on Cranfield, and recall@10 of questions about code, by words and by meaning."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import code, cranfield, markdown, results
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.code import Question
    from benchmarks.harness import Settings
    from embatch.chunks import Hit
    from embatch.frontends.searching.index import Index
    from embatch.search.searching import Mode

MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")
DEPTH = 10
_LOOK = 50  # chunks looked at for ten documents: some have several


def run(settings: Settings) -> dict[str, Any]:
    """Index both collections with the default model at its defaults, and ask every question in every mode."""
    found: dict[str, Any] = {"cranfield": _cranfield(settings), "code": _code(settings)}
    return results.record(
        "search",
        parameters={"model": "minilm", "modes": MODES, "depth": DEPTH},
        rounds=[found],
        summary=found,
        versions={"embatch": versions(["embatch", "pylance", "openvino", "tokenizers", "numpy"])},
    )


def _cranfield(settings: Settings) -> dict[str, Any]:
    from embatch.frontends.searching.index import Index

    collection = cranfield.load()
    size = settings.scaled(len(collection.documents), 60)
    texts = dict(zip(collection.document_ids[:size], collection.documents, strict=False))
    with Index.open(settings.work / "cranfield", model=str(settings.model)) as index:
        index.add(texts)
        scores = {mode: _ndcg(index, collection, mode) for mode in MODES}
        return {
            "documents": len(texts),
            "chunks": index.reader.count(),
            "questions": sum(1 for gains in collection.gains if gains),
            "ndcg10": scores,
        }


def _ndcg(index: Index, collection: cranfield.Collection, mode: Mode) -> float:
    ranked = index.query_many(collection.queries, k=_LOOK, mode=mode)
    scores = [
        cranfield.ndcg(_documents(hits), gains, depth=DEPTH)
        for hits, gains in zip(ranked, collection.gains, strict=True)
        if gains
    ]
    return round(100 * float(np.mean(scores)), 2)


def _documents(hits: Sequence[Hit]) -> list[str]:
    """The documents of the hits, each where its best chunk is."""
    return list(dict.fromkeys(hit.chunk.path for hit in hits))


def _code(settings: Settings) -> dict[str, Any]:
    from embatch.frontends.searching.index import Index

    folder = settings.work / "code"
    files = _copied(folder, settings)
    asked = code.questions()
    with Index.open(folder, model=str(settings.model)) as index:
        started = time.perf_counter()
        report = index.sync()
        seconds = time.perf_counter() - started
        judged = {mode: _recall(index, asked, mode) for mode in MODES}
        return {
            "files": files,
            "chunks": report.chunks,
            "seconds": round(seconds, 1),
            "questions": len(asked),
            "modes": judged,
            "missed": _missed(index, asked),
        }


def _copied(folder: Path, settings: Settings) -> int:
    """The standard library, tests included, and embatch; in a smoke run embatch alone."""
    files = code.copy_embatch(folder / "embatch")
    return files if settings.quick else files + code.copy_stdlib(folder / "stdlib")


def _recall(index: Index, asked: Sequence[Question], mode: Mode) -> dict[str, float]:
    found = index.query_many([question.text for question in asked], k=DEPTH, mode=mode)
    ranks = [question.rank(hits) for question, hits in zip(asked, found, strict=True)]
    return {
        "recall10": round(sum(rank is not None for rank in ranks) / len(ranks), 4),
        "recall1": round(sum(rank == 1 for rank in ranks) / len(ranks), 4),
        "mrr10": round(sum(1 / rank for rank in ranks if rank) / len(ranks), 4),
    }


def _missed(index: Index, asked: Sequence[Question]) -> list[str]:
    found = index.query_many([question.text for question in asked], k=DEPTH)
    return [one.text for one, hits in zip(asked, found, strict=True) if one.rank(hits) is None]


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`search`: quality by mode."""
    summary = result["summary"]
    text, about = summary["cranfield"], summary["code"]
    rows = [
        [
            mode,
            f"{text['ndcg10'][mode]:.2f}",
            f"{100 * about['modes'][mode]['recall10']:.0f} %",
            f"{100 * about['modes'][mode]['recall1']:.0f} %",
            f"{about['modes'][mode]['mrr10']:.2f}",
        ]
        for mode in MODES
    ]
    head = [
        "search by",
        f"nDCG@10, Cranfield, {text['questions']} questions",
        f"recall@10, {about['questions']} questions about code",
        "first hit right",
        "MRR@10",
    ]
    note = f"Code: {about['files']:,} files, {about['chunks']:,} chunks. {markdown.footnote(result)}"
    return {"search": f"{markdown.table(head, rows)}\n\n{note}"}
