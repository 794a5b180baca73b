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

from embatch.backends.cache import cache_folder
from embatch.backends.openvino.batches import pad
from embatch.backends.openvino.device import compile_options
from embatch.backends.sample import sample_texts

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.backends.tokenizing import TextTokenizer
    from embatch.types import FloatArray, Precision

MEAN_COSINE, LEAST_COSINE = 0.9999, 0.9995
"""What `precision="auto"` keeps to fp32: on average, and for every single text."""

_SAMPLE = 24
"""Texts of the shipped sample that are compared, besides one that fills the model's limit: half a second's work."""


def is_exact_enough(
    core: Any, model: Any, tokenizer: TextTokenizer, precision: Precision, *, subject: str
) -> bool:
    """Whether `model` in `precision` agrees with itself in fp32. `subject` names all that the answer hangs on."""
    if precision == "fp32":
        return True
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
    sample = sample_texts(_SAMPLE)
    texts = [*sample, " ".join(sample)]
    ids, mask = pad(tokenizer.tokenize(texts).payloads, tokenizer.pad_id, tokenizer.max_tokens)
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
