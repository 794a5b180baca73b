"""The synchronous calls of a run: packed from what waits, and judged by what comes back.

The driver's other half, beside `jobs`. What was refused is split down to the text to blame, in groups that are sent in
calls of their own; what may succeed later waits again. When a call may go is the strategy's business.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from embatch.decisions.packing_calls import split, take
from embatch.engine.lanes import requests
from embatch.engine.lanes.failures import item_error
from embatch.errors import ProviderError
from embatch.events import CallEnded, Started
from embatch.remote import ErrorKind, Generated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.engine.lanes.requests import CallReport
    from embatch.engine.lanes.run import LaneRun, Result
    from embatch.errors import ItemError
    from embatch.events import SendCall
    from embatch.remote import Unit

_PEEK = 4096  # units looked at for one call
_TIMEOUT_S, _LEAST_REAL_S = 120.0, 10.0


class Calls:
    """The calls of one run."""

    def __init__(self, run: LaneRun) -> None:
        self._run = run
        self._groups: deque[Sequence[Unit]] = deque()
        self._awaited: set[int] = set()
        self._sent: dict[
            int, int
        ] = {}  # the same, and those whose answer could not be taken -> pending money
        self._billed = 0  # the last call whose bill was written: an answer may be taken twice

    @property
    def under_way(self) -> bool:
        """Whether an answer is waited for."""
        return bool(self._awaited)

    @property
    def grouped(self) -> int:
        """Units that wait to be sent in a group of their own."""
        return sum(map(len, self._groups))

    def forget(self) -> list[int]:
        """Wait for no call any more; those that did not come to their end."""
        left = sorted(self._sent)  # their money stays pending: they may have been billed
        self._sent.clear()
        self._awaited.clear()
        return left

    # --- sending ----------------------------------------------------------------------------------------------

    def send(self, asked: SendCall) -> Started:
        """Take waiting units and send them in one call."""
        run, parts = self._run, self._run.parts
        units = self._group(asked) if self._groups else self._take(asked.items, asked.tokens)
        tokens = run.expected_tokens(units)
        if units:
            worst = run.price("individual", tokens) * asked.margin + len(units) * asked.answer
            self._sent[asked.id] = parts.ledger.pend(
                "individual", items=len(units), tokens=tokens, dollars=worst
            )
            self._awaited.add(asked.id)
            parts.report.calls += 1
            timeout_s = max(_LEAST_REAL_S, parts.clock.real(_TIMEOUT_S))
            run.begin(
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

    def _group(self, asked: SendCall) -> Sequence[Unit]:
        """The next group, or as much of it as may be sent now: limits get tighter while groups wait."""
        group = self._groups.popleft()
        count = take(
            [self._run.expected_tokens([unit]) for unit in group],
            [unit.size for unit in group],
            items=asked.items,
            tokens=asked.tokens,
            bytes=None,
        )
        if count < len(group):
            self._groups.appendleft(group[count:])
        return group[:count]

    def _take(self, items: int, tokens: int) -> list[Unit]:
        """Waiting units that fit one call and what was asked for."""
        parts = self._run.parts
        limits = parts.caps.limits(parts.provider.facts.call)
        most = max(1, min(items, limits.items or items, _PEEK))
        found = parts.ledger.peek(most)
        if not found:
            return []
        lengths = [parts.ratio.correct(row[1]) for row in found]
        room = tokens if limits.tokens is None else min(tokens, limits.tokens)
        count = take(lengths, [row[2] for row in found], items=most, tokens=room, bytes=limits.bytes)
        return parts.ledger.take_call([row[0] for row in found[:count]])

    # --- what comes back --------------------------------------------------------------------------------------

    def take_post(self, post: CallReport) -> CallEnded:
        """Keep what a call brought, and say what became of the rest."""
        self._awaited.discard(post.id)
        event = self._answered(post) if post.error is None else self._failed(post, post.error)
        self._sent.pop(post.id, None)
        return event

    def _answered(self, post: CallReport) -> CallEnded:
        assert post.answer is not None
        self._run.absence.answered()
        run, counted = self._run, post.answer.tokens is not None
        good: list[tuple[Unit, Result]] = []
        bad: list[tuple[Unit, ProviderError]] = []
        for unit, raw in zip(post.units, post.answer.results, strict=True):
            result = run.usable(raw)
            if isinstance(result, ProviderError):
                bad.append((unit, result))
            else:
                good.append((unit, result))
        run.keep([unit for unit, _ in good], [result for _, result in good])
        failed, again = self._judge(bad)
        used, output = self._used_tokens(post, [result for _, result in good])
        cost = run.price("individual", used, output)
        if counted:
            run.parts.ratio.observe(sum(unit.tokens for unit in post.units), used)
        self._bill(post.id, len(good), used, cost, estimated=not counted)
        return CallEnded(
            now=run.parts.clock.now(),
            id=post.id,
            seconds=post.seconds,
            done=len(good),
            failed=failed,
            back=len(again),
            back_tokens=run.expected_tokens(again),
            used_tokens=used,
            cost=cost,
            hints=post.answer.hints,
        )

    def _failed(self, post: CallReport, error: ProviderError) -> CallEnded:
        """The call as a whole: split what was refused, send again what may succeed later."""
        run, report, kind = self._run, self._run.parts.report, error.kind
        run.unanswered(error, seconds=post.seconds)
        failed, again, cost = 0, list(post.units), 0.0
        if kind is ErrorKind.RATE_MINUTE:
            report.calls_refused += 1
        else:
            report.calls_failed += 1
        if kind.splits:
            failed = self._split_refused(post.units, error)
            again = again if not failed else []
        elif kind.stops or kind is ErrorKind.NOT_FOUND:
            if kind is ErrorKind.NOT_FOUND:
                run.give_up(error)
            run.parts.ledger.back([unit.id for unit in post.units], blame=False)
        else:
            blame = kind.waits and kind is not ErrorKind.RATE_MINUTE
            failed, again = self._again(post.units, error, blame=blame)
        if requests.never_left(error):
            kind = ErrorKind.OVERLOADED  # for those who reckon: it was not carried out, and may succeed later
        if kind.may_have_happened:
            cost = run.price("individual", post.tokens)
            self._bill(post.id, 0, post.tokens, cost, estimated=True)
        else:
            run.parts.ledger.settle(self._sent.get(post.id, 0))
        return CallEnded(
            now=run.parts.clock.now(),
            id=post.id,
            seconds=post.seconds,
            done=0,
            failed=failed,
            back=len(again),
            back_tokens=run.expected_tokens(again),
            used_tokens=post.tokens if cost else 0,
            cost=cost,
            kind=kind,
            retry_after_s=error.retry_after_s,
        )

    def _split_refused(self, units: Sequence[Unit], error: ProviderError) -> int:
        """Halve what was refused, down to the text to blame; how many units failed (1 or 0)."""
        parts = self._run.parts
        if error.kind in {ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS}:
            parts.caps.refused(
                error.kind,
                len(units),
                self._run.expected_tokens(units),
                sum(unit.size for unit in units),
            )
        if len(units) == 1:
            if self._run.shortened(units[0], error):
                return 0
            self._run.fail([(units[0], item_error(error))])
            return 1
        parts.report.isolated += 1
        self._groups.extend([units[i] for i in half] for half in split(len(units)))
        return 0

    def _again(self, units: Sequence[Unit], error: ProviderError, *, blame: bool) -> tuple[int, list[Unit]]:
        """Units of a failed call wait again; those that failed too often are tried alone, and then given up."""
        run, parts = self._run, self._run.parts
        parts.report.retried += len(units)
        if not blame or max(unit.attempts for unit in units) + 1 < parts.attempts or not run.done:
            # Before anything has succeeded, the provider is at fault and not a text.
            parts.ledger.back([unit.id for unit in units], blame=blame and bool(run.done))
            return 0, list(units)
        if len(units) == 1:
            if units[0].attempts + 1 >= 2 * parts.attempts:
                run.fail([(units[0], item_error(error))])
                return 1, []
            parts.ledger.back([units[0].id], blame=True)
            return 0, list(units)
        parts.report.isolated += 1
        blamed = [unit._replace(attempts=unit.attempts + 1) for unit in units]
        self._groups.extend([blamed[i] for i in half] for half in split(len(units)))
        return 0, blamed

    def _judge(self, bad: Sequence[tuple[Unit, ProviderError]]) -> tuple[int, list[Unit]]:
        """Single items without a result in an answer that was otherwise good: once more, or given up."""
        run = self._run
        again: list[Unit] = []
        cut: list[Unit] = []
        given_up: list[tuple[Unit, ItemError]] = []
        for unit, error in bad:
            run.seen(error)
            if run.shortened(unit, error):
                cut.append(unit)
            elif error.kind.splits or unit.attempts + 1 >= run.parts.attempts:
                given_up.append((unit, item_error(error)))
            else:
                again.append(unit)
        run.fail(given_up)
        run.parts.ledger.back([unit.id for unit in again], blame=True)
        run.parts.report.retried += len(again) + len(cut)
        return len(given_up), again + cut

    def _used_tokens(self, post: CallReport, results: Sequence[Result]) -> tuple[int, int]:
        assert post.answer is not None
        generated = [result for result in results if isinstance(result, Generated)]
        output = sum(answer.output_tokens or 0 for answer in generated)
        return (post.tokens if post.answer.tokens is None else post.answer.tokens), output

    def _bill(self, id_: int, items: int, tokens: int, dollars: float, *, estimated: bool) -> None:
        if id_ == self._billed:
            return
        self._billed = id_
        report = self._run.parts.report
        report.call_items += items
        report.call_tokens += tokens
        report.call_dollars += dollars
        report.estimated_tokens += tokens if estimated else 0
        self._run.parts.ledger.bill(
            "individual",
            items=items,
            tokens=tokens,
            dollars=dollars,
            estimated=estimated,
            pending=self._sent.get(id_, 0),
        )
