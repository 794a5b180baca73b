"""One asynchronous job and its way through time: validating, waiting, running, finalising, and the ways it can end.

Sans-IO: a job is advanced to `now` through the regimes that all jobs share, and its turning points come out exact,
however seldom anybody looks. Leaves out rows and their outcomes (`rows`, `outcomes`) and how a job looks on the wire.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import random

    from embatch.emulator.catalog import ProviderName, Verb
    from embatch.emulator.options import JobTimes, RegimeName
    from embatch.emulator.timing import Regimes

Phase = Literal["validating", "waiting", "running", "finalizing"]
State = Literal[
    "validating",
    "waiting",
    "running",
    "finalizing",
    "cancelling",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
]
PHASES: tuple[Phase, ...] = ("validating", "waiting", "running", "finalizing")
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "expired"})
_HOUR = 3600.0
_EXPIRES_S = {"gemini": 48 * _HOUR, "openai": 24 * _HOUR}
_VALIDATE_S = {"gemini": 0.0, "openai": 3.0}
# Parts of a fixed job time, by phase.
_FIXED = {"validating": 0.05, "waiting": 0.25, "running": 0.6, "finalizing": 0.1}


@dataclass(slots=True, kw_only=True)
class Job:
    """One job. Times are virtual seconds; None: not yet, or never."""

    id: str
    provider: ProviderName
    verb: Verb
    model: str
    created: float
    updated: float
    """How far it was advanced."""
    expires: float
    tag: str = ""
    """The display name; at OpenAI, all values of the metadata, one a line."""
    metadata: dict[str, str] | None = None
    source: str = ""
    """The file that its rows came in; empty if they came inline."""
    endpoint: str = ""
    priority: int = 0
    window: str = "24h"
    rows: int = 0
    items: int = 0
    """Texts in all rows."""
    tokens: int = 0
    durations: dict[str, float] = field(default_factory=dict)
    """Seconds by phase; `waiting:busy` is the wait in busy hours. Nothing but cancelling goes on in stuck ones."""
    cancel_s: float = 0.0
    quirks: dict[str, float] = field(default_factory=dict)
    """Faults that were scripted for it, with their delays."""
    state: State = "validating"
    done: float = 0.0
    """Share of the phase it is in."""
    reason: dict[str, Any] | None = None
    """Why it failed, or is going to, in the provider's words."""
    hidden_until: float = 0.0
    """From lists."""
    deleted: bool = False
    good: int = 0
    """Rows with a result; counted when it has ended, as are the next two."""
    bad: int = 0
    used_tokens: int = 0
    """Of rows with a result."""
    output_tokens: int = 0
    output: str = ""
    """The file with its results."""
    errors: str = ""
    """OpenAI's file with rows that failed."""
    running_at: float | None = None
    finalizing_at: float | None = None
    cancelling_at: float | None = None
    ended_at: float | None = None
    kept: int | None = None
    """Rows that were done when it was cancelled or expired."""

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self.state in ENDED

    @property
    def completed(self) -> int:
        """Rows that were processed so far."""
        if self.state == "running":
            return math.floor(self.rows * self.done)
        if self.kept is not None:
            return self.kept
        return self.rows if self.state in {"finalizing", "succeeded"} else 0

    def to_record(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Back from plain data."""
        return cls(**record)


def plan(job: Job, times: JobTimes, draw: random.Random) -> None:
    """Draw how long the job will take, phase by phase."""
    job.expires = job.created + (_EXPIRES_S[job.provider] if times.expires_s is None else times.expires_s)
    job.cancel_s = times.cancel_s
    noise = draw.gauss()
    rate, finalise = draw.uniform(*times.rows_s), draw.uniform(*times.finalise_s)
    if times.fixed_s is not None:
        job.durations = {phase: share * times.fixed_s for phase, share in _FIXED.items()}
        job.durations["waiting:busy"] = job.durations["waiting"]
        return
    job.durations = {
        "validating": _VALIDATE_S[job.provider] if times.validate_s is None else times.validate_s,
        "waiting": times.good_wait_s * math.exp(times.good_sigma * noise),
        "waiting:busy": times.busy_wait_s * math.exp(times.busy_sigma * noise),
        "running": job.rows / rate,
        "finalizing": finalise,
    }


def advance(job: Job, now: float, regimes: Regimes) -> bool:
    """Bring the job up to `now`. Says whether its state changed."""
    before = job.state
    while not job.ended and _step(job, now, regimes):
        pass
    job.updated = max(job.updated, now)
    return job.state != before


def cancel(job: Job, now: float) -> None:
    """Ask for its end; what was done by now is what is kept. With the quirk `cancel_race` it completes all the same."""
    if not job.ended and job.state != "cancelling":
        job.kept = job.completed
        job.state, job.cancelling_at = "cancelling", now


def _step(job: Job, now: float, regimes: Regimes) -> bool:
    """Go on to the next turning point, at most to `now`. Says whether there may be another one before it."""
    if job.state == "cancelling":
        due = (job.cancelling_at or 0.0) + job.cancel_s
        if now < due:
            return False
        race = "cancel_race" in job.quirks
        job.kept = None if race else job.kept
        _end(job, "succeeded" if race else "cancelled", due)
        return False
    until = min(now, job.expires)
    regime, regime_end = regimes.at(job.updated)
    stop = min(until, regime_end)
    takes = _takes(job, regime)
    limit = _limit(job)
    need = (limit - job.done) * takes if takes < math.inf else math.inf
    if job.updated + need <= stop and limit >= 1.0:
        job.updated += need
        _turn(job)
        return True
    job.done = min(limit, job.done + max(0.0, stop - job.updated) / takes) if takes > 0 else limit
    job.updated = max(job.updated, stop)
    if job.updated >= job.expires:
        job.kept = job.completed
        _end(job, "expired", job.expires)
        return False
    return job.updated < now


def _takes(job: Job, regime: RegimeName) -> float:
    """Seconds of the phase it is in, while a regime holds."""
    if regime == "stuck" and job.state != "finalizing":
        return math.inf
    if job.state == "waiting" and regime == "busy":
        return job.durations["waiting:busy"]
    return job.durations[job.state]


def _limit(job: Job) -> float:
    """How far the phase it is in can get: a stuck job never leaves its queue, one bound to expire stops half way."""
    if "job_stuck" in job.quirks and job.state == "waiting":
        return 0.0
    if "job_expires" in job.quirks and job.state == "running":
        return 0.5
    return 1.0


def _turn(job: Job) -> None:
    """From one phase into the next."""
    at = job.updated
    job.done = 0.0
    last = "validating" if job.provider == "openai" else "waiting"
    if job.reason is not None and job.state == last:
        _end(job, "failed", at)
    elif job.state == "validating":
        job.state = "waiting"
        if job.provider == "openai":  # it says in_progress from here on
            job.running_at = at
    elif job.state == "waiting":
        job.state = "running"
        job.running_at = at if job.running_at is None else job.running_at
    elif job.state == "running":
        job.state, job.finalizing_at = "finalizing", at
    else:
        _end(job, "succeeded", at)


def _end(job: Job, state: State, at: float) -> None:
    job.state, job.ended_at, job.updated = state, at, at
