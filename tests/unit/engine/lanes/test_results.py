"""What comes out of remote runs, whatever lane it went through."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest
from tests.fake_provider import FakeProvider, facts, vector

from embatch.errors import EmptyTextError, EncodingError, NotTextError, TooLongError
from embatch.remote import STRATEGIES, CallLimits, JobLimits, StrategyName
from embatch.types import Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.unit.engine.lanes.conftest import OpenLanes

    from embatch.types import FloatArray, Report

pytestmark = pytest.mark.timeout(60)


def expected(texts: Sequence[str]) -> FloatArray:
    return np.stack([vector(text) for text in texts])


def total(report: Report) -> int:
    return report.embedded + report.duplicates + report.cached + report.failed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_row_gets_the_vector_of_its_text(lanes: OpenLanes, strategy: StrategyName) -> None:
    """In every strategy, vectors come in the order of the texts, and each is its own text's."""
    texts = [f"text {n * 7919 % 613}" for n in range(613)]
    provider = FakeProvider(facts=facts(job=JobLimits(items=100, partial=True)))
    result = lanes(provider, strategy).embed(texts)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert set(provider.billed().values()) == {1}
    assert bool(provider.jobs) == (strategy in {"batch", "hybrid"})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_texts_are_paid_for_once(lanes: OpenLanes, strategy: StrategyName) -> None:
    """Repeats within a window and across windows are computed once, and counted as duplicates."""
    texts = ["same", *(f"text {n % 400}" for n in range(1200)), "same"]  # the first window holds 256 rows
    provider = FakeProvider()
    result = lanes(provider, strategy).embed(texts)
    np.testing.assert_array_equal(result.vectors, expected(texts))
    assert provider.billed() == dict.fromkeys(set(texts), 1)
    assert (result.report.embedded, result.report.duplicates) == (401, 801)
    assert total(result.report) == result.report.items == len(texts)


def test_texts_that_are_none_are_named_and_cost_nothing(lanes: OpenLanes) -> None:
    """Empty texts, None and broken Unicode are named with key and reason; the others get their vectors."""
    texts = ["good", "", "  \n", None, "a\ud800b", "fine"]
    provider = FakeProvider()
    result = lanes(provider).embed(texts, keys=list("abcdef"), on_error="collect")  # type: ignore[arg-type]  # None is the test
    assert [(e.row, e.key, type(e.error)) for e in result.errors] == [
        (1, "b", EmptyTextError),
        (2, "c", EmptyTextError),
        (3, "d", NotTextError),
        (4, "e", EncodingError),
    ]
    np.testing.assert_array_equal(result.vectors[[0, 5]], expected(["good", "fine"]))
    assert np.isnan(result.vectors[1:5]).all()
    assert set(provider.billed()) == {"good", "fine"}
    assert total(result.report) == 6


def test_nothing_in_is_nothing_out(lanes: OpenLanes) -> None:
    """No texts make no request, and an array without rows."""
    provider = FakeProvider()
    assert lanes(provider, "batch").embed([]).vectors.shape == (0, 8)
    assert not provider.billed()


def test_long_texts_are_cut(lanes: OpenLanes) -> None:
    """With `truncate`, a text over the model's limit is sent cut to what fits, and counted."""
    text = "word " * 200
    provider = FakeProvider()
    result = lanes(provider).embed([text, "short"])
    (sent,) = [text for text in provider.billed() if text != "short"]
    assert text.startswith(sent)
    assert 100 <= len(sent) <= 4 * 100
    assert result.report.truncated == 1
    np.testing.assert_array_equal(result.vectors[0], vector(sent))


def test_long_texts_are_refused(lanes: OpenLanes) -> None:
    """With `error`, a text over the model's limit is named, is not sent, and touches no other."""
    provider = FakeProvider()
    result = lanes(provider, overlong="error").embed(["short", "word " * 200], on_error="collect")
    assert [(e.row, type(e.error)) for e in result.errors] == [(1, TooLongError)]
    assert set(provider.billed()) == {"short"}
    assert total(result.report) == 2


def test_long_texts_are_averaged(lanes: OpenLanes) -> None:
    """With `pool`, a long text's pieces are sent whole, and its vector is their weighted mean."""
    text = "".join(f"word{n} " for n in range(150))
    provider = FakeProvider()
    embedder = lanes(provider, overlong="pool")
    result = embedder.embed(["short", text, text])
    pieces = sorted((piece for piece in provider.billed() if piece != "short"), key=text.index)
    assert len(pieces) > 1
    assert "".join(pieces) == text
    lengths = embedder.backend.tokenize(pieces).lengths
    mean = (expected(pieces) * lengths[:, None]).sum(axis=0)
    np.testing.assert_allclose(result.vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(result.vectors[1], result.vectors[2])
    assert result.report.pooled == 2
    assert total(result.report) == 3


def test_failed_repeats_are_counted_once(lanes: OpenLanes) -> None:
    """Rows of a text that failed count as failed and as nothing else: the report adds up."""
    texts = ["word " * 200, "short", "word " * 200, "short"]
    report = lanes(FakeProvider(), overlong="error").embed(texts, on_error="collect").report
    assert (report.failed, report.embedded, report.duplicates) == (2, 1, 1)
    assert total(report) == report.items == 4


def test_stored_vectors_are_not_sent_again(lanes: OpenLanes) -> None:
    """Over a cache, only new texts are sent, and the report tells the two apart."""
    from embatch.storage.cache import MemoryStore

    provider = FakeProvider()
    embedder = lanes(provider, cache=MemoryStore())
    embedder.embed([f"text {n}" for n in range(30)])
    texts = [f"text {n}" for n in range(20, 50)]
    result = embedder.embed([*texts, "text 20"])
    np.testing.assert_array_equal(result.vectors[:-1], expected(texts))
    assert set(provider.billed().values()) == {1}
    assert (result.report.cached, result.report.embedded, result.report.duplicates) == (10, 20, 1)


def test_a_source_that_breaks_costs_nothing(lanes: OpenLanes) -> None:
    """What a generator raises reaches the caller, before anything of its rows was paid for."""

    def rows() -> Iterator[Item]:
        for n in range(1000):
            yield Item(str(n), f"text {n}")
        raise ValueError("the disk is gone")

    provider = FakeProvider()
    with pytest.raises(ValueError, match="the disk is gone"):
        list(lanes(provider).pipeline().run(rows()))
    assert not provider.billed()


def test_progress_only_grows(lanes: OpenLanes) -> None:
    """Rows done never go back, never pass those read, and end at their number."""
    provider = FakeProvider(facts=facts(call=CallLimits(items=16, item_tokens=100)))
    pipeline = lanes(provider, parallel=2).pipeline()
    seen: list[tuple[int, int, bool]] = []

    def look(_: object) -> None:
        seen.append((pipeline.rows_done, pipeline.rows_read, pipeline.read_all))

    provider.before_call = look
    for block in pipeline.run(Item(str(n), f"text {n % 900}") for n in range(1000)):
        look(block)
    done = [rows for rows, _, _ in seen]
    assert done == sorted(done)
    assert all(rows <= read for rows, read, _ in seen)
    assert done[0] == 100  # the repeats
    assert seen[-1] == (1000, 1000, True)
    assert len(set(done)) > 20


def test_progress_of_a_stream_grows_within_each_part(lanes: OpenLanes) -> None:
    """Where rows are driven in several parts, progress goes on from one to the next."""
    provider = FakeProvider()
    embedder = lanes(provider, parallel=1)
    pipeline = embedder.host.pipeline(None, store=None, rows_at_once=400)
    done: list[int] = []
    provider.before_call = lambda _: done.append(pipeline.rows_done)
    assert (
        sum(len(block.items) for block in pipeline.run(Item(str(n), f"text {n}") for n in range(1000)))
        == 1000
    )
    assert done == sorted(done)
    assert len(set(done)) == len(done)


def test_two_calls_at_once_do_not_disturb_each_other(lanes: OpenLanes) -> None:
    """One Embedder serves several threads, each with its own vectors, and none is left waiting."""
    provider = FakeProvider()
    embedder = lanes(provider, parallel=2)
    texts = [[f"thread {t}, text {n}" for n in range(200)] for t in range(4)]
    found: dict[int, FloatArray] = {}

    def work(thread: int) -> None:
        found[thread] = embedder.embed(texts[thread]).vectors

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    for t in range(4):
        np.testing.assert_array_equal(found[t], expected(texts[t]))
    assert set(provider.billed().values()) == {1}


def test_it_works_inside_an_event_loop(lanes: OpenLanes) -> None:
    """Called from a coroutine, directly or in a thread, a run needs no loop of its own."""
    embedder = lanes(FakeProvider())

    async def main() -> tuple[FloatArray, FloatArray]:
        return embedder.embed(["one"]).vectors, (await embedder.aembed(["two"])).vectors

    one, two = asyncio.run(main())
    np.testing.assert_array_equal(np.concatenate([one, two]), expected(["one", "two"]))


def test_a_query_is_one_call(lanes: OpenLanes) -> None:
    """A query goes as one call of one text, in any strategy: nobody waits for a job with it."""
    provider = FakeProvider()
    np.testing.assert_array_equal(lanes(provider, "auto").embed_query("what"), vector("what"))
    assert provider.calls == [["what"]]


class Key(str):
    """A key that counts how many of its kind are in memory."""

    __slots__ = ()
    alive = 0

    def __new__(cls, value: object) -> Self:
        Key.alive += 1
        return super().__new__(cls, value)

    def __del__(self) -> None:
        Key.alive -= 1


def test_a_hundred_thousand_texts_go_in_bounded_memory(lanes: OpenLanes) -> None:
    """While jobs run, windows wait in a file: memory does not hold what was read."""
    provider = FakeProvider(facts=facts(job=JobLimits(items=30_000)))
    held: list[int] = []
    provider.before_poll = lambda _: held.append(Key.alive)
    pipeline = lanes(provider, "batch").pipeline()
    rows = 0
    for block in pipeline.run(Item(Key(n), f"text {n}") for n in range(100_000)):
        np.testing.assert_array_equal(block.vectors[0], vector(block.items[0].text))
        np.testing.assert_array_equal(block.vectors[-1], vector(block.items[-1].text))
        rows += len(block.items)
    assert rows == 100_000
    assert 0 < max(held) <= 30_000
