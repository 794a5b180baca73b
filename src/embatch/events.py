"""What the strategy is told, and what it asks for, as frozen data.

The two halves of a conversation: the engine (or a simulator) tells of events, the strategy answers with instructions.
`now` is seconds on one clock of the run; items and tokens are counts, never the items themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embatch.remote import ErrorKind, JobState, Lane, LimitHints


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """Items are waiting to be sent: new ones, or those of an interrupted run."""

    now: float
    items: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """No more items will arrive."""

    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The answer to SendCall and SubmitJob, at once: what was really taken from the waiting items (0: nothing)."""

    now: float
    id: int
    lane: Lane
    items: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """A synchronous call is over. `items` = `done` + `failed` + `back`."""

    now: float
    id: int
    seconds: float
    done: int
    """Items that have their result."""
    failed: int = 0
    """Items that failed for good."""
    back: int = 0
    """Items that wait again."""
    back_tokens: int = 0
    used_tokens: int = 0
    """Billed, as far as is known; estimated where the provider does not say."""
    cost: float = 0.0
    """Dollars billed."""
    kind: ErrorKind | None = None
    """Why the call as a whole failed; None if it was answered."""
    retry_after_s: float | None = None
    hints: LimitHints | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccepted:
    """The provider has the job."""

    now: float
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRefused:
    """The provider does not take the job; its items wait again (the engine has put them back)."""

    now: float
    id: int
    kind: ErrorKind
    retry_after_s: float | None = None
    never_left: bool = False
    """Whether nobody took the request, so that it cost nothing whatever its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAttached:
    """A job of an interrupted run was found again, under way."""

    now: float
    id: int
    items: int
    tokens: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """A poll's answer, for a job that has not ended. `state` UNKNOWN also stands for a poll that failed."""

    now: float
    id: int
    state: JobState
    completed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded:
    """A job is over and its results are in. `items` = `done` + `failed` + `back`."""

    now: float
    id: int
    state: JobState
    seconds: float
    """From its acceptance to its end, as far as polls can tell."""
    done: int
    failed: int = 0
    back: int = 0
    back_tokens: int = 0
    used_tokens: int = 0
    cost: float = 0.0
    kind: ErrorKind | None = None
    """Why the job as a whole failed, such as ENQUEUED_FULL found out only after it was accepted."""
    cost_unknown: bool = False
    """Whether it was given up without its end having been seen, so that it may be billed all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The time that a Wait named has come, or something else made the engine look."""

    now: float


Event = (
    Arrived
    | Closed
    | Started
    | CallEnded
    | JobAccepted
    | JobRefused
    | JobAttached
    | JobSeen
    | JobEnded
    | Tick
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCall:
    """Take waiting items, at most so many, and send them in one synchronous call now. Answered by Started."""

    id: int
    items: int
    tokens: int
    margin: float = 1.0
    """What its price by the price list is multiplied by for the most that it may cost ..."""
    answer: float = 0.0
    """... and dollars that the answer to each item may cost beside that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitJob:
    """Take waiting items, at most so many, and submit them as one job now. Answered by Started."""

    id: int
    items: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PollJob:
    """Ask the provider how the job stands now. Answered by JobSeen or, with its results, by JobEnded."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelJob:
    """Ask the provider to end the job. It goes on being polled until JobEnded; what has no result waits again."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing more to do before an event, or this time, whichever comes first."""

    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """A decision worth a line in the log: what, why, and the estimates it rests on."""

    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Nothing waits and nothing is under way, or nothing can be reached any more."""

    kind: ErrorKind | None = None
    """Why items are left waiting; None if none are."""
    reason: str = ""
    """The same for people, such as which budget would have been exceeded."""


Instruction = SendCall | SubmitJob | PollJob | CancelJob | Wait | Say | Finish
