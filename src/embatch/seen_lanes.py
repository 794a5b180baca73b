"""What is seen of one run, beside its batches: windows read, failures, the tuner; calls, jobs and pauses of its lanes.

`seen` holds what every part tells; these are told by runs that are recorded, so that they can be looked at afterwards.
Times are seconds since the Unix epoch. Nothing here holds a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from embatch.seen import AskSeen, BatchSeen

JobStage = Literal["attached", "submitted", "accepted", "refused", "seen", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSeen:
    """Rows were read, looked up and tokenised."""

    at: float
    seconds: float
    rows: int
    units: int
    """Texts, or pieces of texts, that are left to compute."""
    tokens: int
    """Of these."""
    plain_tokens: int
    """The same, padded, if they were computed in the order of the input, 32 at a time."""
    lengths: tuple[int, ...] = ()
    """How many of these have up to 2^i tokens and more than half of that, by i."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSeen:
    """Finished rows were handed over; `seconds` is how long whoever took them was busy with them."""

    at: float
    seconds: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerSeen:
    """The budget in use at a moment, and how full the memory is, 0 to 1."""

    at: float
    budget: int
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSeen:
    """A row that has no result."""

    at: float
    row: int
    key: str
    source: str
    error: str
    """Name of the error."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSeen:
    """A run over a provider begins to send; a run in several parts does so several times."""

    at: float
    run_id: str
    strategy: str
    items: int
    """That wait to be sent."""
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlookSeen:
    """What was to be expected of one way to send everything, before anything was sent."""

    at: float
    strategy: str
    call_items: int
    job_items: int
    seconds: float
    """The median."""
    seconds_p10: float
    seconds_p90: float
    dollars: float | None
    """None if prices are not known, or answers are paid by their length."""
    afforded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSeen:
    """A synchronous call is over. `items` = `done` + `failed` + `back`."""

    at: float
    """When it was sent."""
    seconds: float
    items: int
    done: int
    failed: int
    back: int
    """Items that wait again."""
    tokens: int
    dollars: float
    error: str = ""
    """Why it failed as a whole; empty if it was answered."""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """A provider's job has come to another stage."""

    at: float
    id: int
    """Within the run; negative for a job of an interrupted run."""
    stage: JobStage
    state: str = ""
    """The provider's word for how it stands, in the words of all providers."""
    items: int = 0
    completed: int | None = None
    done: int = 0
    failed: int = 0
    back: int = 0
    tokens: int = 0
    dollars: float = 0.0
    error: str = ""
    age_s: float = 0.0
    """Since it was accepted, for a job that was found again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseSeen:
    """A time in which nothing was sent and nothing was under way, though something waited."""

    at: float
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSeen:
    """What was decided, and why."""

    at: float
    text: str


RunSeen = (
    BatchSeen
    | AskSeen
    | WindowSeen
    | BlockSeen
    | TunerSeen
    | FailureSeen
    | LaneSeen
    | OutlookSeen
    | CallSeen
    | JobSeen
    | PauseSeen
    | DecisionSeen
)
"""Everything that may be told of a run."""


class RunObserver(Protocol):
    """Is told of what happens in a run. An observer of runs serves wherever an `Observer` does."""

    def see(self, seen: RunSeen) -> None:
        """Take it. Quick, from any thread, never raises."""
        ...
