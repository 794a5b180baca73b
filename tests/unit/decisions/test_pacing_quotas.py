"""The pacer against simulated providers that count their minute in three ways: quotas are used, and hardly exceeded."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

from embatch.decisions.pacing import Learned, Pacer
from embatch.remote import ErrorKind, LimitHints, RateLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Counting = Literal["bucket", "fixed", "sliding"]
COUNTINGS: tuple[Counting, ...] = ("bucket", "fixed", "sliding")
PLENTY = 10**9


class Accepted(NamedTuple):
    at: float
    items: int
    tokens: int


@dataclass
class Provider:
    """Counts items and tokens of a minute; `admit` says None, or how long to wait."""

    counting: Counting
    quota: tuple[int, int]
    offset: float = 17.0
    level: list[float] = field(default_factory=list)
    last: float = 0.0
    minute: int = -1
    log: deque[Accepted] = field(default_factory=deque)
    used: list[int] = field(default_factory=lambda: [0, 0])

    def admit(self, now: float, items: int, tokens: int) -> float | None:
        wants = (items, tokens)
        if self.counting == "bucket":
            rates = [quota / 60 for quota in self.quota]
            level = self.level or [float(quota) for quota in self.quota]
            pairs = zip(level, rates, self.quota, strict=True)
            self.level = [min(quota, have + rate * (now - self.last)) for have, rate, quota in pairs]
            self.last = now
            short = max(
                (want - have) / rate for want, have, rate in zip(wants, self.level, rates, strict=True)
            )
            if short > 0:
                return short
            self.level = [have - want for have, want in zip(self.level, wants, strict=True)]
            return None
        self._forget(now)
        if any(used + want > quota for used, want, quota in zip(self.used, wants, self.quota, strict=True)):
            if self.counting == "fixed":
                return (self.minute + 1) * 60 - self.offset - now
            return self.log[0].at + 60 - now if self.log else 1.0
        self.used = [used + want for used, want in zip(self.used, wants, strict=True)]
        self.log.append(Accepted(now, items, tokens))
        return None

    def hints(self, now: float) -> LimitHints:
        """Headers as OpenAI sends them, for the tokens."""
        assert self.counting == "bucket"
        left = self.level[1]
        return LimitHints(
            tokens_limit=self.quota[1],
            tokens_remaining=int(left),
            tokens_reset_s=(self.quota[1] - left) / (self.quota[1] / 60),
        )

    def _forget(self, now: float) -> None:
        if self.counting == "fixed":
            minute = int((now + self.offset) // 60)
            if minute != self.minute:
                self.minute, self.used = minute, [0, 0]
                self.log.clear()
            return
        while self.log and self.log[0].at <= now - 60:
            old = self.log.popleft()
            self.used = [self.used[0] - old.items, self.used[1] - old.tokens]


@dataclass
class Load:
    """What the simulated caller sends, and how long answers take."""

    seed: int = 0
    total: int = PLENTY
    until: float = math.inf
    per_call: int = 100
    item_tokens: int = 200
    """Mean; single ones vary from a quarter to seven quarters of it."""
    estimate: float = 1.0
    """Estimated for each token that is counted; the caller corrects it as it learns."""
    latency_s: float = 0.5
    delays: bool = True
    """Whether a refusal says how long to wait."""
    hints: bool = False
    quotas: Sequence[tuple[float, tuple[int, int]]] = ()
    """Changes of the provider's quota, by time."""
    fault: Callable[[float, random.Random], ErrorKind | None] = lambda _now, _rng: None


class Ending(NamedTuple):
    """What becomes of a call, and when."""

    at: float
    order: int
    items: int
    tokens: int
    used: int
    kind: ErrorKind | None = None
    retry_after_s: float | None = None
    hints: LimitHints | None = None
    arrived: bool = True


class Simulation:
    """A caller that always has work, one provider, and no clock but its own."""

    def __init__(self, pacer: Pacer, provider: Provider, load: Load) -> None:
        self.pacer, self.provider, self.load = pacer, provider, load
        self.rng = random.Random(load.seed)
        self.now = 0.0
        self.left = load.total
        self.accepted: list[Accepted] = []
        self.sent: list[float] = []
        self.refused: list[float] = []
        self.lost: list[float] = []
        self._ratio = 1.0
        self._waiting: list[int] = []
        self._heap: list[Ending] = []
        self._order = itertools.count()
        self._changes = list(load.quotas)

    def run(self) -> Simulation:
        while self.now < self.load.until and (self.left or self._waiting or self._heap):
            wake = self._send()
            times = [wake, self._heap[0].at if self._heap else math.inf]
            times += [at for at, _ in self._changes[:1]]
            self.now = min(times)
            assert self.now < math.inf, "nothing will ever happen again"
            while self._changes and self._changes[0][0] <= self.now:
                self.provider.quota = self._changes.pop(0)[1]
            while self._heap and self._heap[0].at <= self.now:
                self._end(heapq.heappop(self._heap))
        return self

    def use(self, begin: float, end: float, quota: int, *, tokens: bool = False) -> float:
        """Share of a quota of a minute that was used from `begin` to `end`."""
        used = sum(a.tokens if tokens else a.items for a in self.accepted if begin <= a.at < end)
        return used / (quota * (end - begin) / 60)

    @property
    def end(self) -> float:
        return self.accepted[-1].at

    def _send(self) -> float:
        """Send what may be sent; return when more may be."""
        while self.pacer.in_flight < self.pacer.parallel:
            self._fill()
            count = len(self._waiting)
            if not count:
                break
            delay = self.pacer.delay(self.now, count, self._estimate(count))
            if delay > 0:
                return self.now + delay
            items, tokens = self.pacer.room(self.now)
            while count > 1 and (count > items or self._estimate(count) > tokens):
                count -= 1
            self._start(count)
        return math.inf

    def _start(self, count: int) -> None:
        call, self._waiting = self._waiting[:count], self._waiting[count:]
        estimate = max(1, round(sum(call) * self.load.estimate * self._ratio))
        self.pacer.sent(self.now, count, estimate)
        self.sent.append(self.now)
        latency = self.rng.lognormvariate(math.log(self.load.latency_s), 0.45)
        arrival = Ending(
            self.now + 0.4 * latency, next(self._order), count, estimate, sum(call), arrived=False
        )
        heapq.heappush(self._heap, arrival)

    def _end(self, call: Ending) -> None:
        if not call.arrived:
            self._arrive(call)
        elif call.kind is None:
            self._ratio += 0.1 * (call.used / (call.tokens / self._ratio) - self._ratio)
            self.pacer.answered(self.now, call.items, call.tokens, used_tokens=call.used, hints=call.hints)
        else:
            self.left += call.items
            self.pacer.failed(
                self.now,
                call.items,
                call.tokens,
                call.kind,
                retry_after_s=call.retry_after_s,
                draw=self.rng.random(),
            )

    def _arrive(self, call: Ending) -> None:
        answer = self.now + 0.6 * self.load.latency_s
        kind, wait = self.load.fault(self.now, self.rng), None
        if kind is not None:
            self.lost.append(self.now)
        else:
            wait = self.provider.admit(self.now, call.items, call.used)
            if wait is None:
                self.accepted.append(Accepted(self.now, call.items, call.used))
            else:
                kind, answer = ErrorKind.RATE_MINUTE, self.now + 0.05
                self.refused.append(self.now)
        ending = call._replace(
            at=answer,
            arrived=True,
            kind=kind,
            retry_after_s=wait if self.load.delays else None,
            hints=self.provider.hints(self.now) if self.load.hints and kind is None else None,
        )
        heapq.heappush(self._heap, ending)

    def _estimate(self, count: int) -> int:
        return max(1, round(sum(self._waiting[:count]) * self.load.estimate * self._ratio))

    def _fill(self) -> None:
        mean = self.load.item_tokens
        while self.left and len(self._waiting) < self.load.per_call:
            self._waiting.append(self.rng.randint(mean // 4, mean * 7 // 4))
            self.left -= 1


@pytest.mark.parametrize("estimate", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("item_tokens", [200, 500])
@pytest.mark.parametrize("counting", COUNTINGS)
def test_a_known_quota_is_used_and_not_exceeded(
    counting: Counting, item_tokens: int, estimate: float
) -> None:
    """20,000 items against 3,000 items and 1,000,000 tokens a minute: 95 % used, at most 0.5 % of calls refused."""
    pacer = Pacer(RateLimits(items=3000, tokens=1_000_000), now=0.0)
    load = Load(total=20_000, item_tokens=item_tokens, estimate=estimate)
    run = Simulation(pacer, Provider(counting, (3000, 1_000_000)), load).run()
    assert sum(a.items for a in run.accepted) == 20_000
    assert len(run.refused) <= 0.005 * len(run.sent)
    binding = run.use(60, run.end, 3000), run.use(60, run.end, 1_000_000, tokens=True)
    assert max(binding) >= 0.95


@pytest.mark.parametrize("counting", COUNTINGS)
def test_a_small_quota_is_used_too(counting: Counting) -> None:
    """With 100 items and 30,000 tokens a minute, the limits of a free tier, calls get smaller, and 95 % is used."""
    pacer = Pacer(RateLimits(items=100, tokens=30_000), now=0.0)
    run = Simulation(pacer, Provider(counting, (100, 30_000)), Load(until=900)).run()
    assert not run.refused
    assert run.use(60, 900, 100) >= 0.95


@pytest.mark.parametrize("counting", COUNTINGS)
def test_a_quota_that_others_used_up_costs_one_pause(counting: Counting) -> None:
    """A run that begins when 2,900 of 3,000 items are gone waits as told, and then uses what there is."""
    provider = Provider(counting, (3000, PLENTY))
    for _ in range(29):
        assert provider.admit(0.0, 100, 1) is None
    run = Simulation(Pacer(RateLimits(items=3000), now=0.0), provider, Load(until=600)).run()
    assert len(run.refused) <= 20
    assert run.use(61, 600, 3000) >= 0.93


@pytest.mark.parametrize("truth", [100, 1500])
@pytest.mark.parametrize("counting", COUNTINGS)
def test_a_stated_quota_that_is_wrong_is_found_out(counting: Counting, truth: int) -> None:
    """With a table that says 3,000 and a provider that takes less, at least 80 % of what it takes is used."""
    pacer = Pacer(RateLimits(items=3000, tokens=1_000_000), now=0.0)
    run = Simulation(pacer, Provider(counting, (truth, PLENTY)), Load(until=900)).run()
    assert run.use(0, 900, truth) >= 0.8
    assert pacer.rate().items_per_s * 60 < 3 * truth


@pytest.mark.parametrize("delays", [False, True])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("counting", COUNTINGS)
def test_an_unknown_quota_is_learned_and_followed(counting: Counting, factor: float, delays: bool) -> None:
    """Nothing is known, and after ten minutes the quota halves or doubles: 85 % is used, before and after."""
    after = int(3000 * factor)
    load = Load(until=1200, delays=delays, quotas=[(600.0, (after, PLENTY))])
    run = Simulation(Pacer(RateLimits(), now=0.0), Provider(counting, (3000, PLENTY)), load).run()
    assert run.use(0, 600, 3000) >= 0.85
    assert run.use(600, 1200, after) >= 0.85
    assert len(run.refused) <= 0.25 * len(run.sent)


@pytest.mark.parametrize(
    ("quota", "per_call", "latency_s"), [(100, 10, 0.5), (100, 100, 0.5), (3000, 100, 5)]
)
@pytest.mark.parametrize("counting", COUNTINGS)
def test_an_unknown_quota_may_be_small_and_answers_slow(
    counting: Counting, quota: int, per_call: int, latency_s: float
) -> None:
    """A quota of one large call, of ten small ones, and calls of five seconds: once learned, 80 % is used."""
    load = Load(until=900, per_call=per_call, latency_s=latency_s)
    run = Simulation(Pacer(RateLimits(), now=0.0), Provider(counting, (quota, PLENTY)), load).run()
    assert run.use(0, 900, quota) >= 0.75
    assert run.use(300, 900, quota) >= 0.8


@pytest.mark.parametrize("counting", COUNTINGS)
def test_what_was_learned_spares_the_next_run_the_lesson(counting: Counting) -> None:
    """A run that begins with what another learned has the quota right from the first minute, with fewer refusals."""
    first = Simulation(
        Pacer(RateLimits(), now=0.0), Provider(counting, (3000, PLENTY)), Load(until=600)
    ).run()
    learned = first.pacer.learned()
    second = Simulation(
        Pacer(RateLimits(), now=0.0, learned=learned), Provider(counting, (3000, PLENTY)), Load(until=120)
    ).run()
    assert sum(at < 120 for at in first.refused) > len(second.refused)
    assert second.use(0, 60, 3000) >= 0.8


def test_headers_tell_the_quota_before_anything_is_refused() -> None:
    """With a quota that only the headers name, 93 % is used and nothing is refused once they were read."""
    load = Load(until=600, hints=True, item_tokens=500, per_call=20)
    run = Simulation(
        Pacer(RateLimits(), now=0.0, parallel=4), Provider("bucket", (PLENTY, 1_000_000)), load
    ).run()
    assert not run.refused
    assert run.use(60, 600, 1_000_000, tokens=True) >= 0.93


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_an_outage_is_probed_gently_and_left_soon(share: float) -> None:
    """In two minutes of refusals few calls are lost, and within a minute after them everything goes again."""

    def fault(now: float, rng: random.Random) -> ErrorKind | None:
        return ErrorKind.OVERLOADED if 100 <= now < 220 or rng.random() < share else None

    load = Load(until=400, fault=fault)
    run = Simulation(
        Pacer(RateLimits(), now=0.0, parallel=32), Provider("bucket", (PLENTY, PLENTY)), load
    ).run()
    lost = [at for at in run.lost if 100 <= at < 220]
    assert len(lost) <= 80  # two rounds of calls that were under way, then probes
    assert next(a.at for a in run.accepted if a.at > 220) <= 220 + 61
    before = sum(a.items for a in run.accepted if a.at < 100) / 100
    after = sum(a.items for a in run.accepted if a.at >= 300) / 100
    assert after >= 0.9 * before


def test_calls_under_way_settle_at_what_a_server_takes() -> None:
    """A server that takes 8 calls at a time is kept busy, with few failures."""
    busy: list[float] = []

    def fault(now: float, _rng: random.Random) -> ErrorKind | None:
        busy[:] = [end for end in busy if end > now]
        if len(busy) >= 8:
            return ErrorKind.OVERLOADED
        busy.append(now + 0.3)
        return None

    pacer = Pacer(RateLimits(), now=0.0, parallel=64)
    run = Simulation(pacer, Provider("bucket", (PLENTY, PLENTY)), Load(until=200, fault=fault)).run()
    late = [a for a in run.accepted if a.at >= 60]
    assert sum(at >= 60 for at in run.lost) <= 0.15 * len(late)
    assert len(late) / 140 >= 0.7 * 8 / 0.3


def test_a_stopped_pacer_learned_what_it_could() -> None:
    """What one run learned is plain numbers, and none where there was nothing to learn."""
    assert Pacer(RateLimits(items=5), now=0.0).learned() == Learned(parallel=64)
