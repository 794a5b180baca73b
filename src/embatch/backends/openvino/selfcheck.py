"""Whether a fast precision is exact enough for one model on this processor, measured once and remembered.

`precision="auto"` promises cosine 0.9999 to fp32. Models differ in what they lose to bfloat16, so the backend embeds
a small sample both ways at the first start and keeps the answer in the user's cache. A cache that cannot be written
only means measuring again.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.backends.cachedir import cache_folder
from embatch.backends.openvino.batches import pad
from embatch.backends.openvino.device import compile_options

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.backends.tokenizing import TextTokenizer
    from embatch.types import FloatArray, Precision

MEAN_COSINE, LEAST_COSINE = 0.9999, 0.9995
"""What `precision="auto"` keeps to fp32: on average, and for every single text."""

_SENTENCES = (
    "What is the boundary layer?",
    "retry failed requests with exponential backoff",
    "The wing in a propeller slipstream was studied to determine the spanwise distribution of the lift increase.",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values) if values else 0.0",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Les résultats du troisième trimestre dépassent les prévisions de 12,5 %.",
    "東京は日本の首都です。",
    "SELECT name, COUNT(*) FROM orders WHERE total > 100 GROUP BY name ORDER BY 2 DESC;",
    "ERROR 2024-03-01T12:00:07Z worker-3 connection reset by peer (errno 104), attempt 2 of 5",
    "Add two cups of flour, a pinch of salt and the eggs; stir until the dough is smooth, then let it rest.",
    "ok",
    "https://example.org/a/b?c=1#d",
)


def is_exact_enough(
    core: Any, model: Any, tokenizer: TextTokenizer, precision: Precision, *, subject: str
) -> bool:
    """Whether `model` in `precision` agrees with itself in fp32. `subject` names all that the answer hangs on."""
    memo = cache_folder() / "precision" / f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.json"
    known = _recall(memo)
    if known is not None:
        return known
    cosines = _cosines(core, model, tokenizer, precision)
    exact = bool(cosines.mean() >= MEAN_COSINE and cosines.min() >= LEAST_COSINE)
    _remember(
        memo,
        {
            "subject": subject,
            "exact": exact,
            "mean_cosine": float(cosines.mean()),
            "least_cosine": float(cosines.min()),
        },
    )
    return exact


def _cosines(core: Any, model: Any, tokenizer: TextTokenizer, precision: Precision) -> FloatArray:
    """Cosine of each sample text's vector in `precision` to that in fp32."""
    # Each alone, all in one, and enough of them to fill the model's limit.
    texts = [*_SENTENCES, " ".join(_SENTENCES), " ".join(_SENTENCES * 8)]
    ids, mask = pad(tokenizer.tokenize(texts).payloads, tokenizer.pad_id)
    vectors = []
    for kind in ("fp32", precision):
        options = compile_options(kind, streams=1, threads=0)
        vectors.append(core.compile_model(model, "CPU", options)([ids, mask])[0])
    exact, fast = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in vectors)
    cosines: FloatArray = np.einsum("ij,ij->i", exact, fast)
    return np.where(np.isfinite(cosines), cosines, np.float32(-1.0))


def _recall(memo: Path) -> bool | None:
    try:
        exact = json.loads(memo.read_text(encoding="utf-8"))["exact"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return exact if isinstance(exact, bool) else None


def _remember(memo: Path, outcome: dict[str, object]) -> None:
    with suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        draft = memo.with_suffix(f".{os.getpid()}.part")
        draft.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
        draft.replace(memo)
