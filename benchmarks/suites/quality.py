"""nDCG@10 on Cranfield: whether a faster precision still finds what the model finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import cranfield, markdown, results, texts
from benchmarks.harness import Stage
from benchmarks.systems import HASHING, own, yardstick
from benchmarks.workers.protocol import read_vectors

if TYPE_CHECKING:
    from benchmarks.harness import Settings

BASE = "embatch fp32"


def run(settings: Settings) -> dict[str, Any]:
    """Embed documents and questions with each system, rank by cosine, and compare with the judgements."""
    collection = cranfield.load()
    documents = collection.documents[: settings.scaled(len(collection.documents), 50)]
    with Stage([*own(), HASHING, yardstick(settings.model)], settings.work) as stage:
        stage.give("documents", documents)
        stage.give("queries", collection.queries)
        found: dict[str, float] = {}

        def judge(system: str) -> None:
            for name in ("documents", "queries"):
                stage.embed(system, name)
            vectors = read_vectors(stage.out(system, "documents"))
            found[system] = cranfield.mean_ndcg(
                vectors, read_vectors(stage.out(system, "queries")), collection
            )

        for system in stage.names:
            stage.attempt(system, judge)
        return results.record(
            "quality",
            parameters={
                "documents": len(documents),
                "queries": sum(1 for gains in collection.gains if gains),
                "digest": texts.digest(documents),
                "gains": {str(code): gain for code, gain in cranfield.GAINS.items()},
            },
            rounds=[found],
            summary=summarise(found),
            versions=stage.versions,
            problems=stage.problems,
        )


def summarise(found: dict[str, float]) -> dict[str, Any]:
    """nDCG@10 in points of a hundred, and the difference to fp32."""
    base = found.get(BASE)
    return {
        name: {
            "ndcg10": round(100 * value, 2),
            **({"difference": round(100 * (value - base), 2)} if base is not None else {}),
        }
        for name, value in found.items()
    }


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`quality`: nDCG@10 by system."""
    rows = [
        [name, f"{one['ndcg10']:.2f}", f"{one['difference']:+.2f}" if "difference" in one else "–"]
        for name, one in result["summary"].items()
    ]
    table = markdown.table(["Cranfield, nDCG@10 × 100", "", "to fp32"], rows)
    return {"quality": f"{table}\n\n{markdown.footnote(result)}"}
