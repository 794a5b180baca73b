"""Tells an observer what a run over a provider does: its calls, its jobs, its pauses, its decisions.

It listens to what driver and strategy say to each other, and knows nothing else of the run. What it tells is for
reports; the run does not depend on it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from embatch.events import (
    CallEnded,
    JobAccepted,
    JobAttached,
    JobEnded,
    JobRefused,
    JobSeen,
    Say,
    Started,
    Wait,
)
from embatch.seen_lanes import CallSeen, DecisionSeen, LaneSeen, OutlookSeen, PauseSeen
from embatch.seen_lanes import JobSeen as StageSeen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.decisions.costs import LaneOutlook
    from embatch.decisions.lanes.absence import Absence
    from embatch.engine.lanes.clock import Clock
    from embatch.events import Event, Instruction
    from embatch.seen_lanes import JobStage, RunObserver
    from embatch.types import LaneReport

_LEAST_PAUSE_S = 0.05  # of the run's time: less is no wait, but a step
_DECISION_CHARS = 400


class LaneTeller:
    """What one run tells.

    Args:
        observer: is told.
        clock: of the run.
    """

    def __init__(self, observer: RunObserver, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self._calls: dict[int, Started] = {}
        self._jobs: dict[int, tuple[str, int | None]] = {}  # what was told of each last
        self._submitting: dict[int, Started] = {}
        self._paused: float | None = None  # since when, by the run's clock
        self._reason = ""

    def begin(self, report: LaneReport, items: int, tokens: int) -> None:
        """The run begins to send what waits."""
        at = self._wall(self._clock.now())
        self._observer.see(
            LaneSeen(at=at, run_id=report.run_id, strategy=report.strategy, items=items, tokens=tokens)
        )

    def take(self, event: Event, instructions: Sequence[Instruction], absence: Absence) -> None:
        """An event, and what the strategy asked for upon it."""
        match event:
            case Started():
                self._started(event)
            case CallEnded():
                self._call_ended(event)
            case JobAttached():
                self._stage(event.now, event.id, "attached", items=event.items, age_s=event.age_s)
                self._jobs[event.id] = ("", None)
            case JobAccepted():
                self._stage(event.now, event.id, "accepted", items=self._items(event.id))
                self._jobs[event.id] = ("", None)
            case JobRefused():
                self._stage(
                    event.now, event.id, "refused", items=self._items(event.id), error=str(event.kind)
                )
                self._submitting.pop(event.id, None)
            case JobSeen():
                self._job_seen(event)
            case JobEnded():
                self._job_ended(event)
            case _:
                pass
        for instruction in instructions:
            if isinstance(instruction, Say):
                self._observer.see(
                    DecisionSeen(at=self._wall(event.now), text=instruction.text[:_DECISION_CHARS])
                )
        self._pause(event.now, instructions, absence)

    def _started(self, event: Started) -> None:
        if not event.items:
            return
        if event.lane == "individual":
            self._calls[event.id] = event
        else:
            self._submitting[event.id] = event
            self._stage(event.now, event.id, "submitted", items=event.items)

    def _call_ended(self, event: CallEnded) -> None:
        started = self._calls.pop(event.id, None)
        begun = event.now - event.seconds if started is None else started.now
        self._observer.see(
            CallSeen(
                at=self._wall(begun),
                seconds=self._clock.real(event.now - begun),
                items=event.done + event.failed + event.back if started is None else started.items,
                done=event.done,
                failed=event.failed,
                back=event.back,
                tokens=event.used_tokens,
                dollars=event.cost,
                error="" if event.kind is None else str(event.kind),
                retry_after_s=event.retry_after_s,
            )
        )

    def _job_seen(self, event: JobSeen) -> None:
        known = (str(event.state), event.completed)
        if self._jobs.get(event.id) == known:
            return  # a record need not hold every poll
        self._jobs[event.id] = known
        self._stage(
            event.now,
            event.id,
            "seen",
            state=str(event.state),
            items=self._items(event.id),
            completed=event.completed,
        )

    def _job_ended(self, event: JobEnded) -> None:
        self._jobs.pop(event.id, None)
        self._submitting.pop(event.id, None)
        self._observer.see(
            StageSeen(
                at=self._wall(event.now),
                id=event.id,
                stage="ended",
                state=str(event.state),
                items=event.done + event.failed + event.back,
                done=event.done,
                failed=event.failed,
                back=event.back,
                tokens=event.used_tokens,
                dollars=event.cost,
                error="" if event.kind is None else str(event.kind),
            )
        )

    def _stage(  # what may be known of a stage, each by name
        self,
        now: float,
        id_: int,
        stage: JobStage,
        *,
        state: str = "",
        items: int = 0,
        completed: int | None = None,
        error: str = "",
        age_s: float = 0.0,
    ) -> None:
        self._observer.see(
            StageSeen(
                at=self._wall(now),
                id=id_,
                stage=stage,
                state=state,
                items=items,
                completed=completed,
                error=error,
                age_s=self._clock.real(age_s),
            )
        )

    def _pause(self, now: float, instructions: Sequence[Instruction], absence: Absence) -> None:
        """A pause begins when nothing is under way and the strategy waits, and ends when something starts."""
        idle = not self._calls and not self._jobs and not self._submitting
        waits = any(isinstance(one, Wait) and one.until - now > _LEAST_PAUSE_S for one in instructions)
        if self._paused is None and idle and waits:
            words, _, _ = absence.words(now).rpartition(" for ")  # without for how long
            self._paused, self._reason = now, words or "waits for a quota"
        elif self._paused is not None and not idle:
            seconds = self._clock.real(now - self._paused)
            if seconds >= self._clock.real(_LEAST_PAUSE_S):
                self._observer.see(
                    PauseSeen(at=self._wall(self._paused), seconds=seconds, reason=self._reason)
                )
            self._paused = None

    def _items(self, id_: int) -> int:
        started = self._submitting.get(id_)
        return 0 if started is None else started.items

    def _wall(self, now: float) -> float:
        """The world's time of a moment of the run."""
        clock = self._clock
        return clock.real(clock.wall()) - clock.real(clock.now() - now)


def tell_outlook(observer: RunObserver, found: Sequence[LaneOutlook], *, priced: bool) -> None:
    """What is to be expected of each way to send everything."""
    for one in found:
        observer.see(
            OutlookSeen(
                at=time.time(),
                strategy=one.strategy,
                call_items=one.call_items,
                job_items=one.job_items,
                seconds=one.seconds_p50,
                seconds_p10=one.seconds_p10,
                seconds_p90=one.seconds_p90,
                dollars=one.dollars if priced else None,
                afforded=one.afforded,
            )
        )
