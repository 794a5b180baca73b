"""The pacer as a state machine: never above a known quota, never sooner than told, sane whatever it is told."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.decisions.pacing import UNLIMITED, Learned, Pacer
from embatch.remote import ErrorKind, LimitHints, RateLimits

HARD = [ErrorKind.OVERLOADED, ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.PROTOCOL]
STOPS = [ErrorKind.RATE_DAY, ErrorKind.QUOTA_MONEY, ErrorKind.AUTH]
BENIGN = [ErrorKind.BAD_INPUT, ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS, ErrorKind.NOT_FOUND]

quotas = st.one_of(st.none(), st.integers(1, 100_000))
limits = st.builds(RateLimits, requests=quotas, items=quotas, tokens=quotas)
wild = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(-5, 5000))
counts = st.one_of(st.none(), st.integers(-5, 10**7))
hints = st.builds(
    LimitHints,
    requests_limit=counts,
    requests_remaining=counts,
    requests_reset_s=wild,
    tokens_limit=counts,
    tokens_remaining=counts,
    tokens_reset_s=wild,
)
step = st.tuples(
    st.floats(-0.5, 40.0),  # time that passes; a little of it backwards
    st.integers(1, 3000),  # items wanted
    st.integers(1, 300),  # tokens of each
    st.sampled_from(["send", "answer", "refuse", "fail", "benign"]),
    wild,
    st.one_of(st.none(), hints),
    st.floats(0, 1, exclude_max=True),
)


class Driver:
    """Sends when the pacer lets it, in calls cut to the room, and ends them in some order."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.now = 0.0
        self.sent: list[tuple[float, int, int]] = []
        self.flying: list[tuple[int, int]] = []

    def send(self, items: int, each: int) -> bool:
        delay = self.pacer.delay(self.now, items, items * each)
        room_items, room_tokens = self.pacer.room(self.now)
        if delay > 0:
            return False
        count = min(items, room_items, room_tokens // each)
        if count < 1:  # the first item alone is more than the room: it must be asked for by itself
            count = 1
            if self.pacer.delay(self.now, 1, each) > 0:
                return False
        self.pacer.sent(self.now, count, count * each)
        self.sent.append((self.now, count, count * each))
        self.flying.append((count, count * each))
        return True

    def most_in_a_minute(self, axis: int) -> int:
        amounts = [(at, (1, items, tokens)[axis]) for at, items, tokens in self.sent]
        minutes = (sum(n for at, n in amounts if begin <= at < begin + 60) for begin, _ in amounts)
        return max(minutes, default=0)


@settings(max_examples=150, deadline=None)
@given(limits=limits, steps=st.lists(step, max_size=60))
def test_no_minute_holds_more_than_a_known_quota(
    limits: RateLimits, steps: list[tuple[float, int, int, str, float | None, LimitHints | None, float]]
) -> None:
    """In any window of 60 s, requests, items and tokens that were sent stay within the quota, failures included."""
    driver = Driver(Pacer(limits, now=0.0))
    pacer = driver.pacer
    for passed, items, each, what, after, _, draw in steps:
        driver.now = max(driver.now, driver.now + passed)
        if what == "send" or not driver.flying:
            while driver.send(items, each) and len(driver.flying) < 50:
                pass
            continue
        call = driver.flying.pop(0)
        if what == "answer":
            pacer.answered(driver.now, *call, used_tokens=call[1])
        else:
            pacer.failed(driver.now, *call, HARD[call[0] % 4], retry_after_s=after, draw=draw)
    for axis, quota in enumerate((limits.requests, limits.items, limits.tokens)):
        assert quota is None or driver.most_in_a_minute(axis) <= quota


@settings(max_examples=200, deadline=None)
@given(limits=limits, steps=st.lists(step, max_size=60), parallel=st.integers(1, 100))
def test_whatever_it_is_told_its_answers_make_sense(
    limits: RateLimits,
    steps: list[tuple[float, int, int, str, float | None, LimitHints | None, float]],
    parallel: int,
) -> None:
    """Times that jump back, delays of NaN, headers of nonsense: no NaN, nothing negative, and it can be kept."""
    driver = Driver(Pacer(limits, now=0.0, parallel=parallel))
    pacer = driver.pacer
    kinds = {"refuse": [ErrorKind.RATE_MINUTE, ErrorKind.ENQUEUED_FULL], "fail": HARD, "benign": BENIGN}
    for passed, items, each, what, after, said, draw in steps:
        driver.now += passed
        if what == "send":
            driver.send(items, each)
        call = driver.flying.pop(0) if driver.flying else (items, items * each)
        if what == "answer":
            pacer.answered(driver.now, *call, used_tokens=None if items % 2 else each, hints=said)
        elif what != "send":
            kind = kinds[what][items % len(kinds[what])]
            pacer.failed(driver.now, *call, kind, retry_after_s=after, draw=draw)
        else:
            driver.flying.append(call)
        delay = pacer.delay(driver.now, items, items * each)
        assert delay == 0.0 or delay >= 0.001
        room = pacer.room(driver.now)
        assert min(room) >= 0
        assert max(room) <= UNLIMITED
        if delay == 0 and items > 1:
            assert min(room) >= 1
        assert 1 <= pacer.parallel <= max(parallel, 1 + pacer.in_flight)
        rate = asdict(pacer.rate())
        assert all(value > 0 for value in rate.values())
        learned = pacer.learned()
        again = Pacer(limits, now=driver.now, parallel=parallel, learned=Learned(**asdict(learned)))
        assert "NaN" not in json.dumps(asdict(learned))
        assert again.learned().parallel == learned.parallel


@settings(max_examples=100, deadline=None)
@given(
    retry_after=st.floats(0, 10_000),
    draw=st.floats(0, 1, exclude_max=True),
    kind=st.sampled_from([ErrorKind.RATE_MINUTE, *HARD]),
    others=st.lists(st.sampled_from([ErrorKind.RATE_MINUTE, *HARD, None]), max_size=5),
)
def test_the_providers_delay_is_a_floor(
    retry_after: float, draw: float, kind: ErrorKind, others: list[ErrorKind | None]
) -> None:
    """After a refusal with a delay nothing goes sooner, whatever else fails or succeeds meanwhile."""
    pacer = Pacer(RateLimits(items=1000), now=0.0)
    for _ in range(len(others) + 1):
        pacer.sent(0.0, 1, 1)
    pacer.failed(1.0, 1, 1, kind, retry_after_s=retry_after, draw=draw)
    for other in others:
        if other is None:
            pacer.answered(1.0, 1, 1, used_tokens=1)
        else:
            pacer.failed(1.0, 1, 1, other, draw=draw)
    assert pacer.delay(1.0, 1, 1) > retry_after
    assert pacer.room(1.0) == (0, 0)
    just_before = 1.0 + retry_after
    assert pacer.delay(just_before, 1, 1) > 0


@settings(max_examples=100, deadline=None)
@given(limits=limits, calls=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 200)), max_size=30))
def test_after_the_delay_the_call_goes(limits: RateLimits, calls: list[tuple[int, int]]) -> None:
    """Waiting as long as was said is enough, if nothing else happens; and it is never forever for what fits."""
    driver = Driver(Pacer(limits, now=0.0))
    for items, each in calls:
        if limits.tokens is not None and each > limits.tokens:
            continue
        for size in (items, 1):
            delay = driver.pacer.delay(driver.now, size, size * each)
            assert delay < 70
            driver.now += delay
            assert driver.pacer.delay(driver.now, size, size * each) <= 0.001
        driver.now += 0.001
        assert driver.send(1, each)


@settings(max_examples=100, deadline=None)
@given(
    items=st.one_of(st.none(), st.floats(1, 10**6)),
    tokens=st.one_of(st.none(), st.floats(1, 10**6)),
    parallel=st.integers(1, 64),
)
def test_what_was_learned_survives_a_round_trip(
    items: float | None, tokens: float | None, parallel: int
) -> None:
    """Learned numbers, written as JSON and read again, make a pacer that would write the same."""
    learned = Learned(items=items, tokens=tokens, parallel=parallel)
    pacer = Pacer(RateLimits(), now=5.0, learned=Learned(**json.loads(json.dumps(asdict(learned)))))
    again = pacer.learned()
    assert again.parallel == parallel
    for before, after in ((items, again.items), (tokens, again.tokens)):
        assert after is None if before is None else after == pytest.approx(before)
    assert pacer.rate().items_per_s == (math.inf if items is None else pytest.approx(items / 61))


@pytest.mark.parametrize("kind", STOPS)
def test_days_money_and_keys_stop_everything(kind: ErrorKind) -> None:
    """After a day's quota, missing credit or a bad key nothing may ever go, and late answers change nothing."""
    pacer = Pacer(RateLimits(items=100), now=0.0)
    pacer.sent(0.0, 1, 10)
    pacer.sent(0.0, 1, 10)
    pacer.failed(0.5, 1, 10, kind, retry_after_s=1.0)
    pacer.answered(0.6, 1, 10)
    assert pacer.stopped is kind
    assert pacer.delay(1e6, 1, 1) == math.inf
    assert pacer.room(1e6) == (0, 0)
    assert pacer.rate().items_per_s == 0


def test_without_quotas_nothing_waits() -> None:
    """Unknown quotas limit nothing until something is refused."""
    pacer = Pacer(RateLimits(), now=0.0)
    for _ in range(1000):
        assert pacer.delay(0.0, 100, 10**6) == 0
        pacer.sent(0.0, 100, 10**6)
    assert pacer.room(0.0) == (UNLIMITED, UNLIMITED)
    assert pacer.rate().tokens_per_s == math.inf
    assert pacer.in_flight == 1000


def test_an_item_that_no_minute_takes_waits_forever() -> None:
    """One item of more tokens than a minute's quota never goes; several together wait for a part of them."""
    pacer = Pacer(RateLimits(tokens=1000), now=0.0)
    assert pacer.delay(0.0, 1, 1001) == math.inf
    assert pacer.delay(0.0, 1, 1000) == 0
    assert pacer.delay(0.0, 50, 100_000) == 0
    assert pacer.room(0.0) == (UNLIMITED, 990)
    assert Pacer(RateLimits(items=0), now=0.0).delay(0.0, 1, 1) == math.inf


def test_tokens_that_the_provider_counted_replace_the_estimate() -> None:
    """A call that used half of its estimate leaves the room that it did not use."""
    pacer = Pacer(RateLimits(tokens=1000), now=0.0)
    pacer.sent(0.0, 1, 900)
    assert pacer.delay(0.1, 1, 500) > 50
    pacer.answered(0.5, 1, 900, used_tokens=450)
    assert pacer.delay(30.0, 1, 500) == 0


def test_what_was_refused_does_not_count() -> None:
    """A call that was refused as too large leaves items and tokens for those that it is split into."""
    pacer = Pacer(RateLimits(items=100, tokens=1000), now=0.0)
    pacer.sent(0.0, 100, 900)
    pacer.failed(0.1, 100, 900, ErrorKind.TOO_MANY_ITEMS)
    assert pacer.delay(0.1, 50, 450) == 0
    assert pacer.in_flight == 0


def test_refusals_without_a_delay_pause_longer_each_time() -> None:
    """One probe at a time, and pauses that double up to half a minute, until one is answered."""
    pacer = Pacer(RateLimits(), now=0.0)
    now, pauses = 0.0, []
    for _ in range(10):
        pacer.sent(now, 1, 1)
        pacer.failed(now, 1, 1, ErrorKind.RATE_MINUTE, draw=0.9)
        pauses.append(pacer.delay(now, 1, 1))
        assert pacer.parallel == 1
        now += pauses[-1]
    assert pauses[:5] == pytest.approx([pauses[0] * 2**n for n in range(5)])
    assert pauses[0] < 1
    assert 20 < pauses[-1] <= 30
    pacer.sent(now, 1, 1)
    pacer.answered(now + 0.1, 1, 1)
    assert pacer.parallel == 64


@pytest.mark.parametrize("kind", HARD)
def test_a_circuit_opens_after_failures_in_a_row(kind: ErrorKind) -> None:
    """Five hard failures in a row leave one probe at a time, with pauses of up to a minute; an answer ends it."""
    pacer = Pacer(RateLimits(), now=0.0)
    now = 0.0
    for count in range(16):
        assert (pacer.parallel == 1) == (count >= 5)
        pacer.sent(now, 1, 1)
        pacer.failed(now, 1, 1, kind, draw=0.9)
        now += pacer.delay(now, 1, 1)
    pacer.sent(now, 1, 1)
    pacer.failed(now, 1, 1, kind, draw=0.999)
    assert 55 < pacer.delay(now, 1, 1) <= 60
    now += 60
    pacer.sent(now, 1, 1)
    pacer.answered(now + 1, 1, 1)
    assert 1 < pacer.parallel < 64
    for _ in range(100):
        pacer.sent(now + 2, 1, 1)
        pacer.answered(now + 2, 1, 1)
    assert pacer.parallel > 25


def test_a_call_that_hangs_does_not_keep_probes_back() -> None:
    """While one call is lost somewhere, a refused lane still sends its probe, but only one."""
    pacer = Pacer(RateLimits(), now=0.0)
    pacer.sent(0.0, 7, 7)
    pacer.sent(0.0, 1, 1)
    pacer.failed(1.0, 1, 1, ErrorKind.RATE_MINUTE, retry_after_s=1.0)
    assert (pacer.in_flight, pacer.parallel) == (1, 2)
    pacer.sent(4.0, 1, 1)
    assert (pacer.in_flight, pacer.parallel) == (2, 2)
    pacer.answered(4.1, 1, 1)
    assert pacer.parallel == 64


def test_an_outage_is_not_learned() -> None:
    """A run that ends in an outage does not make the next one begin with a single call at a time."""
    pacer = Pacer(RateLimits(), now=0.0, parallel=32)
    now = 0.0
    for _ in range(10):
        pacer.sent(now, 1, 1)
        pacer.failed(now, 1, 1, ErrorKind.CONNECTION)
        now += pacer.delay(now, 1, 1)
    assert pacer.parallel == 1
    assert (pacer.learned().parallel or 0) >= 8


def test_one_odd_failure_among_many_costs_little() -> None:
    """A single lost call neither pauses the lane nor halves the calls under way; many at once do."""
    pacer = Pacer(RateLimits(), now=0.0)
    for _ in range(64):
        pacer.sent(0.0, 1, 1)
    for _ in range(50):
        pacer.answered(1.0, 1, 1)
    pacer.failed(1.0, 1, 1, ErrorKind.CONNECTION)
    assert pacer.parallel >= 58
    assert pacer.delay(1.0, 1, 1) == 0
    for _ in range(13):
        pacer.failed(1.1, 1, 1, ErrorKind.CONNECTION)
    assert pacer.parallel < 45


def test_an_empty_retry_budget_leaves_probes_only() -> None:
    """A provider that loses every second call for long gets one call at a time, until it has made up for it."""
    pacer = Pacer(RateLimits(), now=0.0)
    now = 0.0
    for count in range(400):
        pacer.sent(now, 1, 1)
        if count % 2:
            pacer.failed(now, 1, 1, ErrorKind.TIMEOUT)
        else:
            pacer.answered(now, 1, 1)
        now += 1 + pacer.delay(now, 1, 1)
    assert pacer.parallel == 1
    for _ in range(30):
        pacer.sent(now, 1, 1)
        pacer.answered(now, 1, 1)
        now += 1
    assert pacer.parallel > 1


def test_headers_are_believed_before_the_table() -> None:
    """A header's limit replaces the stated quota, and what it says is left bounds the room until its reset."""
    pacer = Pacer(RateLimits(requests=10, tokens=1000), now=0.0)
    pacer.sent(0.0, 1, 100)
    said = LimitHints(requests_limit=600, tokens_limit=60_000, tokens_remaining=5_000, tokens_reset_s=20.0)
    pacer.answered(0.1, 1, 100, used_tokens=100, hints=said)
    assert pacer.rate().requests_per_s > 9
    assert pacer.delay(0.1, 1, 6_000) > 15
    assert pacer.room(15.0)[1] <= 5_000
    assert pacer.delay(20.2, 1, 6_000) == 0


def test_headers_of_an_early_call_do_not_hide_later_ones() -> None:
    """What is left counts without the calls that were sent after the one that the headers are about."""
    pacer = Pacer(RateLimits(tokens=60_000), now=0.0)
    pacer.sent(0.0, 1, 1)
    pacer.sent(0.1, 1, 8_000)
    pacer.answered(0.2, 1, 1, hints=LimitHints(tokens_remaining=10_000, tokens_reset_s=30.0))
    assert pacer.room(0.2)[1] <= 2_000


def test_a_clock_that_jumps_back_changes_nothing() -> None:
    """An earlier time counts as the latest that was seen."""
    pacer = Pacer(RateLimits(items=60), now=100.0)
    pacer.sent(100.0, 60, 1)
    before = pacer.delay(110.0, 10, 1)
    assert pacer.delay(105.0, 10, 1) == pytest.approx(before)


def test_an_answer_to_a_call_that_was_never_sent_is_harmless() -> None:
    """What is unknown is taken as news about the provider, and nothing is counted twice."""
    pacer = Pacer(RateLimits(items=60), now=0.0)
    pacer.answered(0.0, 60, 100, used_tokens=100)
    pacer.failed(0.0, 60, 100, ErrorKind.BAD_INPUT)
    assert pacer.in_flight == 0
    assert pacer.delay(0.0, 60, 100) == 0
