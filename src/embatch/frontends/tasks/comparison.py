"""What batches of tasks bring: milliseconds a task by batch size, against one at a time, here and elsewhere.

Measures and renders; `scripts/quality_graph/benchmark_batch_embeddings.py` is its command line. Ways are interleaved:
each round runs all of them, and ratios are taken within a round.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from embatch.frontends.tasks.backends import NeuralBackend, TaskEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.types import FloatArray

YARDSTICK = "sentence-transformers, one at a time"
SINGLE = "embatch, one at a time"
_ENOUGH = 0.9999
_VERBS = ("Fix", "Add", "Remove", "Speed up", "Document", "Test", "Refactor", "Review")
_THINGS = (
    "the login form",
    "the report export",
    "retries of failed jobs",
    "the search index",
    "the weather chart",
)
_PLACES = (
    "in the web client",
    "in the scheduler",
    "for mobile users",
    "after the upgrade",
    "on slow networks",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to embed all tasks, over all rounds."""

    name: str
    ms_per_task: float
    """Median."""
    against_yardstick: float | None
    """How many times as fast as sentence-transformers one at a time; None without it."""
    against_single: float
    """How many times as fast as embatch one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A result of `compare`."""

    mode: str
    model: str
    tasks: int
    rounds: int
    ways: list[Way]
    peak_memory_mib: float
    """Of the process after embedding all tasks, before sentence-transformers was imported."""
    deterministic: bool
    """Whether a second run gave the same bits."""
    lowest_cosine_to_single: float
    lowest_cosine_to_yardstick: float | None
    yardstick_missing: str | None
    """Why there is no yardstick."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def made_up_tasks(count: int) -> list[dict[str, Any]]:
    """Short tasks, all different, the first ones the same whatever the count."""
    found = []
    for number, (thing, verb, place) in enumerate(
        itertools.cycle(itertools.product(_THINGS, _VERBS, _PLACES))
    ):
        if number >= count:
            break
        found.append(
            {
                "title": f"{verb} {thing} {place}",
                "description": f"Ticket {number}: users report trouble with {thing}.",
                "files_touched": [f"src/part_{number % 17}.py"],
            }
        )
    return found


def compare(mode: str | None, count: int, batch_sizes: Sequence[int], *, rounds: int = 3) -> Comparison:
    """Embed made-up tasks in every way, round by round.

    Args:
        mode: as for `TaskEmbedder`.
        count: tasks.
        batch_sizes: sizes to try.
        rounds: of all ways, one after the other.

    Raises:
        ModelError: the model cannot be had.
    """
    tasks, embedder = made_up_tasks(count), TaskEmbedder(mode)
    batched = embedder.compute_embeddings_batch(tasks, max(batch_sizes))
    peak = _peak_mib()
    again = embedder.compute_embeddings_batch(tasks, max(batch_sizes))
    single = _one_by_one(embedder, tasks)
    model, missing = _sentence_transformers(embedder)
    ways: dict[str, Callable[[], object]] = {SINGLE: lambda: _one_by_one(embedder, tasks)}
    yardstick = None
    if model is not None:
        texts = [NeuralBackend.build_input_text(**task) for task in tasks]
        yardstick = _encoded_singly(model, texts)
        ways = {YARDSTICK: lambda: _encoded_singly(model, texts), **ways}
    for size in batch_sizes:
        ways[f"embatch, batches of {size}"] = partial(embedder.compute_embeddings_batch, tasks, size)
    took = _rounds(ways, rounds)
    return Comparison(
        mode=embedder.mode,
        model=embedder.model,
        tasks=count,
        rounds=rounds,
        ways=[_way(name, took, count) for name in ways],
        peak_memory_mib=round(peak, 1),
        deterministic=bool(np.array_equal(batched, again)),
        lowest_cosine_to_single=_lowest(batched, single),
        lowest_cosine_to_yardstick=None if yardstick is None else _lowest(batched, yardstick),
        yardstick_missing=missing,
    )


def rendered(result: Comparison) -> str:
    """The result as a table and the facts under it."""
    head = f"{'way':<40} {'ms/task':>9} {'× st single':>12} {'× own single':>13}"
    rows = [
        f"{way.name:<40} {way.ms_per_task:>9.3f} {_times(way.against_yardstick):>12} {way.against_single:>12.1f}×"
        for way in result.ways
    ]
    cosines = f"lowest cosine of a batch to single tasks {result.lowest_cosine_to_single:.6f}"
    if result.lowest_cosine_to_yardstick is not None:
        cosines += f", to sentence-transformers {result.lowest_cosine_to_yardstick:.6f}"
    same = "the same bits" if result.deterministic else "not the same bits"
    return "\n".join(
        [
            f"{result.tasks:,} tasks, {result.model}, median of {result.rounds} rounds",
            "",
            head,
            *rows,
            "",
            f"peak memory {result.peak_memory_mib:,.0f} MiB; two runs gave {same}; {cosines}.",
            *([result.yardstick_missing] if result.yardstick_missing else []),
        ]
    )


def sound(result: Comparison) -> bool:
    """Whether batches give the vectors that single tasks give, every time."""
    return result.deterministic and result.lowest_cosine_to_single >= _ENOUGH


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}×"


def _way(name: str, took: dict[str, list[float]], count: int) -> Way:
    def against(other: str) -> float:
        return median(theirs / ours for theirs, ours in zip(took[other], took[name], strict=True))

    return Way(
        name=name,
        ms_per_task=round(1000 * median(took[name]) / count, 4),
        against_yardstick=round(against(YARDSTICK), 2) if YARDSTICK in took else None,
        against_single=round(against(SINGLE), 2),
    )


def _rounds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for _ in range(rounds):
        for name in names:
            started = time.perf_counter()
            ways[name]()
            took[name].append(time.perf_counter() - started)
        names = [*names[1:], names[0]]  # no way always runs after the same neighbour
    return took


def _one_by_one(embedder: TaskEmbedder, tasks: Sequence[dict[str, Any]]) -> FloatArray:
    return np.stack([embedder.compute_embedding(**task) for task in tasks])


def _encoded_singly(model: Any, texts: Sequence[str]) -> FloatArray:
    rows = [model.encode(text, normalize_embeddings=True, show_progress_bar=False) for text in texts]
    return np.asarray(rows, np.float32)


def _lowest(one: FloatArray, other: FloatArray) -> float:
    return round(float(np.einsum("ij,ij->i", one, other).min()), 6)


def _sentence_transformers(embedder: TaskEmbedder) -> tuple[Any, str | None]:
    """The same model's files in sentence-transformers, or why not."""
    if not isinstance(embedder.backend, NeuralBackend):
        return None, "sentence-transformers has no part in this mode."
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None, (
            'sentence-transformers is not installed, so nothing is compared with it: pip install "embatch[torch]".'
        )
    from embatch.backends.resolve import resolve

    backend = embedder.backend
    files = resolve(backend.model_path or backend.model_name, offline=True)
    return SentenceTransformer(str(files.path), device=backend.device or "cpu"), None


def _peak_mib() -> float:
    """Peak memory of this process; what it holds now where the system does not tell the peak."""
    try:
        import resource
    except ImportError:
        return float(psutil.Process().memory_info().rss) / 2**20
    import sys

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
