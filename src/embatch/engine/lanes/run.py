"""The driver: carries the strategy's instructions out and tells it what came of them.

One thread, the caller's, decides, keeps the ledger and stores results; worker threads talk to the provider. What waits
lies in the ledger, except groups: units that must be sent in calls of their own, because something among them was
refused. It chooses no lane, reads no source and writes no output.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.lanes.absence import Absence
from embatch.decisions.lanes.words import span
from embatch.engine.lanes import requests
from embatch.engine.lanes.calls import Calls
from embatch.engine.lanes.failures import ATTEMPTS
from embatch.engine.lanes.jobs import Jobs
from embatch.engine.lanes.telling import LaneTeller
from embatch.engine.lanes.workers import Workers
from embatch.errors import EmbatchError, GoalError, ProviderError
from embatch.events import (
    Arrived,
    CallEnded,
    CancelJob,
    Closed,
    Finish,
    PollJob,
    Say,
    SendCall,
    SubmitJob,
    Tick,
    Wait,
)
from embatch.remote import ErrorKind, Generated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from embatch.decisions.packing_calls import LearnedCaps, TokenRatio
    from embatch.decisions.strategy import Strategy
    from embatch.engine.lanes.clock import Clock
    from embatch.engine.lanes.ledger import LaneLedger
    from embatch.engine.lanes.requests import CallReport, PollReport, SubmitReport
    from embatch.errors import ItemError
    from embatch.events import Event, Instruction
    from embatch.remote import Lane, Provider, Unit, Work
    from embatch.seen_lanes import RunObserver
    from embatch.types import FloatArray, LaneReport

    Post = CallReport | SubmitReport | PollReport
    Result = FloatArray | Generated
    Put = Callable[[Sequence[Unit], Sequence[Result]], None]

_log = logging.getLogger(__name__)

_WORKERS = 128
_CUT_TO, _LEAST_CHARS = (
    0.8,
    16,
)  # a text refused as too long keeps this share, as long as it has more than so many
_SHARED_S = 0.05  # how often a run with nothing under way looks whether another one has left it room
_LONG_S = 2.0  # of the provider's time: a wait that is worth a word
_LOOK_S = 0.5  # of the world, between two estimates of the time left
_LAST_ANSWERS_S = 5.0  # how long an interrupted run waits for answers that are paid for already


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneParts:
    """What a run is made of; the same objects may serve several runs, one after the other."""

    provider: Provider
    work: Work
    ledger: LaneLedger
    strategy: Strategy
    caps: LearnedCaps
    ratio: TokenRatio
    clock: Clock
    report: LaneReport
    put: Put
    """Keeps results; when it returns, a kill loses none of them."""
    dimensions: int | None = None
    """Of each vector; None for answers in text, 0 for as many as the first vector has."""
    attempts: int = ATTEMPTS
    """Fruitless calls after which a text is tried alone, and then given up."""
    cut: bool = False
    """Whether a text that the provider refuses as too long is cut until it fits, instead of failing."""
    deciding: AbstractContextManager[object] = field(default_factory=threading.RLock)
    """Held from an event until all that it leads to is begun: runs at the same time share a pacer and beliefs."""
    observer: RunObserver | None = None
    """Is told of calls, jobs, pauses and decisions."""


class LaneRun:
    """Send what waits in the ledger, until all of it is done, failed, or cannot be sent."""

    def __init__(self, parts: LaneParts) -> None:
        self.done = 0
        """Units that ended in this run, with a result or without."""
        self.dimensions = parts.dimensions
        """Of each vector, once that is known."""
        self.left_s: float | None = None
        """Seconds of the world until the end, as expected a moment ago."""
        self._looked = 0.0
        self._parts = parts
        self._workers = Workers(_WORKERS)
        # Not a SimpleQueue: its `get` waits for ever if the rest of a short timeout is over when it looks again.
        self._posts: queue.Queue[Post] = queue.Queue()
        self._untaken: dict[int, Post] = {}  # by identity: in the queue, or torn from hand by Ctrl-C
        self._posting = threading.Lock()
        self._over = False  # nobody takes a post any more
        self._calls = Calls(self)
        self._jobs = Jobs(self)
        self._until = parts.clock.now()
        self._finished: Finish | None = None
        self._fatal: ProviderError | None = None
        self._last_error: dict[ErrorKind, ProviderError] = {}
        self.absence = Absence()
        self._teller = LaneTeller(parts.observer, parts.clock) if parts.observer is not None else None

    # --- what the parts of a run share ------------------------------------------------------------------------

    @property
    def jobs_under_way(self) -> int:
        """Jobs that the provider has."""
        return self._jobs.accepted

    @property
    def waits_for(self) -> str:
        """What holds the run up right now, in a few words; empty if nothing does. May be asked from any thread."""
        now = self._parts.clock.now()
        words = "" if self._finished is not None else self.absence.words(now)
        busy = self._calls.under_way or self._jobs.items or self._finished is not None
        if words or busy or self._until - now < _LONG_S:
            return words
        return "waits for a quota"

    @property
    def parts(self) -> LaneParts:
        """What it is made of."""
        return self._parts

    def begin(self, task: Callable[[], Post]) -> None:
        """Run a request in a thread; its report comes back to the driver. It must raise nothing."""

        def work() -> None:
            post = task()
            with self._posting:
                if not self._over:
                    self._untaken[id(post)] = post
                    self._posts.put(post)
                    return
            _drop(post)

        self._workers.begin(work)

    def begin_quietly(self, task: Callable[[], None]) -> None:
        """Run something in a thread that nobody waits for, and whose errors do not matter."""

        def quietly() -> None:
            try:
                task()
            except Exception as error:  # noqa: BLE001  # see above
                _log.debug("%s: %s", type(error).__name__, error)

        self._workers.begin(quietly)

    def price(self, lane: Lane, tokens: int, output_tokens: int = 0) -> float:
        """Dollars for so many tokens; 0.0 if prices are not known."""
        prices = self._parts.provider.facts.prices
        if prices is None:
            return 0.0
        if lane == "individual":
            return (tokens * prices.individual + output_tokens * prices.output_individual) / 1e6
        return (tokens * prices.batch + output_tokens * prices.output_batch) / 1e6

    def expected_tokens(self, units: Sequence[Unit]) -> int:
        """What the provider will probably count."""
        return self._parts.ratio.correct(sum(unit.tokens for unit in units))

    def keep(self, units: Sequence[Unit], results: Sequence[Result]) -> None:
        """Store results, then write down that they are there."""
        if units:
            self._parts.put(units, results)
            self._parts.ledger.done([unit.id for unit in units])
            self.done += len(units)

    def fail(self, failures: Sequence[tuple[Unit, ItemError]]) -> None:
        """Units that end without a result."""
        if failures:
            self._parts.ledger.fail([(unit.id, error) for unit, error in failures])
            self.done += len(failures)

    def shortened(self, unit: Unit, error: ProviderError) -> bool:
        """Whether the unit waits again with less text, having been refused as too long."""
        if (
            error.kind is not ErrorKind.INPUT_TOO_LONG
            or not self._parts.cut
            or len(unit.text) <= _LEAST_CHARS
        ):
            return False
        text = unit.text[: int(len(unit.text) * _CUT_TO)]
        self._parts.ledger.shorten(unit.id, text, max(1, int(unit.tokens * _CUT_TO)))
        self._parts.report.cut += 1
        return True

    def usable(self, result: Result | ProviderError) -> Result | ProviderError:
        """The result, unless it cannot be one."""
        if isinstance(result, ProviderError) or (isinstance(result, Generated) and self.dimensions is None):
            return result
        if isinstance(result, np.ndarray) and self.dimensions == 0 and result.ndim == 1:
            self.dimensions = len(result)
        if not isinstance(result, np.ndarray):
            words = f"a {type(result).__name__}"
        elif result.dtype != np.float32 or result.shape != (self.dimensions,):
            words = f"a vector of shape {result.shape}, not ({self.dimensions},)"
        elif not np.isfinite(result).all():
            words = "a vector with NaN or infinity"
        elif not result.any():
            words = "a vector of zeros"
        else:
            return result
        return ProviderError(f"the provider answered {words}", kind=ErrorKind.PROTOCOL)

    def give_up(self, error: ProviderError) -> None:
        """End the run with this error: nothing can succeed any more. What waits or is under way stays as it is."""
        self._fatal = self._fatal or error

    def seen(self, error: ProviderError) -> None:
        """Remember an error, for the message if the run cannot go on."""
        self._last_error[error.kind] = error
        _log.debug("%s: %s", error.kind, error)

    def unanswered(self, error: ProviderError, *, seconds: float = 0.0) -> None:
        """A request failed as a whole; the run ends if nothing but that has happened for too long."""
        self.seen(error)
        now = self._parts.clock.now()
        self.absence.failed(now, error.kind, seconds=seconds)
        if self.absence.over(now):
            tried = f"{error}; tried for {span(self.absence.away_s(now))}"
            other = "Check the base URL: what answers there does not speak the provider's protocol."
            hint = other if error.kind is ErrorKind.PROTOCOL else error.hint
            self.give_up(ProviderError(tried, kind=error.kind, code=error.code, hint=hint))

    # --- driving ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Drive until the strategy says that it is over.

        Raises:
            ProviderError: nothing can succeed any more; what waits stays in the ledger.
            GoalError: the budget is used up.
        """
        clock = self._parts.clock
        started = clock.now()
        try:
            self._jobs.attach(self.tell)
            waiting = self._parts.ledger.waiting()
            if self._teller is not None:
                self._teller.begin(self._parts.report, waiting.items, waiting.tokens)
            self.tell(
                Arrived(
                    now=clock.now(), items=waiting.items, tokens=self._parts.ratio.correct(waiting.tokens)
                )
            )
            self.tell(Closed(now=clock.now()))
            while self._finished is None and self._fatal is None:
                self._step()
                self._look()
            if self._fatal is not None:
                self._last_answers()
            self._jobs.settle()
        except BaseException:
            with contextlib.suppress(EmbatchError):  # what ended the run is what is told
                self._last_answers()
            raise
        finally:
            self._land()
            self._parts.report.seconds += clock.now() - started
            self._workers.close()
            self._stop_taking()
        self._conclude()

    def tell(self, event: Event) -> None:
        """Hand an event to the strategy and carry out what it asks for, unless the run is at its end."""
        events = deque([event])
        with self._parts.deciding:
            while events:
                for instruction in self._decide(events.popleft()):
                    if self._fatal is None:
                        events.extend(self._carry_out(instruction))

    def _decide(self, event: Event) -> list[Instruction]:
        with self._parts.deciding:
            instructions = self._parts.strategy.handle(event)
        if self._teller is not None:
            self._teller.take(event, instructions, self.absence)
        return instructions

    def _look(self) -> None:
        """Ask the strategy now and then how long it will take, for whoever watches."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        with self._parts.deciding:
            expected = self._parts.strategy.estimate(self._parts.clock.now()).seconds_p50
        self.left_s = self._parts.clock.real(expected)

    def _step(self) -> None:
        clock = self._parts.clock
        wait = clock.real(max(0.0, min(self._until - clock.now(), 3600.0)))
        if not self._calls.under_way and not self._jobs.items:
            wait = min(wait, _SHARED_S)
        try:
            post = self._posts.get(timeout=wait)
        except queue.Empty:
            self.tell(Tick(now=clock.now()))
            return
        if isinstance(post, requests.CallReport):
            self.tell(self._calls.take_post(post))
        else:
            for event in self._jobs.take_post(post):
                self.tell(event)
        self._untaken.pop(id(post), None)

    def _carry_out(self, instruction: Instruction) -> list[Event]:
        match instruction:
            case SendCall():
                return [self._calls.send(instruction)]
            case SubmitJob():
                return [self._jobs.submit(instruction)]
            case PollJob():
                self._jobs.poll(instruction.id)
            case CancelJob():
                self._jobs.cancel(instruction.id)
            case Say():
                _log.info(instruction.text)
                self._parts.report.decided(instruction.text)
            case Wait():
                self._until = instruction.until
            case Finish():
                self._finished = instruction
        return []

    # --- ending -----------------------------------------------------------------------------------------------

    def _last_answers(self) -> None:
        """Keep what is under way still brings: it is paid for. Jobs' results can be fetched again."""
        clock = self._parts.clock
        end = clock.now() + clock.scale * _LAST_ANSWERS_S
        while True:
            for key, post in list(self._untaken.items()):
                if isinstance(post, requests.CallReport):
                    self._decide(self._calls.take_post(post))
                elif isinstance(post, requests.SubmitReport):
                    deque(self._jobs.take_post(post), maxlen=0)
                else:
                    _drop(post)
                del self._untaken[key]
            left = clock.real(end - clock.now())
            if left <= 0 or not (self._calls.under_way or self._jobs.submitting):
                return
            with contextlib.suppress(queue.Empty):
                self._posts.get(timeout=left)

    def _stop_taking(self) -> None:
        """Let go of what came too late, now and later: a job's results hold a file."""
        with self._posting:
            self._over = True
            late = list(self._untaken.values())
            self._untaken.clear()
        for post in late:
            _drop(post)

    def _land(self) -> None:
        """Tell the pacer, which outlives this run, that none of its calls is under way any more."""
        now = self._parts.clock.now()
        for id_ in self._calls.forget():
            self._decide(CallEnded(now=now, id=id_, seconds=0.0, done=0, kind=ErrorKind.CONNECTION))

    def _conclude(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        finish = self._finished
        left = self._parts.ledger.waiting().items + self._calls.grouped + self._jobs.items
        if finish is None or not left:
            return
        if finish.kind is not None:
            error = self._last_error.get(finish.kind)
            if error is not None:
                raise error
            raise ProviderError(finish.reason or f"the provider refuses: {finish.kind}", kind=finish.kind)
        raise GoalError(f"{left:,} texts were not sent: {finish.reason}")


def _drop(post: Post) -> None:
    if isinstance(post, requests.PollReport) and post.spool is not None:
        post.spool.close()
