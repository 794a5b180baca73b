"""The copy of Cranfield that the repository carries, and nDCG@10 on it.

The judgements' codes become gains by `GAINS`: a complete answer (code 1) is worth 4, minimum interest (code 4) is
worth 1, and the unexplained code -1 is worth nothing, as is a document that nobody judged. Gains are linear and the
discount is log2(rank + 1), as in trec_eval's `ndcg_cut`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

FOLDER = Path(__file__).parent.parent / "examples" / "data" / "cranfield"

GAINS = {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0, 5: 0.0, -1: 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Documents with text, questions, and gains by question and document position."""

    document_ids: list[str]
    documents: list[str]
    queries: list[str]
    gains: list[dict[str, float]]
    """One a question: document id -> gain, documents without gain left out."""


def load(folder: Path = FOLDER) -> Collection:
    """The collection, its two empty documents left out: an empty text has no vector."""
    rows = [json.loads(line) for line in (folder / "docs.jsonl").read_text("utf-8").splitlines()]
    documents = [row for row in rows if row["text"].strip()]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    gains: dict[str, dict[str, float]] = {query["id"]: {} for query in queries}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, code = line.split("\t")
        if gain := GAINS[int(code)]:
            gains[query][document] = gain
    return Collection(
        document_ids=[row["id"] for row in documents],
        documents=[row["text"] for row in documents],
        queries=[query["text"] for query in queries],
        gains=list(gains.values()),
    )


def ndcg(ranked: Sequence[str], gains: Mapping[str, float], *, depth: int = 10) -> float:
    """nDCG at `depth` of one ranking, 0 to 1; the ideal ranking knows all judged documents.

    >>> ndcg(["a", "b"], {"a": 4.0, "b": 1.0})
    1.0
    """
    discounts = 1.0 / np.log2(np.arange(2, depth + 2))
    found = np.array([gains.get(document, 0.0) for document in ranked[:depth]])
    ideal = np.array(sorted(gains.values(), reverse=True)[:depth])
    best = float(ideal @ discounts[: len(ideal)])
    return float(found @ discounts[: len(found)]) / best if best else 0.0


def mean_ndcg(
    documents: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    collection: Collection,
    *,
    depth: int = 10,
) -> float:
    """Mean nDCG over the questions that have a relevant document, ranked by cosine.

    Args:
        documents: `(n, dim)`, unit norm, rows as in `collection.documents`.
        queries: `(m, dim)`, unit norm, rows as in `collection.queries`.
        collection: ids and judgements.
        depth: how many of the nearest documents count.
    """
    nearest = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :depth]
    scores = [
        ndcg([collection.document_ids[i] for i in row], gains, depth=depth)
        for row, gains in zip(nearest, collection.gains, strict=True)
        if gains
    ]
    return float(np.mean(scores))
