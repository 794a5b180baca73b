"""Synchronous calls that are refused, lost, or answered with nonsense."""

from __future__ import annotations

import math
import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.fake_provider import FakeProvider, facts, vector

from embatch.engine.lanes.clock import Clock
from embatch.engine.window import as_items
from embatch.errors import DiskFullError, ItemProviderError, ItemsFailedError, ProviderError
from embatch.remote import CallAnswer, CallLimits, ErrorKind, Generated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.unit.engine.lanes.conftest import OpenLanes

    from embatch.types import FloatArray

    Spoil = Callable[[Any], object]

pytestmark = pytest.mark.timeout(60)


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(count)]


def expected(some: Sequence[str]) -> FloatArray:
    return np.stack([vector(text) for text in some])


class Refusing:
    """Refuses calls for a reason, counts what it was asked, and forgets nothing."""

    def __init__(self, refuses: Callable[[Sequence[str]], ErrorKind | None]) -> None:
        self.asked: Counter[tuple[str, ...]] = Counter()
        self.sizes: list[int] = []
        self._refuses = refuses

    def __call__(self, sent: Sequence[str]) -> None:
        self.asked[tuple(sent)] += 1
        self.sizes.append(len(sent))
        kind = self._refuses(sent)
        if kind is not None:
            raise ProviderError(f"refused: {kind}", kind=kind)


def poisoned(bad: set[str], kind: ErrorKind) -> Refusing:
    return Refusing(lambda sent: kind if bad & set(sent) else None)


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS])
def test_a_call_that_is_too_large_is_split_and_never_repeated(lanes: OpenLanes, kind: ErrorKind) -> None:
    """A refused size is halved, no call is repeated unchanged, and every text is paid for once."""
    refusing = Refusing(lambda sent: kind if len(sent) > 7 else None)
    provider = FakeProvider(facts=facts(call=CallLimits(items=64, item_tokens=100)), before_call=refusing)
    result = lanes(provider, parallel=2).embed(texts(300))
    np.testing.assert_array_equal(result.vectors, expected(texts(300)))
    assert max(refusing.asked.values()) == 1
    assert set(provider.billed().values()) == {1}
    assert provider.billed().total() == 300


def test_a_learned_limit_is_remembered(lanes: OpenLanes) -> None:
    """After a size was refused, no call of the run or the next one is that large."""
    refusing = Refusing(lambda sent: ErrorKind.TOO_MANY_ITEMS if len(sent) > 20 else None)
    provider = FakeProvider(facts=facts(call=CallLimits(items=64, item_tokens=100)), before_call=refusing)
    embedder = lanes(provider, parallel=1)
    embedder.embed(texts(300))
    assert sum(size > 20 for size in refusing.sizes) <= 2  # 64, 32
    refusing.sizes.clear()
    embedder.embed([f"other {n}" for n in range(300)])
    assert max(refusing.sizes) <= 20


@pytest.mark.parametrize("kind", [ErrorKind.BAD_INPUT, ErrorKind.INPUT_TOO_LONG])
@pytest.mark.parametrize("culprits", [1, 3])
def test_texts_to_blame_are_found_in_few_calls(lanes: OpenLanes, kind: ErrorKind, culprits: int) -> None:
    """k refused texts among n cost O(k log n) calls, are named with the provider's words, and nothing else fails."""
    n, size = 256, 64
    bad = {f"text {n * (2 * i + 1) // (2 * culprits)}" for i in range(culprits)}
    refusing = poisoned(bad, kind)
    provider = FakeProvider(facts=facts(call=CallLimits(items=size, item_tokens=100)), before_call=refusing)
    result = lanes(provider).embed(texts(n), on_error="collect")
    assert {f"text {failure.row}" for failure in result.errors} == bad
    assert all(isinstance(failure.error, ItemProviderError) for failure in result.errors)
    assert all(str(kind) in str(failure.error) for failure in result.errors)
    good = [row for row in range(n) if f"text {row}" not in bad]
    np.testing.assert_array_equal(result.vectors[good], expected([f"text {row}" for row in good]))
    assert refusing.asked.total() <= n // size + culprits * (2 * math.log2(size) + 1)
    assert max(refusing.asked.values()) == 1
    assert (result.report.failed, result.report.embedded) == (culprits, n - culprits)


def test_a_refused_text_is_raised_if_failures_are(lanes: OpenLanes) -> None:
    """With `on_error="raise"` the refused text ends the call by its name."""
    provider = FakeProvider(before_call=poisoned({"text 3"}, ErrorKind.BAD_INPUT))
    with pytest.raises(ItemsFailedError) as caught:
        lanes(provider).embed(texts(20))
    assert [failure.row for failure in caught.value.failures] == [3]


def test_texts_that_time_out_are_found(lanes: OpenLanes) -> None:
    """A text on which calls break off is sent alone in the end, and named; the others come through."""
    refusing = poisoned({"text 11"}, ErrorKind.TIMEOUT)
    provider = FakeProvider(before_call=refusing)
    result = lanes(provider).embed(texts(100), on_error="collect")
    assert [failure.row for failure in result.errors] == [11]
    assert refusing.asked["text 11",] >= 1
    assert np.isfinite(np.delete(result.vectors, 11, axis=0)).all()
    assert refusing.asked.total() < 60


# --- answers that are wrong ----------------------------------------------------------------------------------------


def nan(good: FloatArray) -> FloatArray:
    return good * np.float32("nan")


def infinite(good: FloatArray) -> FloatArray:
    return good / np.float32(0)


WRONG: dict[str, Spoil] = {
    "nan": nan,
    "zeros": np.zeros_like,
    "shorter": lambda good: good[:-1],
    "flat": lambda good: good[None],
    "double": lambda good: good.astype(np.float64),
    "none": lambda _: None,
    "text": lambda _: Generated("a vector, honestly"),
    "error": lambda _: ProviderError("row failed", kind=ErrorKind.OVERLOADED),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_vector_is_asked_for_again(lanes: OpenLanes, wrong: str) -> None:
    """A vector that cannot be one is not stored; the text is sent again, and then right."""
    spoilt: list[str] = []

    def answer(sent: Sequence[str], good: CallAnswer) -> CallAnswer:
        if "text 7" not in sent or len(spoilt) == 2:
            return good
        spoilt.append("text 7")
        results = [
            WRONG[wrong](v) if text == "text 7" else v for text, v in zip(sent, good.results, strict=True)
        ]
        return CallAnswer(results=results)  # type: ignore[arg-type]  # what no provider may answer

    provider = FakeProvider(answer=answer)
    result = lanes(provider).embed(texts(20))
    np.testing.assert_array_equal(result.vectors, expected(texts(20)))
    assert provider.billed()["text 7"] == 3
    assert provider.billed().total() == 22


@pytest.mark.parametrize("wrong", WRONG)
def test_a_text_whose_vector_stays_wrong_is_named(lanes: OpenLanes, wrong: str) -> None:
    """After a few tries the text is named as failed; the wrong vector is stored nowhere."""
    from embatch.storage.cache import MemoryStore

    def answer(sent: Sequence[str], good: CallAnswer) -> CallAnswer:
        results = [
            WRONG[wrong](v) if text == "text 7" else v for text, v in zip(sent, good.results, strict=True)
        ]
        return CallAnswer(results=results)  # type: ignore[arg-type]  # what no provider may answer

    provider, store = FakeProvider(answer=answer), MemoryStore()
    embedder = lanes(provider, cache=store)
    result = embedder.embed(texts(20), on_error="collect")
    assert [failure.row for failure in result.errors] == [7]
    assert np.isnan(result.vectors[7]).all()
    assert provider.billed()["text 7"] == 4
    provider.answer = None
    again = embedder.embed(texts(20))
    assert (again.report.cached, again.report.embedded) == (19, 1)
    np.testing.assert_array_equal(again.vectors, expected(texts(20)))


@pytest.mark.parametrize("change", [-1, 1])
def test_an_answer_of_the_wrong_length_is_not_believed(lanes: OpenLanes, change: int) -> None:
    """Fewer or more results than texts cannot be told apart: all of the call is sent again."""
    left = [2]

    def answer(sent: Sequence[str], good: CallAnswer) -> CallAnswer:
        if not left[0]:
            return good
        left[0] -= 1
        results = list(good.results)
        return CallAnswer(results=results[:-1] if change < 0 else [*results, results[0]])

    provider = FakeProvider(answer=answer)
    result = lanes(provider, parallel=1).embed(texts(40))
    np.testing.assert_array_equal(result.vectors, expected(texts(40)))
    assert provider.billed().total() == 60


def test_a_text_with_which_answers_come_short_is_named(lanes: OpenLanes) -> None:
    """If one text makes every answer come short, it alone fails."""

    def answer(sent: Sequence[str], good: CallAnswer) -> CallAnswer:
        return CallAnswer(
            results=[v for text, v in zip(sent, good.results, strict=True) if text != "text 30"]
        )

    result = lanes(FakeProvider(answer=answer)).embed(texts(60), on_error="collect")
    assert [failure.row for failure in result.errors] == [30]


# --- waiting -------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_delay_is_over(lanes: OpenLanes) -> None:
    """After a refusal with a delay, no call goes before the provider said, whatever the own backoff would be."""
    clock = Clock(1000)
    refused_at: list[float] = []
    sent_at: list[float] = []

    def before_call(_: Sequence[str]) -> None:
        now = clock.now()
        sent_at.append(now)
        if len(sent_at) in {3, 8}:
            refused_at.append(now)
            raise ProviderError("slow down", kind=ErrorKind.RATE_MINUTE, retry_after_s=200.0)

    provider = FakeProvider(before_call=before_call)
    result = lanes(provider, clock=clock, parallel=1).embed(texts(100))
    np.testing.assert_array_equal(result.vectors, expected(texts(100)))
    for refused in refused_at:
        later = [at for at in sent_at if at > refused]
        assert min(later) >= refused + 200.0
    assert set(provider.billed().values()) == {1}
    lane = result.report.lanes
    assert lane is not None
    assert lane.calls_refused == 2
    assert lane.calls == len(sent_at)


@pytest.mark.parametrize(
    "kind", [ErrorKind.CONNECTION, ErrorKind.TIMEOUT, ErrorKind.OVERLOADED, ErrorKind.PROTOCOL]
)
def test_lost_calls_are_repeated(lanes: OpenLanes, kind: ErrorKind) -> None:
    """Calls that break are sent again until they come through, and no text is blamed for it."""
    left = [6]

    def before_call(_: Sequence[str]) -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("gone", kind=kind)

    provider = FakeProvider(before_call=before_call)
    result = lanes(provider, clock=Clock(100)).embed(texts(80))
    np.testing.assert_array_equal(result.vectors, expected(texts(80)))
    assert set(provider.billed().values()) == {1}


def test_foreign_exceptions_do_not_escape(lanes: OpenLanes) -> None:
    """Whatever a provider raises against its promise is an answer that makes no sense: the call is sent again."""
    left = [3]

    def before_call(_: Sequence[str]) -> None:
        if left[0]:
            left[0] -= 1
            raise ZeroDivisionError("in somebody's library")

    result = lanes(FakeProvider(before_call=before_call)).embed(texts(50))
    np.testing.assert_array_equal(result.vectors, expected(texts(50)))


def test_a_provider_that_stays_away_ends_the_run(lanes: OpenLanes) -> None:
    """Ten minutes without any answer end the run with the provider's own error, and no text is blamed."""

    def before_call(_: Sequence[str]) -> None:
        raise ProviderError("no route to host", kind=ErrorKind.CONNECTION)

    with pytest.raises(ProviderError, match="no route to host"):
        lanes(FakeProvider(before_call=before_call)).embed(texts(5))


# --- the end -------------------------------------------------------------------------------------------------------

FATAL = [ErrorKind.AUTH, ErrorKind.NOT_FOUND, ErrorKind.RATE_DAY, ErrorKind.QUOTA_MONEY]


@pytest.mark.parametrize("kind", FATAL)
def test_what_was_paid_is_kept_when_nothing_more_can_succeed(lanes: OpenLanes, kind: ErrorKind) -> None:
    """A refused key or a used-up quota ends the run at once; what calls brought until then is in the store."""
    from embatch.storage.cache import MemoryStore

    count = [0]

    def before_call(_: Sequence[str]) -> None:
        count[0] += 1
        if count[0] > 5:
            raise ProviderError(f"no more: {kind}", kind=kind)

    provider, store = FakeProvider(before_call=before_call), MemoryStore()
    with pytest.raises(ProviderError, match="no more") as caught:
        lanes(provider, cache=store, parallel=3).embed(texts(200))
    assert caught.value.kind is kind
    assert count[0] <= 5 + 3
    assert provider.billed().total() == 50
    provider.before_call = None
    again = lanes(provider, cache=store).embed(texts(200))
    assert (again.report.cached, again.report.embedded) == (50, 150)
    assert set(provider.billed().values()) == {1}


def test_an_answer_that_is_late_is_kept_when_the_run_ends(lanes: OpenLanes) -> None:
    """A call that is under way when another one ends the run is waited for, and its vectors are stored."""
    from embatch.storage.cache import MemoryStore

    ended = threading.Event()

    def before_call(sent: Sequence[str]) -> None:
        if "text 0" in sent:
            ended.wait(5)
        else:
            ended.set()
            raise ProviderError("no such model", kind=ErrorKind.NOT_FOUND)

    provider, store = FakeProvider(before_call=before_call), MemoryStore()
    with pytest.raises(ProviderError, match="no such model"):
        lanes(provider, cache=store, parallel=2).embed(texts(200))
    provider.before_call = None
    assert lanes(provider, cache=store).embed(texts(200)).report.cached == 10


def test_a_run_that_broke_leaves_nothing_behind_for_the_next(lanes: OpenLanes) -> None:
    """After a run that ended early, the same Embedder works at once: no call of it counts as under way."""
    provider = FakeProvider()
    embedder = lanes(provider, parallel=1)

    class Broken:
        """A store on a disk that is full."""

        def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
            return {}

        def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
            raise DiskFullError("no space left")

        def close(self) -> None:
            pass

    with pytest.raises(DiskFullError):
        list(embedder.pipeline(store=Broken()).run(as_items(texts(50))))
    np.testing.assert_array_equal(embedder.embed(texts(50)).vectors, expected(texts(50)))


@pytest.mark.parametrize("kind", FATAL)
def test_what_was_not_sent_is_named_if_failures_are_collected(lanes: OpenLanes, kind: ErrorKind) -> None:
    """With `collect`, the vectors at hand come back, and the rest is named with the reason."""
    count = [0]

    def before_call(_: Sequence[str]) -> None:
        count[0] += 1
        if count[0] > 5:
            raise ProviderError("no more", kind=kind)

    result = lanes(FakeProvider(before_call=before_call), parallel=1).embed(texts(200), on_error="collect")
    assert len(result.errors) == 150
    assert {type(failure.error).__name__ for failure in result.errors} == {"NotSentError"}
    assert "no more" in str(result.errors[0].error)
    np.testing.assert_array_equal(result.vectors[:50], expected(texts(50)))
    assert result.report.failed + result.report.embedded == 200


@pytest.mark.parametrize("kind", [ErrorKind.CONNECTION, ErrorKind.PROTOCOL, ErrorKind.TIMEOUT])
def test_a_provider_that_never_answers_ends_the_run(lanes: OpenLanes, kind: ErrorKind) -> None:
    """The run ends soon, the error says how long it was tried; what waited goes through with the next run."""
    refusing = Refusing(lambda _: kind)
    provider = FakeProvider(before_call=refusing)
    with pytest.raises(ProviderError, match=r"refused: .*; tried for") as caught:
        lanes(provider, "individual").embed(texts(3))
    assert caught.value.kind is kind
    provider.before_call = None
    result = lanes(provider, "individual").embed(texts(3))
    np.testing.assert_array_equal(result.vectors, expected(texts(3)))


@pytest.mark.parametrize("cause", [ConnectionRefusedError(), socket.gaierror()])
def test_what_nobody_took_costs_nothing(lanes: OpenLanes, cause: OSError) -> None:
    """A refused connection is not on the bill; the texts go through when somebody listens again."""
    left = [6]

    def refuse(_: Sequence[str]) -> None:
        if left[0]:
            left[0] -= 1
            raise ProviderError("no connection", kind=ErrorKind.CONNECTION) from cause

    provider = FakeProvider(before_call=refuse)
    result = lanes(provider).embed(texts(3))
    np.testing.assert_array_equal(result.vectors, expected(texts(3)))
    assert result.report.lanes is not None
    assert result.report.lanes.calls_failed == 6
    assert result.report.tokens == lanes(FakeProvider()).embed(texts(3)).report.tokens
