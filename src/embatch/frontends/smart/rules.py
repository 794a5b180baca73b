"""Which lane some requests take, and why: the rule that the caller set, as lane settings and in words.

Pure. A decision by cost is left to the strategy; every other rule is told to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from embatch.errors import UsageError
from embatch.frontends.arguments import one_of
from embatch.frontends.remote import LaneSettings
from embatch.remote import STRATEGIES, URGENT, Goal

if TYPE_CHECKING:
    from embatch.frontends.smart.outlook import Outlook
    from embatch.remote import StrategyName

Threshold = int | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one call wants otherwise than its client."""

    batch: bool = False
    individual: bool = False
    purpose: str | None = None

    def __post_init__(self) -> None:
        if self.batch and self.individual:
            raise ValueError("force_batch and force_individual exclude each other: give one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a client chooses. Checked when made.

    Args:
        strategy: `auto` goes by the threshold; the others are as they are called.
        threshold: fewer requests go by calls, others as a job; `auto` decides by cost.
        parallel: calls at once.
        prefer_individual_for: purposes that always go by calls.
        poll_s: see `LaneSettings`.
        patience_s: see `LaneSettings`.
        goal: deadline, budget, and what an hour of waiting is worth.
    """

    strategy: StrategyName = "auto"
    threshold: Threshold = 10
    parallel: int = 5
    prefer_individual_for: frozenset[str] = frozenset()
    poll_s: float | None = None
    patience_s: float | None = None
    goal: Goal = field(default_factory=Goal)

    def __post_init__(self) -> None:
        one_of("strategy", self.strategy, STRATEGIES)
        whole = isinstance(self.threshold, int) and not isinstance(self.threshold, bool)
        if self.threshold != "auto" and not (whole and int(self.threshold) >= 1):
            raise UsageError(
                f"batch_threshold must be a whole number of at least 1, or 'auto', not {self.threshold!r}"
            )
        self.plain()

    def plain(self) -> LaneSettings:
        """What all runs of the client have in common."""
        return LaneSettings(
            goal=self.goal, parallel=self.parallel, poll_s=self.poll_s, patience_s=self.patience_s
        )

    def lanes(self, items: int, asked: Asked, *, has_jobs: bool) -> tuple[LaneSettings, str]:
        """Settings for a run over so many distinct texts, and the reason in words."""
        plain = self.plain()
        fixed = self._fixed(asked)
        if not has_jobs and (
            fixed is None or fixed[0] != "batch"
        ):  # what asks for jobs by name is refused later
            fixed = ("individual", "this model has no batch jobs here")
        if fixed is not None:
            return replace(plain, strategy=fixed[0]), fixed[1]
        return self._by_size(items, plain, replace(plain, strategy="individual"))

    def _fixed(self, asked: Asked) -> tuple[StrategyName, str] | None:
        """The lane that is taken whatever the number of requests, and why; None if the number matters."""
        preferred = asked.purpose is not None and asked.purpose in self.prefer_individual_for
        cases: tuple[tuple[bool, StrategyName, str], ...] = (
            (asked.batch, "batch", "as this call asks for"),
            (asked.individual, "individual", "as this call asks for"),
            (preferred, "individual", f"as set for {asked.purpose}"),
            (self.strategy == "individual", "individual", "as set"),
            (self.strategy == "batch", "batch", "as set"),
        )
        return next(((lane, why) for holds, lane, why in cases if holds), None)

    def _by_size(self, items: int, plain: LaneSettings, calls: LaneSettings) -> tuple[LaneSettings, str]:
        if self.strategy == "hybrid":
            least = URGENT + 1 if self.threshold == "auto" else max(self.threshold, URGENT + 1)
            if items < least:
                return calls, f"fewer than {least}"
            return replace(plain, strategy="hybrid", head=URGENT), f"the first {URGENT} at once"
        if self.threshold == "auto":
            return plain, "by cost"
        if items < self.threshold:
            return calls, f"fewer than {self.threshold}"
        return replace(plain, threshold=self.threshold), f"{self.threshold} or more"


def decision_words(outlook: Outlook, lanes: LaneSettings, why: str) -> str:
    """`2 items → individual calls (~0.5s vs 60s batch; fewer than 10)`."""
    items = f"{outlook.items:,} item{'' if outlook.items == 1 else 's'}"
    jobs = _jobs(outlook, lanes)
    calls = _seconds(outlook.calls_s)
    if outlook.job_s is None:
        return f"{items} → individual calls (~{calls}; {why})"
    job = _seconds(outlook.job_s)
    if not jobs:
        return f"{items} → individual calls (~{calls} vs {job} batch; {why})"
    saves = f", saves ${outlook.saved:.2g}" if outlook.saved else ""
    if jobs < outlook.items:
        return f"{items} → hybrid, {jobs:,} of them by the batch API (~{job} vs {calls} individual{saves}; {why})"
    return f"{items} → batch API (~{job} vs {calls} individual{saves}; {why})"


def _jobs(outlook: Outlook, lanes: LaneSettings) -> int:
    """How many of the texts will go as jobs, as far as can be told."""
    if lanes.strategy == "individual" or outlook.job_s is None:
        return 0
    if lanes.strategy == "batch" or lanes.threshold is not None:
        return outlook.items
    if lanes.strategy == "hybrid":
        return outlook.items - (URGENT if lanes.head is None else lanes.head)
    return outlook.job_items


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 2 else f"{seconds:,.0f}s"
