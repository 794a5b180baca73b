"""Coalescing: requests that arrive together go together, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.fake_provider import vector

from embatch.errors import BackendClosedError, ItemProviderError, ProviderError, UsageError
from embatch.gemini import CoalescingSmartClient, EmbeddingRequest, EmbeddingResult
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fake_provider import FakeProvider

    Make = Callable[..., Any]

LONG_S = 3600.0


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


def keepers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "embatch-piles"}


def test_a_forced_lane_is_not_forced_upon_others(make: Make, fake: FakeProvider) -> None:
    """Those who ask for jobs are combined among themselves, and so are those who ask for calls."""
    coalescing = client(make, coalesce_window=400.0)

    async def main() -> list[list[EmbeddingResult]]:
        slow = (coalescing.embed_content([f"s{i}"], force_batch=True) for i in range(3))
        fast = (coalescing.embed_content([f"f{i}"], force_individual=True) for i in range(3))
        return await asyncio.gather(*slow, *fast)

    found = asyncio.run(main())
    assert [r[0].embedding for r in found] == [
        vector(f"{name}{i}").tolist() for name in "sf" for i in range(3)
    ]
    assert [sorted(call) for call in fake.calls] == [["f0", "f1", "f2"]]
    assert [sorted(job.texts) for job in fake.jobs.values()] == [["s0", "s1", "s2"]]


def test_every_waiter_hears_of_a_failure(make: Make, fake: FakeProvider) -> None:
    """What ends the run reaches each caller, as it is."""

    def before_call(sent: Sequence[str]) -> None:
        raise ProviderError(f"no key for {len(sent)}", kind=ErrorKind.AUTH)

    fake.before_call = before_call
    coalescing = client(make, coalesce_window=400.0)

    async def main() -> list[Any]:
        asked = (coalescing.embed_content([text]) for text in "ab")
        return await asyncio.gather(*asked, return_exceptions=True)

    for error in asyncio.run(main()):
        assert isinstance(error, ProviderError)
        assert "no key" in str(error)


def test_closing_sends_what_waits_and_takes_nothing_more(make: Make, fake: FakeProvider) -> None:
    """Nobody is left waiting, however long the window."""
    coalescing = client(make, coalesce_window=LONG_S * 2000)
    before = keepers()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(coalescing.embed_content_sync, ["a"])
        while not keepers() - before:  # made under the lock under which the ask is let in
            assert not waiting.done()
        coalescing.close()
        assert waiting.result(10)[0].embedding == vector("a").tolist()
    coalescing.close()
    with pytest.raises(BackendClosedError):
        coalescing.embed_content_sync(["b"])


def test_a_negative_window_is_refused(make: Make) -> None:
    """When the client is made."""
    with pytest.raises(UsageError, match="coalesce_window"):
        client(make, coalesce_window=-1.0)
