"""The emulator's parts without HTTP: vectors, tokens, quotas, hours, jobs, the ledger, with `now` as an argument."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.emulator import ledger, timing
from embatch.emulator.catalog import MODELS, EmulatedModel, Price, find_model
from embatch.emulator.jobs import Job, advance, cancel, plan
from embatch.emulator.options import EmulatorOptions, JobTimes, Latency, Quotas, RowFaults, quotas_of
from embatch.emulator.prose import generated
from embatch.emulator.quotas import Bucket, Meter
from embatch.emulator.requests import Accepted, Requests
from embatch.emulator.rows import Outcome, Row, in_pieces, order, outcomes
from embatch.emulator.store import Store
from embatch.emulator.tokens import count_tokens, cut
from embatch.emulator.vectors import base64_rows, decimal_rows, hundred_millionths, vector

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.emulator.catalog import ProviderName

HOUR = 3600.0
EMBEDDING = [model for model in MODELS if model.verb == "embed"]


def model(name: str) -> EmulatedModel:
    found = find_model(name)
    assert found is not None
    return found


# --- vectors and tokens ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    which=st.sampled_from(EMBEDDING),
    texts=st.lists(st.text(st.characters()), min_size=1, max_size=5, unique=True),
    dims=st.integers(1, 1536),
)
def test_vectors_are_the_same_in_any_company_and_form(
    which: EmulatedModel, texts: list[str], dims: int
) -> None:
    """Alone or among others, as decimals or in base64: the same float32, and no two texts share one."""
    if which.min_dimensions is None:
        dims = which.dimensions
    together = hundred_millionths(which, texts, None, dims)
    decimals = [json.loads(b"[" + row + b"]") for row in decimal_rows(together)]
    packed = base64_rows(together)
    for text, numbers, binary in zip(texts, decimals, packed, strict=True):
        alone = vector(which.name, text, None, dims)
        np.testing.assert_array_equal(np.asarray(numbers, np.float32), alone)
        import base64

        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(binary), "<f4"), alone)
    if dims > 4:
        assert len({row.tobytes() for row in together}) == len(texts)


@pytest.mark.parametrize("dims", [1, 2, 127, 128, 129, 768, 1000])
@pytest.mark.parametrize("name", ["gemini-embedding-001", "gemini-embedding-2", "text-embedding-3-large"])
def test_cut_vectors_are_the_beginning_of_full_ones(name: str, dims: int) -> None:
    """Up to their length: that of the first model falls with its size, that of the others stays at one."""
    full, short = (vector(name, "some text", None, size) for size in (None, dims))
    assert np.linalg.norm(full) == pytest.approx(1, abs=1e-5)
    beginning = full[:dims] if name.endswith("001") else full[:dims] / np.linalg.norm(full[:dims])
    np.testing.assert_allclose(short, beginning, atol=2e-6)


def test_only_models_that_embed_have_vectors() -> None:
    """Unknown names, and models that generate, are refused."""
    for name in ("no-such-model", "gpt-4o-mini"):
        with pytest.raises(ValueError, match="no embedding model"):
            vector(name, "a")


PINNED = [0.03203446, 0.00908134, -0.01181988, -0.01214167]


def test_vectors_are_pinned() -> None:
    """The first numbers of one vector, so that a change of the rule is noticed by whoever recorded results."""
    assert vector("gemini-embedding-001", "hello", None, 768)[:4].tolist() == pytest.approx(PINNED, abs=1e-8)


@pytest.mark.parametrize(("text", "count"), [("", 1), ("a", 1), ("a" * 6, 2), ("a" * 40, 10), ("é" * 20, 10)])
def test_tokens_are_a_quarter_of_the_bytes(text: str, count: int) -> None:
    """At least one; of token ids, as many as there are."""
    assert count_tokens(text) == count
    assert count_tokens([1] * count) == count


@given(text=st.text(), tokens=st.integers(1, 20))
def test_a_cut_text_counts_no_more_than_it_may(text: str, tokens: int) -> None:
    """And it is the beginning of the whole one."""
    assert count_tokens(cut(text, tokens)) <= tokens
    assert text.startswith(cut(text, tokens))


@given(prompt=st.text(), most=st.none() | st.integers(4, 30))
def test_generated_text_is_the_prompts_own(prompt: str, most: int | None) -> None:
    """Always the same, within the limit, and in pieces that make the whole."""
    answer = generated(prompt, most)
    assert answer == generated(prompt, most)
    assert "".join(answer.pieces) == answer.text
    assert most is None or answer.tokens <= most
    assert answer.is_whole == (answer.text == generated(prompt).text)


# --- quotas ----------------------------------------------------------------------------------------------------------


def test_a_bucket_empties_at_once_and_fills_evenly() -> None:
    """A minute's amount can be had at once; then it comes back bit by bit, and never beyond the brim."""
    bucket = Bucket(60, now=0.0)
    bucket.take(60, 0.0)
    assert bucket.wait_s(30, 0.0) == 30
    assert bucket.wait_s(30, 29.0) == pytest.approx(1)
    assert bucket.level(1000.0) == 60
    assert bucket.wait_s(61, 1000.0) == math.inf
    bucket.resize(10, 1000.0)
    assert bucket.level(1000.0) == 10


@given(
    limit=st.integers(10, 1000),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 400)), min_size=1, max_size=40),
)
def test_no_minute_lets_through_more_than_a_bucket_and_its_refill(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    """In any 60 seconds at most twice the limit; what is refused takes nothing."""
    meter = Meter(Quotas(tokens=limit), 0.0)
    requests = Requests()
    now = 0.0
    for wait, amount in steps:
        now += wait
        exceeded = meter.admit(now, items=1, tokens=amount)
        if exceeded is None:
            requests.accepted.append(Accepted(now, "embed", 1, amount))
        else:
            assert exceeded.wait_s > 0
            assert math.isinf(exceeded.wait_s) == (amount > limit)
    assert requests.most_tokens() <= 2 * limit


def test_a_request_takes_from_all_limits_or_none() -> None:
    """The limit with the longest wait is named, and the others are not touched."""
    meter = Meter(Quotas(requests=10, items=10, tokens=100), 0.0)
    assert meter.admit(0.0, items=5, tokens=90) is None
    exceeded = meter.admit(0.0, items=5, tokens=20)
    assert exceeded is not None
    assert (exceeded.axis, exceeded.per, exceeded.limit, exceeded.used) == ("tokens", "minute", 100, 90)
    assert meter.left("items", 0.0) == (10, 5, 30.0)
    assert meter.left("requests", 0.0) == (10, 9, 6.0)


def test_days_begin_at_midnight() -> None:
    """What a day's quota says is used is forgotten at midnight, wherever virtual time began."""
    meter = Meter(Quotas(items_day=2, tokens_day=1000), 0.0, midnight=600.0)
    assert meter.admit(0.0, items=2, tokens=1) is None
    exceeded = meter.admit(10.0, items=1, tokens=1)
    assert exceeded is not None
    assert (exceeded.per, exceeded.wait_s) == ("day", 590.0)
    assert meter.admit(600.0, items=1, tokens=1) is None


def test_limits_can_change() -> None:
    """New ones hold at once, and lifting one lets everything through."""
    meter = Meter(Quotas(items=10), 0.0)
    assert meter.admit(0.0, items=10, tokens=1) is None
    meter.change(Quotas(items=5, tokens=5), 0.0)
    assert meter.admit(0.0, items=1, tokens=1) is not None
    meter.change(Quotas(), 0.0)
    assert meter.admit(0.0, items=1000, tokens=10**6) is None
    assert meter.left("items", 0.0) is None


def test_tiers_are_the_published_ones_with_exceptions() -> None:
    """What is said in so many words comes before the tier; a tier that a provider has not is refused."""
    quotas = quotas_of("gemini", EmulatorOptions(tier="1", quotas=Quotas(tokens=7)))
    assert (quotas.items, quotas.tokens, quotas.enqueued_tokens) == (3000, 7, 500_000)
    with pytest.raises(ValueError, match="no published quotas"):
        quotas_of("gemini", EmulatorOptions(tier="5"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quotas(items=-1),
        lambda: JobTimes(regime="sunny"),  # type: ignore[arg-type]  # that is the test
        lambda: JobTimes.fixed(-1.0),
        lambda: RowFaults(transient=0.7, internal=0.7),
        lambda: EmulatorOptions(time_scale=0.0),
        lambda: EmulatorOptions(tier="9"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any) -> None:
    """At construction, not in the middle of a run."""
    with pytest.raises(ValueError, match=r"not|between|above"):
        make()


def test_the_busiest_minute_is_found() -> None:
    """Of all stretches of a minute, the one in which most was let through."""
    requests = Requests(accepted=[Accepted(t, "embed", 10, 100) for t in (0.0, 30.0, 59.0, 61.0, 200.0)])
    assert (requests.most_items(), requests.most_tokens(), requests.most_items(1.0)) == (30, 300, 10)


# --- time ------------------------------------------------------------------------------------------------------------


def test_calls_take_as_long_as_the_evidence_says() -> None:
    """The median of single calls is the stated one; a packed call takes longer; none takes no time at all."""
    draw = random.Random(1)
    latency = Latency(stall_probability=0.0)
    single = sorted(timing.call_s(draw, latency, items=1, tokens=100) for _ in range(2001))
    assert single[1000] == pytest.approx(0.45 + 0.008, rel=0.1)
    packed = sorted(timing.call_s(draw, latency, items=100, tokens=20_000) for _ in range(2001))
    assert packed[1000] == pytest.approx(0.45 + 0.8 + 0.03, rel=0.1)
    assert timing.call_s(draw, Latency.none(), items=100, tokens=10**6, output_tokens=500) == 0


def test_stalls_are_rare_and_long() -> None:
    """Their share and their length are as stated."""
    draw = random.Random(1)
    latency = Latency(stall_probability=0.1)
    slow = [s for s in (timing.call_s(draw, latency, items=1, tokens=1) for _ in range(2000)) if s > 5]
    assert 140 <= len(slow) <= 260
    assert max(slow) < 35


def test_overload_comes_in_bursts() -> None:
    """Once in each stretch of time, for as long as is said, and never if it is switched off."""
    latency = Latency(burst_every_s=1000, burst_s=20, burst_probability=1.0)
    draw = random.Random(1)
    for stretch in range(5):
        hit = [t for t in range(1000) if timing.overloaded(draw, latency, 7, stretch * 1000 + t)]
        assert 19 <= len(hit) <= 21
        assert hit[-1] - hit[0] == len(hit) - 1
    assert not any(timing.overloaded(draw, Latency.none(), 7, t) for t in range(2000))


def test_regimes_follow_the_seed_and_can_be_forced() -> None:
    """The same seed has the same hours; in a year each of the three occurs; a forced one holds until it is lifted."""
    year = [hour * HOUR for hour in range(24 * 365)]
    one, other = (timing.Regimes(JobTimes(), 3) for _ in range(2))
    names = [one.at(t)[0] for t in year]
    assert names == [other.at(t)[0] for t in reversed(year)][::-1]
    shares = {name: names.count(name) / len(names) for name in ("good", "busy", "stuck")}
    assert shares["good"] > shares["busy"] > 0.05
    assert shares["stuck"] > 0.01
    one.force("stuck", 100.0)
    one.force(None, 200.0)
    assert one.at(50.0)[1] <= 100
    assert one.at(150.0) == ("stuck", 200.0)
    assert one.at(200.0)[0] == other.at(200.0)[0]


# --- jobs ------------------------------------------------------------------------------------------------------------


def job(provider: ProviderName = "openai", rows: int = 100, **options: Any) -> Job:
    return Job(
        id="job",
        provider=provider,
        verb="embed",
        model="m",
        created=0.0,
        updated=0.0,
        expires=0.0,
        rows=rows,
        **options,
    )


def planned(times: JobTimes, provider: ProviderName = "openai", **options: Any) -> tuple[Job, timing.Regimes]:
    made = job(provider, **options)
    plan(made, times, random.Random(1))
    return made, timing.Regimes(times, 1)


def test_a_fixed_job_takes_just_that_long() -> None:
    """Through all its phases, in order, with exact turning points however seldom one looks."""
    often, regimes = planned(JobTimes.fixed(100.0))
    seen = []
    for now in range(0, 110, 1):
        advance(often, float(now), regimes)
        seen += [often.state] if often.state not in seen else []
    assert seen == ["validating", "waiting", "running", "finalizing", "succeeded"]
    seldom, regimes = planned(JobTimes.fixed(100.0))
    advance(seldom, 1e6, regimes)
    for made in (often, seldom):
        assert made.running_at == pytest.approx(5)
        assert made.finalizing_at == pytest.approx(90)
        assert made.ended_at == pytest.approx(100)


def test_a_job_of_no_time_ends_at_once() -> None:
    """With a fixed time of zero the first look finds it ended."""
    made, regimes = planned(JobTimes.fixed(0.0))
    assert advance(made, 0.0, regimes)
    assert (made.state, made.ended_at) == ("succeeded", 0.0)


def test_rows_are_done_evenly_while_it_runs() -> None:
    """Half way through the run half of the rows are done."""
    made, regimes = planned(JobTimes.fixed(100.0))
    advance(made, 60.0, regimes)
    assert (made.state, made.completed) == ("running", 50)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000),
    provider=st.sampled_from(["gemini", "openai"]),
    looks=st.lists(st.floats(0, 3 * 86_400), max_size=30),
    stop=st.none() | st.floats(0, 86_400),
)
def test_looking_changes_nothing(
    seed: int, provider: ProviderName, looks: list[float], stop: float | None
) -> None:
    """A job that is looked at often ends as one that is looked at once: same state, same time, same rows."""
    ends = []
    for times in (sorted(looks), []):
        made = job(provider, rows=5000)
        plan(made, JobTimes(), random.Random(seed))
        regimes = timing.Regimes(JobTimes(), seed)
        for now in [*(t for t in times if stop is None or t < stop), *([stop] if stop is not None else [])]:
            advance(made, now, regimes)
        if stop is not None:
            cancel(made, stop)
        for now in [*(t for t in times if stop is None or t >= stop), 4 * 86_400.0]:
            advance(made, now, regimes)
        assert made.ended
        ends.append((made.state, made.completed, pytest.approx(made.ended_at, abs=1e-3)))
    assert ends[0][0] == ends[1][0]
    assert abs(ends[0][1] - ends[1][1]) <= 1
    assert ends[0][2] == ends[1][2].expected


def test_nothing_moves_in_stuck_hours() -> None:
    """A job waits through them, and goes on after them where it was."""
    times = JobTimes(regime="good", good_wait_s=1000.0, good_sigma=0.0)
    made, regimes = planned(times)
    regimes.force("stuck", 500.0)
    regimes.force(None, 500.0 + 2 * HOUR)
    advance(made, 1e6, regimes)
    assert made.finalizing_at is not None
    plain, regimes = planned(times)
    advance(plain, 1e6, regimes)
    assert plain.finalizing_at is not None
    assert made.finalizing_at - plain.finalizing_at == pytest.approx(2 * HOUR)


def test_busy_hours_make_the_queue_longer() -> None:
    """Ten minutes instead of 45 seconds, in the median."""
    waits = {}
    for regime in ("good", "busy"):
        found = []
        for seed in range(301):
            made = job("gemini")
            plan(made, JobTimes(regime=regime), random.Random(seed))
            advance(made, 86_400.0, timing.Regimes(JobTimes(regime=regime), seed))
            assert made.running_at is not None
            found.append(made.running_at)
        waits[regime] = sorted(found)[150]
    assert waits["good"] == pytest.approx(45, rel=0.2)
    assert waits["busy"] == pytest.approx(600, rel=0.3)


@pytest.mark.parametrize(("provider", "hours"), [("gemini", 48), ("openai", 24)])
def test_jobs_expire(provider: ProviderName, hours: int) -> None:
    """At the moment that they should, with nothing done if they never ran."""
    made, regimes = planned(JobTimes(regime="stuck"), provider)
    advance(made, hours * HOUR - 1, regimes)
    assert not made.ended
    advance(made, 1e6, regimes)
    assert (made.state, made.ended_at, made.completed) == ("expired", hours * HOUR, 0)


def test_cancelling_takes_a_while_and_keeps_the_rows_that_were_done() -> None:
    """Those that were done when it was asked for, not when it ended; asking twice changes nothing."""
    made, regimes = planned(JobTimes.fixed(100.0))
    advance(made, 60.0, regimes)
    cancel(made, 60.0)
    advance(made, 63.0, regimes)
    cancel(made, 63.0)
    assert made.state == "cancelling"
    advance(made, 100.0, regimes)
    assert (made.state, made.ended_at, made.completed) == ("cancelled", 65.0, 50)
    record = made.to_record()
    cancel(made, 101.0)
    assert made.to_record() == record


def test_a_job_survives_being_written_down() -> None:
    """As plain data and back, in the middle of its life."""
    made, regimes = planned(JobTimes.fixed(100.0), quirks={"job_stuck": 0.0})
    advance(made, 50.0, regimes)
    assert Job.from_record(json.loads(json.dumps(made.to_record()))) == made


# --- rows ------------------------------------------------------------------------------------------------------------


def test_shares_of_rows_fail_by_themselves() -> None:
    """About as many as the options say, the same ones each time, and others in another job."""
    made, other = job(rows=2000, state="succeeded"), job(rows=2000, state="succeeded")
    other.id = "other"
    rows = [Row(str(i)) for i in range(2000)]
    faults = RowFaults(transient=0.1, internal=0.05)
    found = outcomes(made, rows, faults, seed=1)
    assert found == outcomes(made, rows, faults, seed=1)
    assert found != outcomes(other, rows, faults, seed=1)
    assert 140 <= found.count(Outcome.TRANSIENT) <= 260
    assert 60 <= found.count(Outcome.INTERNAL) <= 140


@given(count=st.integers(0, 50), kind=st.sampled_from([None, "rows_missing", "duplicate_keys"]))
def test_the_order_holds_each_row_once_unless_that_was_scripted(count: int, kind: str | None) -> None:
    """A permutation; with one row doubled and one lost; or with some missing."""
    made = job(rows=count, source="f", quirks={} if kind is None else {kind: 0.0})
    found = order(made, count, None, seed=1)
    assert set(found) <= set(range(count))
    if kind is None:
        assert sorted(found) == list(range(count))
    elif kind == "rows_missing":
        assert len(found) == len(set(found)) == max(0, count - max(1, round(count * 0.1)))
    else:
        assert len(found) == count
        assert len(set(found)) == (count - 1 if count > 1 else count)


def test_a_file_comes_in_pieces_and_may_be_cut() -> None:
    """Whole lines in the right order; cut, the last one is not whole."""
    lines = [b"x" * 100_000] * 7
    pieces = list(in_pieces(iter(lines)))
    assert len(pieces) > 1
    assert b"".join(pieces) == b"".join(line + b"\n" for line in lines)
    assert b"".join(in_pieces(iter(lines), is_cut=True))[-1:] == b"x"
    assert list(in_pieces(iter([]))) == [b""]


# --- ledger and store ------------------------------------------------------------------------------------------------


def test_the_ledger_counts_and_prices_each_text(tmp_path: Path) -> None:
    """By lane and model, with prices that may be set; a text that was billed twice shows."""
    store = Store(tmp_path)
    options = EmulatorOptions(prices={"text-embedding-3-large": Price(individual=1.0, batch=0.5)})
    small, large = model("text-embedding-3-small"), model("text-embedding-3-large")
    ledger.bill(store, options, small, [ledger.Charge("a", 1_000_000)], now=1.0)
    ledger.bill(
        store, options, large, [ledger.Charge("a", 1_000_000), ledger.Charge("b", 0)], now=2.0, job="j"
    )
    found = ledger.billing(store)
    store.close()
    assert [(entry.time, entry.lane, entry.job) for entry in found.entries] == [
        (1.0, "individual", None),
        (2.0, "batch", "j"),
        (2.0, "batch", "j"),
    ]
    assert found.dollars == pytest.approx(0.02 + 0.5)
    assert (found.texts, found.tokens) == (3, 2_000_000)
    assert (found.billed("a"), found.billed("b"), found.billed("c")) == (2, 1, 0)
    assert found.twice == [ledger.digest("a")]
    assert [total.texts for total in found.lane("batch")] == [2]


def test_a_bill_is_entered_whole_or_not_at_all() -> None:
    """A charge that breaks in the middle leaves nothing."""
    store = Store(None)

    def charges() -> Any:
        yield ledger.Charge("a", 1)
        raise RuntimeError("in the middle")

    def bill_both() -> None:
        small = model("text-embedding-3-small")
        with store.transaction():
            ledger.bill(store, EmulatorOptions(), small, [ledger.Charge("b", 1)], now=0.0)
            ledger.bill(store, EmulatorOptions(), small, charges(), now=0.0)

    with pytest.raises(RuntimeError, match="in the middle"):
        bill_both()
    assert ledger.billing(store).texts == 0
    store.close()


def test_a_store_keeps_records_in_the_order_of_their_first_coming(tmp_path: Path) -> None:
    """A record that changes stays in its place; a deleted one is gone; all of it is there at the next opening."""
    store = Store(tmp_path)
    for name in "abc":
        store.put("job", name, {"id": name})
    store.put("job", "a", {"id": "a", "more": 1})
    store.delete("job", "b")
    store.write("f", b"content")
    store.link("f", "g")
    store.remove("f")
    store.close()
    again = Store(tmp_path)
    assert list(again.all("job")) == [{"id": "a", "more": 1}, {"id": "c"}]
    assert again.path("g").read_bytes() == b"content"
    again.close()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        Store(tmp_path / "files" / "g")
