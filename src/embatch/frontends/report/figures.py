"""What a report says of a run, as frozen figures: everything that a page, a terminal or a program is shown.

Times are seconds since the run's start unless said otherwise. Texts of users are not in it; keys and paths are, as they
are, so that whoever shows them must escape them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

SpanKind = Literal[
    "reading",
    "batch",
    "retry",
    "failed",
    "writing",
    "call",
    "refused",
    "call failed",
    "queued",
    "job",
    "job failed",
    "wait",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One of the few figures on top."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A bar of the time line."""

    row: int
    """Index of its row in `Timeline.rows`."""
    start: float
    end: float
    kind: SpanKind
    items: int = 0
    tokens: int = 0
    longest: int = 0
    """Tokens of the longest item of a batch."""
    budget: int = 0
    count: int = 1
    """How many batches or windows it stands for."""
    note: str = ""
    """What else is worth saying: a reason, a state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What happened when. Rows from top to bottom."""

    rows: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A stretch of time, and what was reached in it."""

    start: float
    end: float
    items: float
    tokens: float

    @property
    def items_per_s(self) -> float:
        """Items a second."""
        return self.items / (self.end - self.start) if self.end > self.start else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second."""
        return self.tokens / (self.end - self.start) if self.end > self.start else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How many items had their result at a moment, and what was paid by then."""

    at: float
    items: int
    dollars: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A budget that batches were formed under, and what it reached."""

    budget: int
    batches: int
    tokens_per_s: float
    """The median over its batches, of one stream."""
    low: float
    high: float
    """Of nine batches in ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """The search for the best token budget."""

    steps: tuple[tuple[float, int], ...] = ()
    """(when, budget) of batches, each time that it changed."""
    tried: tuple[Tried, ...] = ()
    memory: tuple[tuple[float, float], ...] = ()
    """(when, share in use)."""
    last: int = 0
    """In use at the end; 0 where batches are not formed by tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Batches of about the same length."""

    up_to: int
    """Tokens of the longest item: more than half of this, up to this."""
    batches: int
    items: int
    tokens: int
    padded_tokens: int

    @property
    def padding(self) -> float:
        """Share of the computed tokens that was padding."""
        return 1.0 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the time that was there."""

    name: str
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One way to do the same: this run, or another that was not gone."""

    name: str
    seconds: float | None
    dollars: float | None
    note: str = ""
    this: bool = False
    """Whether it is what was done, and measured."""
    low_s: float | None = None
    high_s: float | None = None
    """Within which its time lies with 80 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An item without a result."""

    key: str
    source: str
    error: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long asks took that came in within a stretch of time."""

    start: float
    end: float
    asks: int
    p50_s: float
    p95_s: float
    p99_s: float
    refused: int
    """Of these asks, those that got no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts of a run, as its own report has them or, if it was killed, as its events add up to."""

    items: int = 0
    embedded: int = 0
    duplicates: int = 0
    cached: int = 0
    truncated: int = 0
    pooled: int = 0
    failed: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0
    retries: int = 0
    """Batches that were computed again, whole or in parts."""
    out_of_memory: int = 0
    calls: int = 0
    calls_refused: int = 0
    calls_failed: int = 0
    jobs: int = 0
    again: int = 0
    """Items that were sent again."""
    waits: int = 0
    wait_s: float = 0.0
    seconds: float = 0.0
    device_seconds: float = 0.0
    streams: int = 0
    dollars: float | None = None
    """None where nothing is paid, or prices are not known."""
    earlier_dollars: float = 0.0
    asks: int = 0
    asks_unanswered: int = 0

    @property
    def padding(self) -> float:
        """Share of the computed tokens that was padding."""
        return max(0.0, 1.0 - self.tokens / self.padded_tokens) if self.padded_tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All of a report."""

    id: str
    kind: str
    state: str
    noun: str
    """What an item is called: text, chunk, prompt."""
    model: str
    device: str
    started: float
    """Seconds since the epoch."""
    seconds: float
    lanes: bool
    """Whether the model is a provider's."""
    totals: Totals
    headlines: tuple[Headline, ...] = ()
    words: str = ""
    """What was done, in a paragraph."""
    notes: tuple[str, ...] = ()
    """What a reader should know of the record itself: killed, thinned, damaged, estimated."""
    timeline: Timeline = Timeline()
    bins: tuple[Bin, ...] = ()
    done: tuple[Done, ...] = ()
    budgets: Budgets = Budgets()
    shapes: tuple[Shape, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ()
    """(up to so many tokens, items)."""
    time: tuple[Part, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    alternatives_note: str = ""
    latencies: tuple[Latency, ...] = ()
    failures: tuple[Failed, ...] = ()
    failures_by_error: tuple[tuple[str, int], ...] = ()
    decisions: tuple[tuple[float, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """Settings, spec and versions, by name."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        return asdict(self)
