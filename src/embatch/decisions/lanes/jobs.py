"""The jobs of a run: which are under way, when to look at them, and what refusals have taught.

A part of the strategy's state. It decides when to poll, and whether another job may be submitted now; not whether one
should be.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.decisions.lanes.absence import AGAIN_S
from embatch.decisions.lanes.regimes import Pending
from embatch.remote import ErrorKind, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.decisions.latency import Beliefs
    from embatch.events import JobEnded, JobRefused, JobSeen
    from embatch.remote import JobLimits

_FIRST_POLL_S, _LEAST_S, _MOST_S = 3.0, 2.0, 60.0
_AGE_SHARE = 1 / 20  # of its age: a job is noticed a fortieth of its time late, in the mean
_REST_SHARE = 1 / 4  # of the time that it is expected to take still
_POLLS_PER_S = 0.5  # of all jobs together
_REFUSALS = 8  # in a row, then the lane is closed
_FRUITLESS = 3  # jobs that ended without any result, in a row
_BACKOFF_S, _MOST_BACKOFF_S = 5.0, 900.0
_FULL_BACKOFF_S = 30.0
_CLEARS_S, _GROWTH = 900.0, 1.3  # a queue that was full so long ago may take so many times more
_BACKS_OFF = frozenset(
    {
        ErrorKind.RATE_MINUTE,
        ErrorKind.OVERLOADED,
        ErrorKind.TIMEOUT,
        ErrorKind.CONNECTION,
        ErrorKind.PROTOCOL,
        ErrorKind.ENQUEUED_FULL,
    }
)


@dataclass(slots=True, kw_only=True)
class Job:
    """One job that was submitted and has not ended."""

    id: int
    submitted: float
    items: int
    tokens: int
    accepted: float | None = None
    state: JobState = JobState.SUBMITTED
    running: float | None = None
    """When it was first seen to run."""
    completed: int | None = None
    next_poll: float = math.inf
    polling: bool = False
    cancelled: float | None = None
    lost: int = 0
    """Polls in a row that brought nothing."""


@dataclass(slots=True)
class JobLane:
    """The jobs under way.

    Args:
        limits: of the provider.
        beliefs: how long jobs take.
        most_items: of a job, if the caller wants fewer than the provider takes.
    """

    limits: JobLimits | None
    beliefs: Beliefs
    most_items: int | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    closed: ErrorKind | None = None
    """Why no more jobs can be submitted in this run."""
    not_before: float = -math.inf
    """When the next may be submitted, after a refusal."""
    refusals: int = 0
    """In a row."""
    refused_since: float = math.inf
    """When the first of these was refused."""
    answered: bool = False
    """Whether the provider has ever taken a job: then an outage is waited out."""
    fruitless: int = 0
    """Jobs in a row that ended without any result."""
    queue_tokens: float = math.inf
    """What all jobs together may hold, as learned or known."""
    last_kind: ErrorKind | None = None
    refused_at: float = -math.inf
    """When the queue was full last."""
    backed_off: float = -math.inf
    """When a job was refused last."""
    served: float = -math.inf
    """When the latest job that has run or ended well was accepted: older ones wait for each other."""

    _polls: list[tuple[float, int]] = field(default_factory=list)
    """When to look at which job, soonest first; those that no longer hold are skipped."""

    def __post_init__(self) -> None:
        self.queue_tokens = self._known_queue()

    @property
    def items(self) -> int:
        """In all jobs."""
        return sum(job.items for job in self.jobs.values())

    @property
    def tokens(self) -> int:
        """In all jobs."""
        return sum(job.tokens for job in self.jobs.values())

    @property
    def open(self) -> bool:
        """Whether jobs can be submitted at all."""
        return self.limits is not None and self.closed is None

    def _known_queue(self) -> float:
        known = self.limits.enqueued_tokens if self.limits is not None else None
        return math.inf if known is None else float(known)

    def lost(self, polls: int) -> bool:
        """Whether so many polls in a row brought nothing, of every job."""
        return all(job.lost >= polls for job in self.jobs.values())

    def job_items(self) -> float:
        """Most items of one job."""
        bounds = (self.limits.items if self.limits else None, self.most_items)
        return min((float(x) for x in bounds if x is not None), default=math.inf)

    def room(self) -> float:
        """Jobs that may be submitted beside those under way."""
        most = self.limits.concurrent if self.limits and self.limits.concurrent is not None else math.inf
        return max(0.0, most - len(self.jobs))

    def room_tokens(self) -> float:
        """Tokens that another job may hold now."""
        return max(0.0, self.queue_tokens - self.tokens)

    # --- what happens -----------------------------------------------------------------------------------------

    def started(self, id_: int, now: float, items: int, tokens: int) -> None:
        """A job is being submitted."""
        self.jobs[id_] = Job(id=id_, submitted=now, items=items, tokens=tokens)

    def accepted(self, id_: int, now: float, *, age_s: float = 0.0) -> None:
        """The provider has it."""
        job = self.jobs.get(id_)
        if job is not None:
            job.accepted = now - age_s
            if self.refusals == 0 and now - self.refused_at > _CLEARS_S:
                self.queue_tokens = min(self._known_queue(), self.queue_tokens * _GROWTH)
                self.refused_at = now
            self._poll_at(job, now + (_FIRST_POLL_S if age_s <= 0 else 0.0))
            self.refusals, self.refused_since, self.answered = 0, math.inf, True

    def refused(self, event: JobRefused, draw: float) -> Job | None:
        """The provider does not take it."""
        job = self.jobs.pop(event.id, None)
        if job is None:
            return None
        self._back_off(event.now, event.kind, job, event.retry_after_s, draw)
        return job

    def seen(self, event: JobSeen) -> bool:
        """Take a poll's answer; whether it tells something new."""
        job = self.jobs.get(event.id)
        if job is None:
            return False
        job.polling = False
        before = job.state
        if event.state is JobState.UNKNOWN:
            job.lost += 1
        else:
            job.lost = 0
            job.state = event.state
            job.completed = event.completed if event.completed is not None else job.completed
            works = event.state in {JobState.RUNNING, JobState.FINALIZING}
            if job.running is None and (works or (job.completed or 0) > 0):
                job.running = event.now
        self._poll_at(job, event.now + self._interval(job, event.now))
        return job.state is not before

    def ended(self, event: JobEnded, draw: float) -> Job | None:
        """A job is over."""
        job = self.jobs.pop(event.id, None)
        if job is None:
            return None
        if job.cancelled is not None:
            if job.accepted is not None:
                self.beliefs.observe_cancel(event.now - job.cancelled)
        elif event.state is JobState.EXPIRED:
            self.beliefs.remember(event.now, [self._pending(job, event.now, None)])
        elif event.state in {JobState.SUCCEEDED, JobState.PARTIAL} and event.done + event.failed > 0:
            queued_s = None
            if job.running is not None and job.accepted is not None:
                queued_s = max(1.0, job.running - job.accepted)
            self.beliefs.observe_job(event.now, job.items, event.seconds, queued_s=queued_s)
            self.served = max(self.served, job.accepted or -math.inf)
        if event.done + event.failed > 0:
            self.fruitless = 0
        elif job.cancelled is None:
            self._fruitless(event, job, draw)
        self.not_before = min(self.not_before, event.now) if event.done else self.not_before
        return job

    def _fruitless(self, event: JobEnded, job: Job, draw: float) -> None:
        if event.kind is not None:
            self._back_off(event.now, event.kind, job, None, draw)
        if event.kind is not ErrorKind.ENQUEUED_FULL:
            self.fruitless += 1
            if self.fruitless >= _FRUITLESS and self.closed is None:
                self.closed = event.kind or ErrorKind.PROTOCOL

    def _back_off(
        self, now: float, kind: ErrorKind, job: Job, retry_after_s: float | None, draw: float
    ) -> None:
        news = job.submitted >= self.backed_off  # those submitted before that say nothing new
        self.refusals += news
        self.refused_since = min(self.refused_since, now)
        self.last_kind = kind
        if kind is ErrorKind.ENQUEUED_FULL:
            self.refused_at = now
            held = sum(other.tokens for other in self.jobs.values() if other.accepted is not None)
            learned = max(float(held), (held + job.tokens) / 2)
            self.queue_tokens = min(self.queue_tokens, max(1.0, learned))
        elif kind in {ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS}:
            self.most_items = max(1, job.items // 2)
        elif kind not in _BACKS_OFF:  # its content would be refused again: calls find out what is to blame
            self.closed = kind
        outage = self.answered and kind is not ErrorKind.ENQUEUED_FULL and kind in _BACKS_OFF
        if (
            self.refusals >= _REFUSALS
            and not self.jobs
            and (now - self.refused_since >= AGAIN_S or not outage)
        ):
            self.closed = kind
        self.backed_off = now
        if not news:
            self.not_before = max(self.not_before, now + (retry_after_s or 0.0))
            return
        base = _FULL_BACKOFF_S if kind is ErrorKind.ENQUEUED_FULL else _BACKOFF_S
        span = 0.0 if kind.splits else min(_MOST_BACKOFF_S, base * 2.0 ** (self.refusals - 1))
        self.not_before = now + max(span * (0.5 + 0.5 * draw), retry_after_s or 0.0)

    # --- polls and cancelling ---------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[int]:
        """Jobs to look at now."""
        while self.next_poll() <= now:
            _, id_ = heapq.heappop(self._polls)
            self.jobs[id_].polling = True
            yield id_

    def next_poll(self) -> float:
        """When the next is due."""
        while self._polls:
            at, id_ = self._polls[0]
            job = self.jobs.get(id_)
            if job is not None and not job.polling and job.next_poll == at:
                return at
            heapq.heappop(self._polls)
        return math.inf

    def _poll_at(self, job: Job, at: float) -> None:
        job.next_poll = at
        heapq.heappush(self._polls, (at, job.id))

    def cancel(self, now: float) -> list[int]:
        """Mark all jobs that the provider has as cancelled; those that were not yet."""
        found = [job for job in self.jobs.values() if job.accepted is not None and job.cancelled is None]
        for job in found:
            job.cancelled = now
            self._poll_at(job, now + _LEAST_S)
        return [job.id for job in found]

    def idle(self) -> list[int]:
        """Jobs whose rows nobody works on yet, so that they can be cancelled free of charge."""
        return [job.id for job in self.jobs.values() if job.running is None]

    def pending(self, now: float) -> tuple[Pending, ...]:
        """The jobs as beliefs want to know them."""
        works = [job for job in self.jobs.values() if job.running is not None and job.cancelled is None]
        waits = [job for job in self.jobs.values() if job.running is None and job.cancelled is None]
        behind = self._behind(works, waits)
        return tuple(self._pending(job, now, behind.get(job.id)) for job in self.jobs.values())

    def _behind(self, works: list[Job], waits: list[Job]) -> dict[int, float]:
        """Seconds that jobs wait for others of this run: those accepted before or with one that runs already.

        Once none runs, those that still wait do so for the provider.
        """
        if not works:
            return {}
        since = max((job.accepted or 0.0 for job in works), default=-math.inf)
        since = max(since, self.served)
        mine = [job for job in waits if job.accepted is not None and job.accepted <= since]
        if not mine:
            return {}
        wide = max(1, len(works))
        rows = self.beliefs.rows.median
        first = sum(job.items - (job.completed or 0) for job in works) / rows / wide / 2
        found, ahead = {}, 0.0
        for job in mine:
            found[job.id] = first + ahead
            ahead += job.items / rows / wide
        return found

    def _pending(self, job: Job, now: float, behind_s: float | None) -> Pending:
        ending = None
        if job.cancelled is not None:
            ending = max(2.0, self.beliefs.cancel.median)
        return Pending(
            items=job.items,
            age_s=0.0 if job.accepted is None else max(0.0, now - job.accepted),
            running_s=None if job.running is None else max(0.0, now - job.running),
            completed=job.completed,
            ending_s=ending,
            behind_s=behind_s,
        )

    def _interval(self, job: Job, now: float) -> float:
        """Seconds until the next look: a share of the job's age, less when it is expected to end."""
        if job.cancelled is not None:
            return min(_MOST_S, max(_LEAST_S, (now - job.cancelled) / 8))
        age_s = 0.0 if job.accepted is None else now - job.accepted
        span = age_s * _AGE_SHARE
        if job.running is not None:
            run_s = now - job.running
            if job.completed and run_s > 0:
                rest_s = (job.items - job.completed) * run_s / job.completed
            else:
                rest_s = job.items / self.beliefs.rows.median - run_s
            span = max(span, rest_s * _REST_SHARE)
        elif any(other.running is not None for other in self.jobs.values()):
            span *= 2  # it waits for others of this run: its end is not near
        if job.lost:
            span = max(span, 5.0 * 2.0 ** min(job.lost, 5))
        crowd = len(self.jobs) / _POLLS_PER_S
        return max(crowd, min(_MOST_S, max(_LEAST_S, span)))
