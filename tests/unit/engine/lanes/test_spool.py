"""A job's rows on their way to the store, and the threads that carry requests out."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.fake_provider import vector

from embatch.engine.lanes.spool import JobSpool
from embatch.engine.lanes.workers import Workers
from embatch.errors import ProviderError
from embatch.remote import ErrorKind, Generated, JobRow

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def spool() -> Iterator[JobSpool]:
    """An empty spool."""
    with closing(JobSpool()) as opened:
        yield opened


def test_rows_come_back_under_their_keys(spool: JobSpool) -> None:
    """Vectors and answers are given back as they came, in the order in which they are asked for."""
    answer = Generated("grüße", 3, 5, "stop")
    for row in (JobRow("a", vector("a")), JobRow("b", answer), JobRow("c", vector("c"))):
        spool.add(row)
    spool.finish()
    c, b, a = spool.values(["c", "b", "a"])
    np.testing.assert_array_equal(a, vector("a"))
    np.testing.assert_array_equal(c, vector("c"))
    assert b == answer
    assert (spool.good, spool.bad, spool.broken) == (["a", "b", "c"], {}, 0)


def test_a_key_with_two_values_has_none(spool: JobSpool) -> None:
    """Two rows that differ under one key mean that keys were mixed up; equal ones are one row."""
    for row in (
        JobRow("same", vector("a")),
        JobRow("same", vector("a")),
        JobRow("mixed", vector("a")),
        JobRow("mixed", vector("b")),
        JobRow("mixed", vector("a")),
    ):
        spool.add(row)
    spool.finish()
    assert spool.good == ["same"]
    assert set(spool.bad) == {"mixed"}
    assert spool.bad["mixed"].kind is ErrorKind.PROTOCOL


@pytest.mark.parametrize("good_first", [False, True])
def test_a_good_row_beats_an_error(spool: JobSpool, good_first: bool) -> None:
    """A key with a vector and an error has the vector."""
    rows = [JobRow("a", ProviderError("no", kind=ErrorKind.OVERLOADED)), JobRow("a", vector("a"))]
    for row in reversed(rows) if good_first else rows:
        spool.add(row)
    spool.finish()
    assert (spool.good, spool.bad) == (["a"], {})


def test_rows_without_a_key_are_counted(spool: JobSpool) -> None:
    """A row that belongs to nobody is broken, whatever it holds."""
    spool.add(JobRow(None, vector("a")))
    spool.add(JobRow(None, ProviderError("cut off", kind=ErrorKind.PROTOCOL)))
    spool.finish()
    assert (spool.broken, spool.good, spool.bad) == (2, [], {})


@pytest.mark.parametrize(("tokens", "counted"), [((2, 3), True), ((2, None), False), ((None, None), False)])
def test_tokens_count_if_every_good_row_says_them(
    spool: JobSpool, tokens: tuple[int | None, int | None], counted: bool
) -> None:
    """Tokens are summed; they are a count only if no good row leaves them out."""
    for key, number in zip("ab", tokens, strict=True):
        spool.add(JobRow(key, vector(key), number))
    spool.add(JobRow("c", ProviderError("no", kind=ErrorKind.BAD_INPUT)))
    spool.finish()
    assert (spool.counted, spool.tokens) == (counted, sum(number or 0 for number in tokens))


def test_no_more_threads_than_allowed() -> None:
    """All tasks are done, side by side, by so many threads at most."""
    workers, running, most, lock = Workers(3), [0], [0], threading.Lock()
    done = threading.Semaphore(0)

    def task() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.002)
        with lock:
            running[0] -= 1
        done.release()

    for _ in range(40):
        workers.begin(task)
    for _ in range(40):
        assert done.acquire(timeout=5)
    workers.close()
    assert most[0] == 3
