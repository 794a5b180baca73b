"""Whoever leaves a run leaves nothing behind: no tasks, no calls, no threads of the engine; what is done is kept."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.integration.processor.services import Service, processor, texts_of, vector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


_OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _threads_of_others() -> None:
    """What was there before a test, such as a server of another one, is not the engine's."""
    _OTHERS.clear()
    _OTHERS.update(threading.enumerate())


def engine_threads() -> int:
    """Threads of lanes that are still busy or wait for work."""
    return sum(thread.name.startswith("embatch") for thread in threading.enumerate() if thread not in _OTHERS)


async def gone() -> None:
    """Until the engine's threads are, which end by themselves."""
    for _ in range(200):
        if not engine_threads():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("threads are left")


class Blocking(Service):
    """Answers some calls; those after that never."""

    def __init__(self, answered: int) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self._answered = answered

    async def generate_embeddings(self, texts: list[str]) -> Any:
        """A vector, or nothing for ever."""
        if len(self.calls) >= self._answered:
            self.reached.set()
            self.under_way += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.under_way -= 1
        return await super().generate_embeddings(texts)


def test_cancelling_the_task() -> None:
    """The task's cancellation cancels the calls; the vectors that were paid for are in `result`."""

    async def go() -> None:
        service = Blocking(3)
        one = processor(service, batch_size=10, max_concurrent_batches=1)
        task = asyncio.create_task(one.process_chunks(texts))
        await service.reached.wait()
        await asyncio.sleep(0.005)  # until the engine has taken the third answer
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert service.under_way == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await gone()
        assert one.result is not None
        done = np.isfinite(one.result.embeddings[:, 0])
        assert done.sum() == 30
        assert all(
            np.array_equal(one.result.embeddings[row], vector(texts[row])) for row in np.flatnonzero(done)
        )
        assert len(one.result.failures) == len(one.result) - 30

    texts = texts_of(200)
    asyncio.run(go())


def test_leaving_the_loop_of_progress() -> None:
    """A `break` ends the run as soon as the iterator is closed."""

    async def go() -> None:
        service = Service(delay_s=0.01)
        progresses = processor(service, batch_size=5).process_with_progress(texts_of(1000))
        async for progress in progresses:
            if progress.completed:
                break
        await progresses.aclose()
        calls = len(service.calls)
        await gone()
        assert (service.under_way, len(service.calls)) == (0, calls)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(go())


def test_cancelling_while_the_source_is_waited_for() -> None:
    """An async source that has nothing to give is cancelled with the run."""
    closed: list[bool] = []
    waiting = asyncio.Event()

    async def silent() -> AsyncIterator[str]:
        try:
            yield "a"
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def go() -> None:
        task = asyncio.create_task(processor(Service()).process_chunks(silent()))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await gone()

    asyncio.run(go())
    assert closed == [True]


def test_a_service_that_refuses_to_be_cancelled() -> None:
    """It is left alone: the run ends all the same, with its chunks named."""

    class Stubborn(Service):
        async def generate_embeddings(self, texts: list[str]) -> Any:
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                await asyncio.sleep(0.02)
            return await super().generate_embeddings(texts)

    async def go() -> int:
        result = await processor(Stubborn(), timeout=1.0, max_retries=1).process_chunks(["a", "b"])
        return len(result.failures)

    assert asyncio.run(go()) == 2
