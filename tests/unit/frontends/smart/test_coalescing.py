"""Coalescing: requests that arrive together go together, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.fake_provider import vector

from embatch.errors import BackendClosedError, ItemProviderError, ProviderError, UsageError
from embatch.frontends.smart.coalescing import Coalescer
from embatch.frontends.smart.rules import Asked
from embatch.gemini import CoalescingSmartClient, EmbeddingRequest, EmbeddingResult
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fake_provider import FakeProvider

    Make = Callable[..., Any]

SHORT_S, LONG_S = 0.02, 3600.0


class Sent:
    """What a coalescer sends: counted, and answered by name."""

    def __init__(self) -> None:
        self.piles: list[list[str]] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()

    def __call__(self, requests: list[EmbeddingRequest], asked: Asked) -> list[EmbeddingResult]:
        self.piles.append([request.text for request in requests])
        self.began.set()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return [EmbeddingResult(request.tag, [float(len(request.text))]) for request in requests]


def requests(*texts: str) -> list[EmbeddingRequest]:
    return [EmbeddingRequest(text, tag=text) for text in texts]


def test_what_arrives_within_the_window_goes_together() -> None:
    """Each caller gets its own results, in its own order."""
    sent = Sent()
    coalescer = Coalescer(sent, window_s=SHORT_S, full=100)
    futures = [coalescer.submit(requests(*texts), Asked()) for texts in (("a", "bb"), ("ccc",), ())]
    assert [[r.tag for r in future.result(10)] for future in futures] == [["a", "bb"], ["ccc"], []]
    assert sent.piles == [["a", "bb", "ccc"]]
    coalescer.close()


def test_a_full_call_waits_for_nothing() -> None:
    """The window is the longest wait: with enough at hand it goes at once."""
    sent = Sent()
    coalescer = Coalescer(sent, window_s=LONG_S, full=3)
    first = coalescer.submit(requests("a"), Asked())
    second = coalescer.submit(requests("b", "c"), Asked())
    assert [r.tag for future in (first, second) for r in future.result(10)] == ["a", "b", "c"]
    alone = coalescer.submit(requests("d", "e", "f", "g"), Asked())
    assert len(alone.result(10)) == 4
    assert sent.piles == [["a", "b", "c"], ["d", "e", "f", "g"]]
    coalescer.close()


def test_those_who_ask_for_another_lane_are_piled_apart() -> None:
    """A forced lane is not forced upon others."""
    sent = Sent()
    coalescer = Coalescer(sent, window_s=LONG_S, full=2)
    coalescer.submit(requests("slow"), Asked(batch=True))
    fast = [coalescer.submit(requests(text), Asked(individual=True)) for text in ("a", "b")]
    assert [future.result(10)[0].tag for future in fast] == ["a", "b"]
    assert sent.piles == [["a", "b"]]
    coalescer.close()
    assert sent.piles == [["a", "b"], ["slow"]]


def test_a_waiter_that_leaves_in_time_takes_its_texts_along() -> None:
    """And disturbs no other; one that leaves later does not either."""
    sent = Sent()
    coalescer = Coalescer(sent, window_s=LONG_S, full=3)
    gone = coalescer.submit(requests("gone"), Asked())
    assert gone.cancel()
    sent.gate.clear()
    kept = coalescer.submit(requests("a"), Asked())
    late = coalescer.submit(requests("late"), Asked())
    assert sent.began.wait(10)
    assert not late.cancel()
    sent.gate.set()
    assert (kept.result(10)[0].tag, late.result(10)[0].tag) == ("a", "late")
    assert sent.piles == [["a", "late"]]
    coalescer.close()


def test_every_waiter_hears_of_a_failure() -> None:
    """What ends the run reaches each caller."""
    sent = Sent()
    sent.error = ProviderError("no key", kind=ErrorKind.AUTH)
    coalescer = Coalescer(sent, window_s=LONG_S, full=2)
    futures = [coalescer.submit(requests(text), Asked()) for text in ("a", "b")]
    for future in futures:
        with pytest.raises(ProviderError, match="no key"):
            future.result(10)
    coalescer.close()


def test_closing_sends_what_waits_and_takes_nothing_more() -> None:
    """Nobody is left waiting, also if a pile is just under way."""
    sent = Sent()
    coalescer = Coalescer(sent, window_s=LONG_S, full=2)
    waiting = coalescer.submit(requests("a"), Asked())
    coalescer.close()
    assert waiting.done()
    coalescer.close()
    with pytest.raises(BackendClosedError):
        coalescer.submit(requests("b"), Asked())


def client(make: Make, **options: Any) -> CoalescingSmartClient:
    made: CoalescingSmartClient = make(kind=CoalescingSmartClient, **options)
    return made


def test_tasks_share_one_call(make: Make, fake: FakeProvider) -> None:
    """Ten awaiting callers, one packed call, each with its own vector."""
    coalescing = client(make, coalesce_window=LONG_S * 2000)

    async def main() -> list[list[EmbeddingResult]]:
        asked = (
            coalescing.embed_content([EmbeddingRequest(f"t{i}", tag=str(i))], force_individual=True)
            for i in range(10)
        )
        return await asyncio.gather(*asked)

    found = asyncio.run(main())
    assert [(r[0].tag, r[0].embedding) for r in found] == [
        (str(i), vector(f"t{i}").tolist()) for i in range(10)
    ]
    assert [sorted(call) for call in fake.calls] == [sorted(f"t{i}" for i in range(10))]


def test_threads_share_one_call_too(make: Make, fake: FakeProvider) -> None:
    """The blocking form; the combined number decides the lane."""
    coalescing = client(make, coalesce_window=LONG_S * 2000)  # only a full call ends the wait
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda i: coalescing.embed_content_sync([f"t{i}"]), range(10)))
    assert [r[0].embedding for r in found] == [vector(f"t{i}").tolist() for i in range(10)]
    assert (fake.calls, len(fake.jobs)) == ([], 1)


def test_a_bad_text_or_request_hurts_its_own_caller_only(make: Make, fake: FakeProvider) -> None:
    """A refused text is that caller's result; a request that makes no sense is that caller's error, at once."""

    def before_call(sent: Sequence[str]) -> None:
        if "poison" in sent:
            raise ProviderError("no poison here", kind=ErrorKind.BAD_INPUT)

    fake.before_call = before_call
    coalescing = client(make, coalesce_window=400.0)

    async def main() -> tuple[Any, ...]:
        return await asyncio.gather(
            coalescing.embed_content(["fine"]),
            coalescing.embed_content(["poison"]),
            coalescing.embed_content([EmbeddingRequest("x", task_type="DANCING")]),
            coalescing.embed_content("no list"),
            coalescing.aembed_content([]),
            return_exceptions=True,
        )

    fine, poison, wrong, single, empty = asyncio.run(main())
    assert fine[0].embedding == vector("fine").tolist()
    assert isinstance(poison[0].exception, ItemProviderError)
    assert isinstance(wrong, UsageError)
    assert isinstance(single, UsageError)
    assert empty == []


def test_a_cancelled_task_leaves_the_others_alone(make: Make, fake: FakeProvider) -> None:
    """Its text is not sent, and the loop goes on."""
    coalescing = client(make, coalesce_window=LONG_S * 2000)

    async def main() -> list[EmbeddingResult]:
        stays = asyncio.create_task(coalescing.embed_content([f"t{i}" for i in range(5)]))
        leaves = asyncio.create_task(coalescing.embed_content(["gone"]))
        await asyncio.wait([leaves], timeout=0.05)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        more = asyncio.create_task(coalescing.embed_content([f"u{i}" for i in range(5)]))
        await more
        return await stays

    assert len(asyncio.run(main())) == 5
    assert "gone" not in fake.billed()


def test_a_negative_window_is_refused(make: Make) -> None:
    """When the client is made."""
    with pytest.raises(UsageError, match="coalesce_window"):
        client(make, coalesce_window=-1.0)
