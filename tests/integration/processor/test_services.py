"""A processor over an embedding service: every chunk ends as its own vector or as a named failure."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.integration.processor.services import DIMENSIONS, Service, processor, texts_of, vector

from embatch.errors import ItemProviderError, NotSentError, UsageError
from embatch.frontends.processor.processor import BatchEmbeddingProcessor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from embatch.frontends.processor.records import BatchProgress, ProcessResult


def right(result: ProcessResult, texts: list[str], *, without: frozenset[int] = frozenset()) -> bool:
    """Whether each row is its text's vector, and the rows without one are the failures."""
    wanted = np.array([vector(text) for text in texts])
    wanted[sorted(without)] = np.nan
    assert {failure.row for failure in result.failures} == without
    return bool(np.array_equal(result.embeddings, wanted, equal_nan=True))


def process(service: object, chunks: Any, **options: Any) -> ProcessResult:
    """One run."""
    return asyncio.run(processor(service, **options).process_chunks(chunks))


async def watched(service: object, chunks: Any, **options: Any) -> tuple[list[BatchProgress], Any]:
    """All progress of a run, and what was kept of it."""
    one = processor(service, **options)
    return [progress async for progress in one.process_with_progress(chunks)], one.result


def test_vectors_in_the_order_of_the_chunks() -> None:
    """Full batches, not more at once than allowed, every vector at its chunk, tokens and dollars counted."""
    service, texts = Service(delay_s=0.02), texts_of(250)
    result = process(service, texts, batch_size=20, max_concurrent_batches=3)
    assert right(result, texts)
    assert [len(call) for call in service.calls] == [20] * 12 + [10]
    assert (service.most, result.batches_processed) == (3, 13)
    assert (result.usage, result.model) == ({"total_tokens": 750}, "text-embedding-3-small")
    assert result.cost == pytest.approx(750 * 0.02 / 1e6)


def test_progress() -> None:
    """Progress grows, ends complete, and hands every chunk's vector over exactly once."""
    texts = texts_of(100)
    seen, result = asyncio.run(
        watched(Service(delay_s=0.005), texts, batch_size=10, max_concurrent_batches=2)
    )
    done = [progress.completed for progress in seen]
    assert done == sorted(done)
    assert len(seen) > 1
    last = seen[-1]
    assert (last.total, last.completed, last.failed, last.batches_processed) == (100, 100, 0, 10)
    assert (last.percentage, last.eta) == (100.0, 0.0)
    assert last.rate > 0
    handed = [one for progress in seen for one in progress.results]
    assert [(one.row, one.key, one.chunk) for one in handed] == [
        (i, str(i), text) for i, text in enumerate(texts)
    ]
    assert all(
        one.vector is not None and np.array_equal(one.vector, vector(str(one.chunk))) for one in handed
    )
    assert right(result, texts)


@pytest.mark.parametrize("chunks", [[], iter(()), ()], ids=["list", "iterator", "tuple"])
def test_nothing_to_do(chunks: object) -> None:
    """No chunks: one progress, complete, and an empty result; the service is left alone."""
    service = Service()
    (last,), _ = asyncio.run(watched(service, chunks))
    assert (last.total, last.completed, last.percentage) == (0, 0, 100.0)
    assert process(service, []).embeddings.shape == (0, 0)
    assert service.calls == []


def test_equal_texts_are_paid_for_once() -> None:
    """Repeated chunks take the vector of the first."""
    service, texts = Service(), ["a", "b", "a"] * 50
    result = process(service, texts)
    assert right(result, texts)
    assert service.calls == [["a", "b"]]
    assert result.spent.repeated == 148


def test_streams_are_read_in_bounded_memory() -> None:
    """Of an open-ended source nothing is kept, and no more than a portion is read ahead of what was handed over."""
    ahead = handed = 0

    def source() -> Iterator[str]:
        nonlocal ahead
        for i in range(12_000):
            ahead = max(ahead, i - handed)
            yield f"chunk number {i}"

    async def go() -> tuple[int, Any]:
        nonlocal handed
        one = processor(Service(), batch_size=100)
        async for progress in one.process_with_progress(source()):
            handed += len(progress.results)
        return progress.completed, one.result

    assert asyncio.run(go()) == (12_000, None)
    assert handed == 12_000
    assert ahead <= 10_001


async def broken_stream() -> AsyncIterator[dict[str, str]]:
    """Five chunks, then an error."""
    for i in range(5):
        yield {"id": f"k{i}", "content": f"text {i}"}
    raise OSError("disk")


def test_a_source_that_breaks_costs_nothing_before_it() -> None:
    """Everything before the break is embedded and kept; then the source's own error is raised."""

    async def go() -> ProcessResult | None:
        one = processor(Service())
        with pytest.raises(OSError, match="disk"):
            await one.process_chunks(broken_stream())
        return one.result

    result = asyncio.run(go())
    assert result is not None
    assert (list(result.keys), result.embeddings.shape) == ([f"k{i}" for i in range(5)], (5, DIMENSIONS))


# --- services that fail -----------------------------------------------------------------------------------------------


def flaky(texts: list[str], number: int) -> None:
    """Every third call fails, each time in another way."""
    if number % 3 == 0:
        raise (ConnectionResetError("reset"), RuntimeError("boom"), KeyError("x"))[number // 3 % 3]


class TooFastError(Exception):
    """As HTTP libraries raise it."""

    status_code = 429
    retry_after = 2


def hurried(texts: list[str], number: int) -> None:
    """The first calls come too fast."""
    if number <= 6:
        raise TooFastError("slow down")


@pytest.mark.parametrize("before", [flaky, hurried], ids=["flaky", "429"])
def test_what_may_succeed_later_does(before: Callable[[list[str], int], None]) -> None:
    """Failures of the service and refusals for a quota are repeated until every chunk has its vector."""
    service, texts = Service(before), texts_of(300)
    result = process(service, texts, batch_size=25)
    assert right(result, texts)
    assert result.batches_processed == len(service.calls) > 12


@pytest.mark.parametrize("count", [40, 400])
@pytest.mark.parametrize(
    "error", [ValueError("bad chunk"), type("OddError", (BaseException,), {})("odd")], ids=repr
)
def test_a_poisoned_chunk_fails_alone(count: int, error: BaseException) -> None:
    """The text to blame is found, in a single batch too, by few calls; all others have their vectors."""

    def poisoned(texts: list[str], number: int) -> None:
        if "chunk number 17" in texts:
            raise error

    service, texts = Service(poisoned), texts_of(count)
    result = process(service, texts, batch_size=50)
    assert right(result, texts, without=frozenset({17}))
    assert isinstance(result.failures[0].error, ItemProviderError)
    assert type(error).__name__ in str(result.failures[0].error)
    assert len(service.calls) < count // 50 + 25


def test_retries_are_counted() -> None:
    """A chunk is sent once, and again as often as allowed."""

    def never(texts: list[str], number: int) -> None:
        if "bad" in texts:
            raise ValueError("bad")

    for retries in (0, 1, 5):
        service = Service(never)
        process(service, ["good", "bad"], batch_size=1, max_retries=retries)
        assert sum("bad" in call for call in service.calls) == retries + 1


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), ConnectionError("refused"), PermissionError("key")], ids=repr
)
def test_a_service_that_is_down(error: Exception) -> None:
    """Every chunk is named, with the reason, after a bounded number of calls; nothing is raised."""

    def down(texts: list[str], number: int) -> None:
        raise error

    service = Service(down)
    result = process(service, texts_of(500), batch_size=10)
    assert len(result.failures) == 500
    assert all(isinstance(one.error, NotSentError | ItemProviderError) for one in result.failures)
    assert str(error) in str(result.failures[-1].error)
    assert len(service.calls) <= 60
    assert result.embeddings.shape == (500, 0)


def test_a_wrong_key_is_tried_once() -> None:
    """A refusal that no repetition can mend ends the run at once."""

    class WhoAreYouError(Exception):
        status_code = 401

    def refused(texts: list[str], number: int) -> None:
        raise WhoAreYouError("who are you")

    service = Service(refused)
    result = process(service, texts_of(50), batch_size=50)
    assert (len(service.calls), len(result.failures)) == (1, 50)


def test_a_service_that_hangs() -> None:
    """A call without an answer counts as lost and is sent again; the lost one leaves no task behind."""

    class Hanging(Service):
        async def generate_embeddings(self, texts: list[str]) -> Any:
            if len(self.calls) == 1:
                self.calls.append([])
                await asyncio.Event().wait()
            return await super().generate_embeddings(texts)

    async def go() -> ProcessResult:
        result = await processor(Hanging(), batch_size=10, timeout=50.0).process_chunks(texts)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    texts = texts_of(50)
    assert right(asyncio.run(go()), texts)


# --- services that cannot be trusted ----------------------------------------------------------------------------------


def nan_for_3(texts: list[str], answer: Any) -> Any:
    """NaN in one vector."""
    answer.embeddings = [
        [float("nan")] * DIMENSIONS if text.endswith(" 3") else vector(text) for text in texts
    ]
    return answer


def short_for_3(texts: list[str], answer: Any) -> Any:
    """One vector has another size, though not the first of all."""
    answer.embeddings = [vector(text)[: 2 if text.endswith(" 3") else None] for text in texts]
    return answer


def drops_3(texts: list[str], answer: Any) -> Any:
    """One text is left out: a list that is too short."""
    answer.embeddings = [vector(text) for text in texts if not text.endswith(" 3")]
    return answer


def nothing_for_3(texts: list[str], answer: Any) -> Any:
    """None instead of a vector."""
    answer.embeddings = [None if text.endswith(" 3") else vector(text) for text in texts]
    return answer


@pytest.mark.parametrize("spoil", [nan_for_3, short_for_3, drops_3, nothing_for_3])
def test_bad_vectors_cost_only_their_chunk(spoil: Callable[[list[str], Any], Any]) -> None:
    """NaN, another size, a missing vector: the chunk it is about fails by name, the others are right."""
    texts = texts_of(20)
    result = process(Service(spoil=spoil), texts, batch_size=10)
    assert right(result, texts, without=frozenset({3}))


def test_answers_out_of_order() -> None:
    """Where the service gives indices, they are believed instead of the order."""

    def shuffled(texts: list[str], answer: Any) -> Any:
        data = [SimpleNamespace(index=i, embedding=vector(text)) for i, text in enumerate(texts)]
        return SimpleNamespace(data=data[::-1], model="m", usage=SimpleNamespace(prompt_tokens=4))

    texts = texts_of(20)
    result = process(Service(spoil=shuffled), texts)
    assert right(result, texts)
    assert result.usage == {"total_tokens": 4, "prompt_tokens": 4}


def test_chunks_without_text() -> None:
    """Empty and foreign chunks fail by name without being sent."""
    service = Service()
    result = process(service, ["a", "", None, 5, "  ", {"text": "b", "id": "x"}])
    assert [failure.row for failure in result.failures] == [1, 2, 3, 4]
    assert (service.calls, result.keys[5]) == ([["a", "b"]], "x")


def test_tokens_that_nobody_counted_are_estimates() -> None:
    """Without usage, tokens are estimated and said to be; a price that was given makes dollars of them."""

    def silent(texts: list[str], answer: Any) -> Any:
        return answer.embeddings

    result = process(Service(spoil=silent), texts_of(10), price=2.0)
    assert result.spent.tokens == result.spent.estimated_tokens > 0
    assert result.usage == {}
    assert result.cost == pytest.approx(2.0 * result.spent.tokens / 1e6)


# --- callers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_callbacks(asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks may be plain or async; one that raises is logged, not called again, and costs no vector."""
    seen: list[int] = []

    def plain(progress: BatchProgress) -> None:
        seen.append(progress.completed)
        raise RuntimeError("the screen is gone")

    async def awaited(progress: BatchProgress) -> None:
        plain(progress)

    async def go() -> ProcessResult:
        callback = awaited if asynchronous else plain
        return await processor(Service(), batch_size=5).process_chunks(texts, progress_callback=callback)

    texts = texts_of(20)
    assert right(asyncio.run(go()), texts)
    assert len(seen) == 1
    assert "the screen is gone" in caplog.text


def test_two_runs_at_once() -> None:
    """Runs of one processor do not get in each other's way."""

    async def go() -> tuple[ProcessResult, ProcessResult]:
        one = processor(Service(delay_s=0.001), batch_size=5)
        return await asyncio.gather(one.process_chunks(first), one.process_chunks(second))

    first, second = texts_of(50), [f"other {i}" for i in range(30)]
    results = asyncio.run(go())
    assert right(results[0], first)
    assert right(results[1], second)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": "large"},
        {"batch_size": True},
        {"max_retries": -1},
        {"retry_delay": -0.1},
        {"retry_delay": float("nan")},
        {"max_concurrent_batches": 0},
        {"timeout": 0},
        {"price": "cheap"},
        pytest.param({"embedding_service": object()}, id="no service"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """They are refused by name when the processor is made."""
    with pytest.raises(UsageError, match=r"must be|has `async"):
        BatchEmbeddingProcessor(**{"embedding_service": Service(), **options})


def test_batches_sized_by_the_engine() -> None:
    """With `auto`, batches are as many as pay, and no larger than hosted models take."""
    service, texts = Service(), texts_of(2000)
    assert right(process(service, texts, batch_size="auto"), texts)
    assert max(map(len, service.calls)) <= 256
