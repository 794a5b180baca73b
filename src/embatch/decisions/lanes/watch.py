"""A strategy under bounds that its caller sets.

It stands between the engine and `strategy`: events go through, and what comes back is changed in two places. Jobs are
looked at in fixed steps if that is wanted, and a run that has waited long enough ends, with its jobs left as they are.
It decides nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.errors import StillRunningError
from embatch.events import Finish, JobAccepted, JobAttached, JobEnded, JobRefused, JobSeen, PollJob, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.decisions.strategy import Estimate, Strategy
    from embatch.events import Event, Instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a caller may set. Times in seconds."""

    poll_s: float | None = None
    """Between two looks at a job; None: the older the job, the longer."""
    patience_s: float | None = None
    """After which a run that is not done ends with `StillRunningError`; None: it waits as long as it takes."""


class Watch:
    """A strategy, watched. Used in its place.

    Args:
        strategy: what decides.
        bounds: see there.
        now: seconds on the clock of all events.
        jobs: the provider's names of the jobs under way, for the message of an end before the end.
    """

    def __init__(
        self,
        strategy: Strategy,
        bounds: Bounds,
        *,
        now: float,
        jobs: Callable[[], Sequence[str]],
    ) -> None:
        self._strategy = strategy
        self._bounds = bounds
        self._jobs = jobs
        self._end = math.inf if bounds.patience_s is None else now + bounds.patience_s
        self._next_poll: dict[int, float] = {}
        self._polling: set[int] = set()

    def handle(self, event: Event) -> list[Instruction]:
        """As `Strategy.handle`.

        Raises:
            StillRunningError: the run has waited as long as it may.
        """
        self._take(event)
        wanted = self._strategy.handle(event)
        if not wanted or any(isinstance(one, Finish) for one in wanted):
            return wanted
        if event.now >= self._end:
            raise self._still_running()
        return self._bounded(wanted, event.now)

    def estimate(self, now: float) -> Estimate:
        """As `Strategy.estimate`."""
        return self._strategy.estimate(now)

    def _take(self, event: Event) -> None:
        match event:
            case JobAccepted() | JobSeen():
                self._polling.discard(event.id)
                self._next_poll[event.id] = event.now + (self._bounds.poll_s or 0.0)
            case JobAttached():
                self._next_poll[event.id] = event.now
            case JobEnded() | JobRefused():
                self._polling.discard(event.id)
                self._next_poll.pop(event.id, None)
            case _:
                pass

    def _bounded(self, wanted: list[Instruction], now: float) -> list[Instruction]:
        until = self._end
        if self._bounds.poll_s is not None:
            wanted = [one for one in wanted if not isinstance(one, PollJob)]
            for id_, at in self._next_poll.items():
                if id_ not in self._polling and at <= now:
                    self._polling.add(id_)
                    wanted.insert(0, PollJob(id=id_))
            rest = (at for id_, at in self._next_poll.items() if id_ not in self._polling)
            until = min(until, min(rest, default=math.inf))
        return [Wait(until=min(one.until, until)) if isinstance(one, Wait) else one for one in wanted]

    def _still_running(self) -> StillRunningError:
        jobs = tuple(self._jobs())
        waited = f"not done after {self._bounds.patience_s:g} s"
        if not jobs:
            return StillRunningError(f"{waited}: no job of this run was accepted yet", jobs)
        names = ", ".join(jobs[:3]) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")
        what = "job" if len(jobs) == 1 else "jobs"
        return StillRunningError(f"{waited}: {what} {names} still under way at the provider", jobs)
