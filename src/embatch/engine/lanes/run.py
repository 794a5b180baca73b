"""The driver: carries the strategy's instructions out and tells it what came of them.

One thread, the caller's, decides, keeps the ledger and stores results; worker threads talk to the provider. What waits
lies in the ledger, except groups: units that must be sent in calls of their own, because something among them was
refused. It chooses no lane, reads no source and writes no output.
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from embatch.decisions.packing_calls import split, take
from embatch.engine.lanes import requests
from embatch.engine.lanes.failures import ATTEMPTS, item_error
from embatch.engine.lanes.jobs import Jobs
from embatch.engine.lanes.workers import Workers
from embatch.errors import GoalError, ProviderError
from embatch.remote import (
    Arrived,
    CallEnded,
    CancelJob,
    Closed,
    ErrorKind,
    Finish,
    Generated,
    PollJob,
    Say,
    SendCall,
    Started,
    SubmitJob,
    Tick,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.decisions.packing_calls import LearnedCaps, TokenRatio
    from embatch.decisions.strategy import Strategy
    from embatch.engine.lanes.clock import Clock
    from embatch.engine.lanes.ledger import LaneLedger
    from embatch.engine.lanes.requests import CallReport, PollReport, SubmitReport
    from embatch.errors import ItemError
    from embatch.remote import Event, Instruction, Lane, LaneReport, Provider, Unit, Work
    from embatch.types import FloatArray

    Result = FloatArray | Generated
    Put = Callable[[Sequence[Unit], Sequence[Result]], None]

_log = logging.getLogger(__name__)

_WORKERS = 128
_PEEK = 4096  # units looked at for one call
_CALL_TIMEOUT_S, _LEAST_REAL_S = 120.0, 10.0
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
    """Of each vector; None for answers in text."""


class LaneRun:
    """Send what waits in the ledger, until all of it is done, failed, or cannot be sent."""

    def __init__(self, parts: LaneParts) -> None:
        self.done = 0
        """Units that ended in this run, with a result or without."""
        self._parts = parts
        self._workers = Workers(_WORKERS)
        self._posts: queue.SimpleQueue[CallReport | SubmitReport | PollReport] = queue.SimpleQueue()
        self._groups: deque[Sequence[Unit]] = deque()
        self._calls: set[int] = set()
        self._jobs = Jobs(self)
        self._until = parts.clock.now()
        self._finished: Finish | None = None
        self._fatal: ProviderError | None = None
        self._last_error: dict[ErrorKind, ProviderError] = {}

    # --- what the parts of a run share ------------------------------------------------------------------------

    @property
    def parts(self) -> LaneParts:
        """What it is made of."""
        return self._parts

    def begin(self, task: Callable[[], CallReport | SubmitReport | PollReport]) -> None:
        """Run a request in a thread; its report comes back to the driver."""
        self._workers.begin(lambda: self._posts.put(task()))

    def begin_quietly(self, task: Callable[[], None]) -> None:
        """Run something in a thread that nobody waits for."""
        self._workers.begin(task)

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

    def usable(self, result: Result | ProviderError) -> Result | ProviderError:
        """The result, unless it cannot be one."""
        if not isinstance(result, np.ndarray):
            return result
        if result.dtype != np.float32 or result.shape != (self._parts.dimensions,):
            words = f"a vector of shape {result.shape}, not ({self._parts.dimensions},)"
        elif not np.isfinite(result).all():
            words = "a vector with NaN or infinity"
        elif not result.any():
            words = "a vector of zeros"
        else:
            return result
        return ProviderError(f"the provider answered {words}", kind=ErrorKind.PROTOCOL)

    def seen(self, error: ProviderError) -> None:
        """Remember an error, for the message if the run cannot go on."""
        self._last_error[error.kind] = error
        _log.debug("%s: %s", error.kind, error)

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
            self.tell(
                Arrived(
                    now=clock.now(), items=waiting.items, tokens=self._parts.ratio.correct(waiting.tokens)
                )
            )
            self.tell(Closed(now=clock.now()))
            while self._finished is None and self._fatal is None:
                self._step()
            self._jobs.settle()
        except BaseException:
            self._last_answers()
            raise
        finally:
            self._parts.report.seconds += clock.now() - started
            self._workers.close()
        self._conclude()

    def tell(self, event: Event) -> None:
        """Hand an event to the strategy and carry out what it asks for."""
        events = deque([event])
        while events:
            for instruction in self._parts.strategy.handle(events.popleft()):
                events.extend(self._carry_out(instruction))

    def _step(self) -> None:
        clock = self._parts.clock
        wait = clock.real(max(0.0, min(self._until - clock.now(), 3600.0)))
        try:
            post = self._posts.get(timeout=wait)
        except queue.Empty:
            self.tell(Tick(now=clock.now()))
            return
        self._take_post(post)

    def _take_post(self, post: CallReport | SubmitReport | PollReport) -> None:
        if isinstance(post, requests.CallReport):
            self.tell(self._call_ended(post))
            return
        for event in self._jobs.take_post(post):
            self.tell(event)

    def _carry_out(self, instruction: Instruction) -> list[Event]:
        match instruction:
            case SendCall():
                return [self._send(instruction)]
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

    # --- calls ------------------------------------------------------------------------------------------------

    def _send(self, asked: SendCall) -> Started:
        units = self._groups.popleft() if self._groups else self._take(asked.items, asked.tokens)
        tokens = self.expected_tokens(units)
        parts = self._parts
        if units:
            self._calls.add(asked.id)
            parts.report.calls += 1
            timeout_s = max(_LEAST_REAL_S, parts.clock.real(_CALL_TIMEOUT_S))
            self.begin(
                partial(
                    requests.call,
                    parts.provider,
                    parts.work,
                    asked.id,
                    units,
                    tokens,
                    clock=parts.clock,
                    timeout_s=timeout_s,
                )
            )
        return Started(now=parts.clock.now(), id=asked.id, lane="individual", items=len(units), tokens=tokens)

    def _take(self, items: int, tokens: int) -> list[Unit]:
        """Waiting units that fit one call and what was asked for."""
        parts = self._parts
        limits = parts.caps.limits(parts.provider.facts.call)
        most = max(1, min(items, limits.items or items, _PEEK))
        found = parts.ledger.peek(most)
        if not found:
            return []
        lengths = [parts.ratio.correct(row[1]) for row in found]
        room = tokens if limits.tokens is None else min(tokens, limits.tokens)
        count = take(lengths, [row[2] for row in found], items=most, tokens=room, bytes=limits.bytes)
        return parts.ledger.take_call([row[0] for row in found[:count]])

    def _call_ended(self, post: CallReport) -> CallEnded:
        self._calls.discard(post.id)
        if post.error is not None:
            return self._call_failed(post, post.error)
        assert post.answer is not None
        good: list[tuple[Unit, Result]] = []
        bad: list[tuple[Unit, ProviderError]] = []
        for unit, raw in zip(post.units, post.answer.results, strict=True):
            result = self.usable(raw)
            if isinstance(result, ProviderError):
                bad.append((unit, result))
            else:
                good.append((unit, result))
        self.keep([unit for unit, _ in good], [result for _, result in good])
        failed, again = self._judge(bad)
        used, output = self._used_tokens(post, [result for _, result in good])
        cost = self.price("individual", used, output)
        counted = post.answer.tokens is not None
        if counted:
            self._parts.ratio.observe(sum(unit.tokens for unit in post.units), used)
        self.bill_call(len(good), used, cost, estimated=not counted)
        return CallEnded(
            now=self._parts.clock.now(),
            id=post.id,
            seconds=post.seconds,
            done=len(good),
            failed=failed,
            back=len(again),
            back_tokens=self.expected_tokens(again),
            used_tokens=used,
            cost=cost,
            hints=post.answer.hints,
        )

    def _call_failed(self, post: CallReport, error: ProviderError) -> CallEnded:
        """The call as a whole: split what was refused, send again what may succeed later."""
        self.seen(error)
        report, kind = self._parts.report, error.kind
        failed, again, cost = 0, list(post.units), 0.0
        if kind is ErrorKind.RATE_MINUTE:
            report.calls_refused += 1
        else:
            report.calls_failed += 1
        if kind.splits:
            failed = self._split_refused(post.units, error)
            again = again if not failed else []
        elif kind is ErrorKind.NOT_FOUND or (kind.stops and kind is not ErrorKind.RATE_DAY):
            self._fatal = error if kind is ErrorKind.NOT_FOUND else self._fatal
            self._parts.ledger.back([unit.id for unit in post.units], blame=False)
        else:
            blame = kind.waits and kind is not ErrorKind.RATE_MINUTE
            failed, again = self._again(post.units, error, blame=blame)
        if kind.may_have_happened:
            cost = self.price("individual", post.tokens)
            self.bill_call(0, post.tokens, cost, estimated=True)
        return CallEnded(
            now=self._parts.clock.now(),
            id=post.id,
            seconds=post.seconds,
            done=0,
            failed=failed,
            back=len(again),
            back_tokens=self.expected_tokens(again),
            used_tokens=post.tokens if cost else 0,
            cost=cost,
            kind=kind,
            retry_after_s=error.retry_after_s,
        )

    def _split_refused(self, units: Sequence[Unit], error: ProviderError) -> int:
        """Halve what was refused, down to the text to blame; how many units failed (1 or 0)."""
        if error.kind in {ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS}:
            self._parts.caps.refused(
                error.kind, len(units), self.expected_tokens(units), sum(unit.size for unit in units)
            )
        if len(units) == 1:
            self.fail([(units[0], item_error(error))])
            return 1
        self._parts.report.isolated += 1
        self._groups.extend([units[i] for i in half] for half in split(len(units)))
        return 0

    def _again(self, units: Sequence[Unit], error: ProviderError, *, blame: bool) -> tuple[int, list[Unit]]:
        """Units of a failed call wait again; those that failed too often are tried alone, and then given up."""
        self._parts.report.retried += len(units)
        if not blame or max(unit.attempts for unit in units) + 1 < ATTEMPTS or not self.done:
            # Before anything has succeeded, the provider is at fault and not a text.
            self._parts.ledger.back([unit.id for unit in units], blame=blame and bool(self.done))
            return 0, list(units)
        if len(units) == 1:
            if units[0].attempts + 1 >= 2 * ATTEMPTS:
                self.fail([(units[0], item_error(error))])
                return 1, []
            self._parts.ledger.back([units[0].id], blame=True)
            return 0, list(units)
        self._parts.report.isolated += 1
        blamed = [unit._replace(attempts=unit.attempts + 1) for unit in units]
        self._groups.extend([blamed[i] for i in half] for half in split(len(units)))
        return 0, blamed

    def _judge(self, bad: Sequence[tuple[Unit, ProviderError]]) -> tuple[int, list[Unit]]:
        """Single items without a result in an answer that was otherwise good: once more, or given up."""
        again: list[Unit] = []
        given_up: list[tuple[Unit, ItemError]] = []
        for unit, error in bad:
            self.seen(error)
            if error.kind.splits or unit.attempts + 1 >= ATTEMPTS:
                given_up.append((unit, item_error(error)))
            else:
                again.append(unit)
        self.fail(given_up)
        self._parts.ledger.back([unit.id for unit in again], blame=True)
        self._parts.report.retried += len(again)
        return len(given_up), again

    def _used_tokens(self, post: CallReport, results: Sequence[Result]) -> tuple[int, int]:
        assert post.answer is not None
        generated = [result for result in results if isinstance(result, Generated)]
        output = sum(answer.output_tokens or 0 for answer in generated)
        return (post.tokens if post.answer.tokens is None else post.answer.tokens), output

    def bill_call(self, items: int, tokens: int, dollars: float, *, estimated: bool) -> None:
        """Write down what a call has cost."""
        report = self._parts.report
        report.call_items += items
        report.call_tokens += tokens
        report.call_dollars += dollars
        report.estimated_tokens += tokens if estimated else 0
        self._parts.ledger.bill(
            "individual", items=items, tokens=tokens, dollars=dollars, estimated=estimated
        )

    # --- ending -----------------------------------------------------------------------------------------------

    def _last_answers(self) -> None:
        """Keep what calls under way still answer: it is paid for."""
        clock = self._parts.clock
        end = clock.now() + clock.scale * _LAST_ANSWERS_S
        while self._calls and clock.now() < end:
            try:
                post = self._posts.get(timeout=clock.real(max(0.01, end - clock.now())))
            except queue.Empty:
                return
            if isinstance(post, requests.CallReport):
                self._call_ended(post)

    def _conclude(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        finish = self._finished
        waiting = self._parts.ledger.waiting().items + sum(map(len, self._groups))
        if finish is None or not waiting:
            return
        if finish.kind is not None:
            error = self._last_error.get(finish.kind)
            if error is not None:
                raise error
            raise ProviderError(finish.reason or f"the provider refuses: {finish.kind}", kind=finish.kind)
        raise GoalError(f"{waiting:,} texts were not sent: {finish.reason}")
