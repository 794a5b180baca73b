"""An engine with counts instead of items, for tests of the strategy: it answers what must be answered at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from embatch.decisions.latency import Beliefs
from embatch.decisions.pacing import Pacer
from embatch.decisions.strategy import Strategy
from embatch.events import (
    Arrived,
    CallEnded,
    Closed,
    Finish,
    JobAccepted,
    JobEnded,
    JobRefused,
    Say,
    SendCall,
    Started,
    SubmitJob,
    Tick,
    Wait,
)
from embatch.remote import CallLimits, ErrorKind, Goal, JobLimits, JobState, ModelFacts, Prices

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.events import Event, Instruction
    from embatch.remote import StrategyName

FACTS = ModelFacts(
    provider="gemini",
    model="model",
    dimensions=768,
    call=CallLimits(items=100, item_tokens=2048),
    job=JobLimits(items=10_000, concurrent=10, enqueued_tokens=10_000_000, expires_s=172_800.0),
    prices=Prices(individual=0.15, batch=0.075),
)
T = TypeVar("T")


class Drive:
    """Does with instructions what an engine does, with counts, and keeps them; the world is up to the test."""

    def __init__(
        self,
        name: StrategyName = "auto",
        goal: Goal | None = None,
        facts: ModelFacts = FACTS,
        *,
        threshold: int | None = None,
        head: int = 0,
        max_job_items: int | None = None,
        call_limits: Callable[[], CallLimits] | None = None,
    ) -> None:
        self.pacer = Pacer(facts.rates, now=0.0)
        self.strategy = Strategy(
            name,
            goal or Goal(),
            facts,
            self.pacer,
            Beliefs.of(facts.provider),
            now=0.0,
            threshold=threshold,
            head=head,
            max_job_items=max_job_items,
            call_limits=call_limits,
        )
        self.now = 0.0
        self.waiting = 0
        self.item_tokens = 100
        self.all: list[Instruction] = []
        self.calls: dict[int, int] = {}
        self.jobs: dict[int, int] = {}

    def tell(self, event: Event) -> list[Instruction]:
        """Feed an event, answer what has to be answered at once, and give everything that was asked for."""
        wanted = self.strategy.handle(event)
        got = list(wanted)
        waits = [one for one in wanted if isinstance(one, Wait)]
        ends = [one for one in wanted if isinstance(one, Finish)]
        assert len(waits) + len(ends) == 1
        self.all += wanted
        for one in wanted:
            if isinstance(one, SendCall | SubmitJob):
                got += self.tell(self._start(one))
        return got

    def _start(self, asked: SendCall | SubmitJob) -> Started:
        items = min(asked.items, self.waiting, max(1, asked.tokens // self.item_tokens))
        self.waiting -= items
        by_call = isinstance(asked, SendCall)
        if items:
            (self.calls if by_call else self.jobs)[asked.id] = items
        return Started(
            now=self.now,
            id=asked.id,
            lane="individual" if by_call else "batch",
            items=items,
            tokens=items * self.item_tokens,
        )

    def give(self, items: int) -> list[Instruction]:
        """All items at once, and no more."""
        self.waiting += items
        first = self.tell(Arrived(now=self.now, items=items, tokens=items * self.item_tokens))
        return first + self.tell(Closed(now=self.now))

    def tick(self, seconds: float) -> list[Instruction]:
        self.now += seconds
        return self.tell(Tick(now=self.now))

    def answer(self, *, seconds: float = 0.5, most: int = 1_000_000) -> list[Instruction]:
        """All calls in flight are answered, or the first few."""
        got: list[Instruction] = []
        self.now += seconds
        for id_, items in list(self.calls.items())[:most]:
            del self.calls[id_]
            tokens = items * self.item_tokens
            cost = tokens * 0.15e-6
            got += self.tell(
                CallEnded(now=self.now, id=id_, seconds=seconds, done=items, used_tokens=tokens, cost=cost)
            )
        return got

    def refuse(self, kind: ErrorKind, *, seconds: float = 0.5) -> list[Instruction]:
        """All calls in flight fail, and their items come back."""
        got: list[Instruction] = []
        self.now += seconds
        for id_, items in list(self.calls.items()):
            del self.calls[id_]
            self.waiting += items
            back = items * self.item_tokens
            got += self.tell(
                CallEnded(
                    now=self.now, id=id_, seconds=seconds, done=0, back=items, back_tokens=back, kind=kind
                )
            )
        return got

    def refuse_job(self, kind: ErrorKind) -> list[Instruction]:
        """The latest job is refused."""
        id_, items = self.jobs.popitem()
        self.waiting += items
        return self.tell(JobRefused(now=self.now, id=id_, kind=kind))

    def accept(self) -> list[Instruction]:
        got: list[Instruction] = []
        for id_ in list(self.jobs):
            got += self.tell(JobAccepted(now=self.now, id=id_))
        return got

    def end_job(
        self,
        id_: int,
        state: JobState = JobState.SUCCEEDED,
        *,
        done: int | None = None,
        seconds: float = 60.0,
    ) -> list[Instruction]:
        items = self.jobs.pop(id_)
        good = items if done is None else done
        self.waiting += items - good
        return self.tell(
            JobEnded(
                now=self.now,
                id=id_,
                state=state,
                seconds=seconds,
                done=good,
                back=items - good,
                back_tokens=(items - good) * self.item_tokens,
                used_tokens=good * self.item_tokens,
                cost=good * self.item_tokens * 0.075e-6,
            )
        )

    def wait(self) -> float:
        """Until when the last instruction was to wait."""
        return next(one.until for one in reversed(self.all) if isinstance(one, Wait))


def only(kind: type[T], wanted: list[Instruction]) -> list[T]:
    return [one for one in wanted if isinstance(one, kind)]


def said(wanted: list[Instruction]) -> str:
    return "\n".join(one.text for one in only(Say, wanted))
