"""What a load client keeps of its answers: when each came, how it went, and whether its vector was the right one."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.serving.wire import vector
from benchmarks.stats import percentile, significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from benchmarks.serving.wire import Response

    FloatArray = npt.NDArray[np.float32]

OK = 200
REFUSALS = frozenset({429, 503})


class Tally:
    """Counts answers, and compares every vector with what the same text's should be.

    Args:
        reference: `(n, dim)` of length 1, row by text; None compares nothing.
        least_cosine: an answer below it is a wrong vector.
    """

    def __init__(self, reference: FloatArray | None = None, least_cosine: float = 0.999) -> None:
        self._reference = reference
        self._least = least_cosine
        self.asked = array("d")
        """When each answered request was due, seconds on the machine's monotonic clock."""
        self.took = array("d")
        """Seconds from then to its answer."""
        self.statuses = array("l")
        self.lost: Counter[str] = Counter()
        """Requests that got no answer, by what happened instead."""
        self.lowest_cosine = 1.0
        self.compared = 0
        self.wrong = 0
        self.no_retry_after = 0
        """Refusals that do not say when to come back."""

    def answer(self, row: int, due: float, now: float, response: Response) -> None:
        """An answer came."""
        self.asked.append(due)
        self.took.append(now - due)
        self.statuses.append(response.status)
        if response.status == OK:
            self._compare(row, response.body)
        elif response.status in REFUSALS and response.retry_after is None:
            self.no_retry_after += 1

    def lose(self, why: str) -> None:
        """No answer will come."""
        self.lost[why] += 1

    def report(self, started: float, ended: float) -> dict[str, Any]:
        """The figures, of good answers between two moments where it says so."""
        statuses = np.frombuffer(self.statuses, dtype=np.int64) if self.statuses else np.zeros(0, np.int64)
        asked, took = (np.frombuffer(one) if one else np.zeros(0) for one in (self.asked, self.took))
        good = statuses == OK
        within = int(np.count_nonzero(good & (asked + took <= ended)))
        return {
            "answered": len(took),
            "statuses": {str(code): int(count) for code, count in sorted(Counter(self.statuses).items())},
            "lost": dict(self.lost),
            "seconds": ended - started,
            "texts_per_s": significant(within / max(ended - started, 1e-9)),
            **latencies((took[good] * 1000).tolist()),
            "slowest_answer_ms": significant(float(took.max()) * 1000) if len(took) else None,
            "compared": self.compared,
            "wrong": self.wrong,
            "lowest_cosine": round(self.lowest_cosine, 6),
            "no_retry_after": self.no_retry_after,
        }

    def _compare(self, row: int, body: bytes) -> None:
        if self._reference is None:
            return
        self.compared += 1
        wanted, got = self._reference[row], vector(body)
        cosine = -1.0
        if got is not None and got.shape == wanted.shape:
            length = float(np.sqrt(got @ got))
            cosine = float(got @ wanted) / length if length > 0.0 else -1.0
        if not cosine >= self._least:  # NaN is wrong as well
            self.wrong += 1
        self.lowest_cosine = min(self.lowest_cosine, cosine)


def latencies(took_ms: Sequence[float]) -> dict[str, float | None]:
    """p50, p99 and the highest, of answers that took so many milliseconds; None of none."""
    if not took_ms:
        return {"p50_ms": None, "p99_ms": None, "max_ms": None}
    return {
        "p50_ms": significant(percentile(took_ms, 0.5)),
        "p99_ms": significant(percentile(took_ms, 0.99)),
        "max_ms": significant(max(took_ms)),
    }


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of several clients that worked at the same time, added up; percentiles are not: take them from arrays."""
    statuses: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for one in reports:
        statuses.update(one["statuses"])
        lost.update(one["lost"])
    names = ("answered", "compared", "wrong", "no_retry_after")
    return {
        **{name: sum(one[name] for one in reports) for name in names},
        "statuses": dict(sorted(statuses.items())),
        "lost": dict(lost),
        "lowest_cosine": min(one["lowest_cosine"] for one in reports),
        "slowest_answer_ms": max((one["slowest_answer_ms"] or 0.0 for one in reports), default=0.0),
        "texts_per_s": significant(sum(one["texts_per_s"] for one in reports)),
        "client_cpu_s": significant(sum(one["client_cpu_s"] for one in reports)),
    }
