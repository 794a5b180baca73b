"""Drives a strategy through a simulated world: what the engine does, with counts instead of items.

Every event and instruction is the real one; only the provider, the clock and the ledger are missing. The outcome says
how long the run took and what it cost.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.engine.simulation.world import Bucket, Future, JobFate, World
from embatch.events import (
    Arrived,
    CallEnded,
    CancelJob,
    Closed,
    Event,
    Finish,
    Instruction,
    JobAccepted,
    JobEnded,
    JobRefused,
    JobSeen,
    PollJob,
    Say,
    SendCall,
    Started,
    SubmitJob,
    Tick,
    Wait,
)
from embatch.remote import ErrorKind, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.decisions.strategy import Strategy
    from embatch.remote import Prices

_POLL_S, _SUBMIT_S = 0.4, 1.0
_REFUSED_S, _FAILED_S = 0.15, 0.6
_REFUSED_SHARE = 0.9  # of calls that are refused during a burst of overload
_MOST_EVENTS = 2_000_000
_LONGEST_S = 35 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to."""

    seconds: float
    """Until the strategy said that it was over."""
    dollars: float
    done: int
    failed: int
    left: int
    """Items without an answer."""
    calls: int
    jobs: int
    cancelled: int
    events: int
    finish: Finish
    said: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every item was answered."""
        return self.left == 0

    def cost(self, hour_worth: float) -> float:
        """Price and waiting, in dollars."""
        return self.dollars + hour_worth * self.seconds / 3600


@dataclass(slots=True)
class _Job:
    items: int
    tokens: int
    accepted: float
    fate: JobFate
    cancelled: float | None = None
    ends: float = math.inf


class Simulation:
    """One run.

    Args:
        world: the provider.
        prices: of a million tokens.
        items: that arrive at the start.
        item_tokens: of each, as estimated.
        arrivals: (seconds, items) that arrive later; the run is closed after the last.
        luck: which draws single calls get, of a world that is otherwise the same.
        watch: called with each event and the instructions that followed, for tests.
    """

    def __init__(
        self,
        world: World,
        prices: Prices | None,
        *,
        items: int,
        item_tokens: int,
        arrivals: tuple[tuple[float, int], ...] = (),
        luck: int = 0,
        watch: Callable[[Event, list[Instruction]], None] | None = None,
    ) -> None:
        self.world = world
        self.future = Future(world)
        self.now = 0.0
        self.waiting = 0
        self.done = self.failed = 0
        self.dollars = 0.0
        self.calls_sent = self.jobs_sent = self.cancelled = 0
        self._prices = prices
        self._first = items
        self._item_tokens = item_tokens
        self._arrivals = arrivals
        self._watch = watch
        self._rng = random.Random(world.seed * 31_337 + 5)  # noqa: S311  # a simulation
        self._latency = random.Random(world.seed * 31_337 + 6 + luck * 1_000_003)  # noqa: S311  # a simulation
        quota = world.quota
        self._buckets = (Bucket(quota.requests), Bucket(quota.items), Bucket(quota.tokens))
        self._jobs: dict[int, _Job] = {}
        self._slots = [0.0] * world.slots
        self._refused: dict[int, int] = {}
        self._queue: list[tuple[float, int, Event | int]] = []
        self._number = 0
        self._events = 0
        self._until = 0.0
        self._finish: Finish | None = None
        self._said: list[str] = []

    def run(self, strategy: Strategy) -> Outcome:
        """Drive the strategy until it finishes.

        Raises:
            RuntimeError: it does not.
        """
        total = self._first + sum(items for _, items in self._arrivals)
        self._arrive(strategy, self._first)
        for at, items in self._arrivals:
            self._later(at, Arrived(now=at, items=items, tokens=items * self._item_tokens))
        if self._arrivals:
            self._later(self._arrivals[-1][0], Closed(now=self._arrivals[-1][0]))
        else:
            self._tell(strategy, Closed(now=0.0))
        while self._finish is None:
            self._step(strategy)
        return Outcome(
            seconds=self.now,
            dollars=self.dollars,
            done=self.done,
            failed=self.failed,
            left=total - self.done - self.failed,
            calls=self.calls_sent,
            jobs=self.jobs_sent,
            cancelled=self.cancelled,
            events=self._events,
            finish=self._finish,
            said=tuple(self._said),
        )

    def _arrive(self, strategy: Strategy, items: int) -> None:
        self.waiting += items
        self._tell(strategy, Arrived(now=self.now, items=items, tokens=items * self._item_tokens))

    def _step(self, strategy: Strategy) -> None:
        if self._events > _MOST_EVENTS or self.now > _LONGEST_S:
            raise RuntimeError(f"no end after {self._events} events and {self.now:.0f} s")
        if self._queue and self._queue[0][0] <= self._until:
            at, _, event = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            if isinstance(event, int):
                self._tell(strategy, self._polled(event))
                return
            if isinstance(event, Arrived):
                self.waiting += event.items
            elif isinstance(event, CallEnded):
                self._count(event.done, event.failed, event.back, event.cost)
            elif isinstance(event, JobRefused):
                self.waiting += self._refused.pop(event.id)
            self._tell(strategy, event)
            return
        self.now = max(self.now, self._until)
        self._tell(strategy, Tick(now=self.now))

    def _tell(self, strategy: Strategy, event: Event) -> None:
        events = deque([event])
        while events:
            self._events += 1
            now = events.popleft()
            wanted = strategy.handle(now)
            if self._watch is not None:
                self._watch(now, wanted)
            for instruction in wanted:
                answer = self._carry_out(instruction)
                if answer is not None:
                    events.append(answer)

    def _carry_out(self, instruction: Instruction) -> Event | None:
        match instruction:
            case SendCall():
                return self._send(instruction)
            case SubmitJob():
                return self._submit(instruction)
            case PollJob():
                self._later(self.now + _POLL_S, instruction.id)
            case CancelJob():
                self._cancel(instruction.id)
            case Wait():
                self._until = instruction.until
            case Say():
                self._said.append(instruction.text)
            case Finish():
                self._finish = instruction
        return None

    def _later(self, at: float, event: Event | int) -> None:
        self._number += 1
        heapq.heappush(self._queue, (at, self._number, event))

    def _count(self, done: int, failed: int, back: int, cost: float) -> None:
        self.done += done
        self.failed += failed
        self.waiting += back
        self.dollars += cost

    def _take(self, items: int, tokens: int) -> int:
        taken = min(items, self.waiting, max(1, tokens // self._item_tokens))
        self.waiting -= taken
        return taken

    # --- calls ------------------------------------------------------------------------------------------------

    def _send(self, asked: SendCall) -> Started:
        items = self._take(asked.items, asked.tokens)
        tokens = items * self._item_tokens
        if items:
            self.calls_sent += 1
            self._later_call(asked.id, items, tokens)
        return Started(now=self.now, id=asked.id, lane="individual", items=items, tokens=tokens)

    def _later_call(self, id_: int, items: int, tokens: int) -> None:
        used = self._used(tokens)
        amounts = (1, items, used)
        short = max(
            bucket.short(self.now, amount) for bucket, amount in zip(self._buckets, amounts, strict=True)
        )
        if short > 0:
            delay = short if self.world.says_delay else None
            self._fail_call(id_, items, tokens, ErrorKind.RATE_MINUTE, _REFUSED_S, delay)
            return
        for bucket, amount in zip(self._buckets, amounts, strict=True):
            bucket.take(amount)
        if self.future.overloaded(self.now) and self._rng.random() < _REFUSED_SHARE:
            self._fail_call(id_, items, tokens, ErrorKind.OVERLOADED, _FAILED_S, None)
            return
        seconds = call_seconds(self.world, self._latency, items, used)
        failed = self._few(items, self.world.bad_items)
        back = self._few(items - failed, self.world.row_faults)
        cost = self._price("individual", round(used * (items - back) / items))
        self._later(
            self.now + seconds,
            CallEnded(
                now=self.now + seconds, id=id_, seconds=seconds, done=items - failed - back, failed=failed,
                back=back, back_tokens=back * self._item_tokens, used_tokens=used, cost=cost,
            ),
        )  # fmt: skip

    def _fail_call(
        self, id_: int, items: int, tokens: int, kind: ErrorKind, seconds: float, delay: float | None
    ) -> None:
        end = self.now + seconds
        self._later(
            end,
            CallEnded(
                now=end, id=id_, seconds=seconds, done=0, back=items, back_tokens=tokens, kind=kind,
                retry_after_s=delay,
            ),
        )  # fmt: skip

    def _few(self, items: int, share: float) -> int:
        """A binomial draw, near enough."""
        mean = items * share
        if mean <= 0:
            return 0
        if items <= 30:
            return sum(self._rng.random() < share for _ in range(items))
        return max(0, min(items, round(self._rng.gauss(mean, math.sqrt(mean)))))

    def _used(self, tokens: int) -> int:
        items = max(1.0, tokens / self._item_tokens)
        noise = max(0.2, 1 + self.world.item_spread / math.sqrt(items) * self._rng.gauss(0, 1))
        return max(1, round(tokens * self.world.tokens_ratio * noise))

    def _price(self, lane: str, tokens: int) -> float:
        if self._prices is None:
            return 0.0
        return tokens * (self._prices.individual if lane == "individual" else self._prices.batch) / 1e6

    # --- jobs -------------------------------------------------------------------------------------------------

    def _submit(self, asked: SubmitJob) -> Started:
        items = self._take(asked.items, asked.tokens)
        tokens = items * self._item_tokens
        if items:
            self._later_job(asked.id, items, tokens)
        return Started(now=self.now, id=asked.id, lane="batch", items=items, tokens=tokens)

    def _later_job(self, id_: int, items: int, tokens: int) -> None:
        at = self.now + _SUBMIT_S
        world = self.world
        held = sum(job.tokens for job in self._jobs.values())
        full = world.enqueued_tokens is not None and held + tokens > world.enqueued_tokens
        crowded = world.concurrent is not None and len(self._jobs) >= world.concurrent
        if full or crowded:
            self._refused[id_] = items
            self._later(at, JobRefused(now=at, id=id_, kind=ErrorKind.ENQUEUED_FULL))
            return
        fate = self.future.fate(self.jobs_sent, at, items, self._slots)
        self._slots[fate.slot] = max(self._slots[fate.slot], min(fate.rows_end, at + world.expires_s))
        self._jobs[id_] = _Job(items, tokens, at, fate, ends=min(fate.end, at + world.expires_s))
        self.jobs_sent += 1
        self._later(at, JobAccepted(now=at, id=id_))

    def _cancel(self, id_: int) -> None:
        job = self._jobs.get(id_)
        if job is None or job.cancelled is not None:
            return
        self.cancelled += 1
        job.cancelled = self.now
        takes = self.world.cancel_s * math.exp(0.5 * self._rng.gauss(0, 1))
        job.ends = min(job.ends, self.now + takes)
        if job.fate.start > self.now:  # a place that it would have had is free again
            self._slots[job.fate.slot] = min(self._slots[job.fate.slot], self.now)
        self._later(job.ends + _POLL_S, id_)

    def _polled(self, id_: int) -> Event:
        job = self._jobs.get(id_)
        if job is None:
            return Tick(now=self.now)
        if self.now < job.ends:
            return self._seen(id_, job)
        return self._job_ended(id_, job)

    def _seen(self, id_: int, job: _Job) -> JobSeen:
        if job.cancelled is not None:
            state = JobState.CANCELLING
        elif self.now < job.fate.start:
            state = JobState.QUEUED
        else:
            state = JobState.RUNNING if self.now < job.fate.rows_end else JobState.FINALIZING
        rows = self._rows(job, self.now) if self.world.shows_rows else None
        return JobSeen(now=self.now, id=id_, state=state, completed=rows)

    def _rows(self, job: _Job, now: float) -> int:
        return max(0, min(job.items, int((now - job.fate.start) * job.fate.rate)))

    def _job_ended(self, id_: int, job: _Job) -> JobEnded:
        del self._jobs[id_]
        if job.ends >= job.fate.end:
            rows, state = job.items, JobState.SUCCEEDED
        elif job.cancelled is not None:
            rows, state = self._rows(job, job.cancelled), JobState.CANCELLED
        else:
            rows, state = self._rows(job, job.ends), JobState.EXPIRED
        kept = rows if state is JobState.SUCCEEDED or self.world.partial else 0
        failed = self._few(kept, self.world.bad_items)
        good = kept - failed - self._few(kept - failed, self.world.row_faults)
        billed = kept if kept or not self.world.bills_lost else rows
        used = self._used(round(job.tokens * billed / job.items)) if billed else 0
        cost = self._price("batch", used)
        back = job.items - good - failed
        self._count(good, failed, back, cost)
        return JobEnded(
            now=self.now, id=id_, state=state, seconds=self.now - job.accepted, done=good, failed=failed,
            back=back, back_tokens=back * self._item_tokens, used_tokens=used, cost=cost,
        )  # fmt: skip


def call_seconds(world: World, rng: random.Random, items: int, tokens: int) -> float:
    """The duration of the next call that is answered."""
    seconds = world.call_s * math.exp(world.call_spread * rng.gauss(0, 1))
    seconds += items * world.item_s + tokens / 1000 * world.ktoken_s
    if rng.random() < world.stall:
        seconds += rng.uniform(*world.stall_s)
    return seconds
