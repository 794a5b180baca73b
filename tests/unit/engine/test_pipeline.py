"""The pipeline: every row ends once, in order, as the right vector or as a named failure, whatever goes wrong."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import FakeBackend, Faults

from embatch.decisions.tuning import BudgetTuner
from embatch.engine.pipeline import Pipeline
from embatch.engine.tuners import FixedCount, SharedTuner, Tuner
from embatch.engine.window import as_items
from embatch.errors import (
    BackendClosedError,
    BackendError,
    BadVectorError,
    EmptyTextError,
    EncodingError,
    ItemBackendError,
    NotTextError,
    RowError,
    TooLongError,
)
from embatch.types import BadItem, Block, Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def tuner_for(backend: FakeBackend, count: int | None = None) -> Tuner:
    if count:
        return FixedCount(count)
    low, high = backend.limits.budgets
    return SharedTuner(BudgetTuner(low=low, high=high, first=backend.limits.first_budget))


def pipeline(backend: FakeBackend, spec: dict[str, Any] | None = None, **options: Any) -> Pipeline:
    tuner = tuner_for(backend, options.pop("count", None))
    return Pipeline(backend, replace(backend.spec, **(spec or {})), tuner, **options)


def run(backend: FakeBackend, texts: Iterable[object], **options: Any) -> tuple[np.ndarray, list[Block]]:
    blocks = list(pipeline(backend, **options).run(as_items(texts)))
    dim = options.get("spec", {}).get("dimensions", backend.dim)
    vectors = [block.vectors for block in blocks] or [np.empty((0, dim), np.float32)]
    return np.concatenate(vectors), blocks


words = st.text(alphabet="abc ", min_size=1, max_size=30)


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(words, max_size=120),
    streams=st.integers(1, 3),
    window=st.integers(1, 40),
    oom=st.one_of(st.none(), st.integers(70, 400)),
    remember=st.integers(0, 60),
)
def test_each_row_gets_the_vector_of_its_own_text(
    texts: list[str], streams: int, window: int, oom: int | None, remember: int
) -> None:
    """In any windows, streams and memory, rows keep their order and no vector goes to another text."""
    backend = FakeBackend(streams=streams, faults=Faults(oom_above_tokens=oom))
    vectors, blocks = run(backend, texts, window_items=window, remember=remember)
    assert [block.first_row for block in blocks] == list(
        np.cumsum([0] + [len(block.items) for block in blocks])[:-1]
    )
    assert len(vectors) == len(texts)
    for text, vector in zip(texts, vectors, strict=True):
        if text.isspace():
            assert np.isnan(vector).all()
        else:
            np.testing.assert_array_equal(vector, backend.vector(text))


def test_no_rows_give_no_blocks(fake_backend: type[FakeBackend]) -> None:
    """An empty input ends at once, without asking the backend."""
    backend = fake_backend()
    assert list(pipeline(backend).run([])) == []
    assert backend.calls == 0


def test_what_is_no_text_is_named_and_the_rest_goes_on(fake_backend: type[FakeBackend]) -> None:
    """None, numbers, bytes, empty, blank, lone surrogates and bad rows each fail by name, in their place."""
    broken = BadItem("k", RowError("line 3 is no JSON"), "file:3")
    rows = [*as_items(["ok", None, 3, b"raw", "", " \n", "\ud800x", "a\x00b"]), broken]
    run_of = pipeline(fake_backend())
    (block,) = run_of.run(rows)
    assert [(f.row, type(f.error)) for f in block.failures] == [
        (1, NotTextError),
        (2, NotTextError),
        (3, NotTextError),
        (4, EmptyTextError),
        (5, EmptyTextError),
        (6, EncodingError),
        (8, RowError),
    ]
    assert np.isfinite(block.vectors[[0, 7]]).all()
    assert np.isnan(block.vectors[[1, 2, 3, 4, 5, 6, 8]]).all()
    assert (run_of.report.items, run_of.report.failed) == (9, 7)


def test_equal_texts_are_computed_once(fake_backend: type[FakeBackend]) -> None:
    """Repeats within a window and across windows share one computation, and are counted."""
    backend = fake_backend()
    run_of = pipeline(backend, window_items=4)
    blocks = list(run_of.run(as_items([f"t{i % 3}" for i in range(30)])))
    assert sorted(text for batch in backend.batches for text in batch) == ["t0", "t1", "t2"]
    assert run_of.report.duplicates == 27
    assert run_of.report.embedded == 3
    vectors = np.concatenate([block.vectors for block in blocks])
    np.testing.assert_array_equal(vectors, np.stack([backend.vector(f"t{i % 3}") for i in range(30)]))


def test_a_batch_that_does_not_fit_is_split_and_nothing_is_lost(fake_backend: type[FakeBackend]) -> None:
    """Out of memory halves the batch until it fits, and later batches are smaller."""
    backend = fake_backend(faults=Faults(oom_above_tokens=30), first_budget=4096)
    run_of = pipeline(backend)
    texts = [f"word{i} and more" for i in range(200)]
    blocks = list(run_of.run(as_items(texts)))
    np.testing.assert_array_equal(
        np.concatenate([block.vectors for block in blocks]), np.stack([backend.vector(t) for t in texts])
    )
    assert run_of.report.splits > 0
    assert run_of.report.failed == 0
    assert run_of.report.budget < 4096


def test_a_poisoned_text_is_found_by_halving(fake_backend: type[FakeBackend]) -> None:
    """One text that the engine chokes on fails alone, after O(log n) extra calls."""
    backend = fake_backend(faults=Faults(raise_for=["poison"]))
    texts = [f"t{i}" for i in range(64)]
    texts[17] = "poison"
    run_of = pipeline(backend, count=64)
    (block,) = run_of.run(as_items(texts))
    assert [(f.row, type(f.error)) for f in block.failures] == [(17, ItemBackendError)]
    assert backend.calls <= 1 + 2 * 6
    assert np.isfinite(np.delete(block.vectors, 17, axis=0)).all()


def test_a_repeat_of_a_failed_text_fails_too(fake_backend: type[FakeBackend]) -> None:
    """A later window that repeats a failed text reports the failure for its own row."""
    backend = fake_backend(faults=Faults(nan_for=["bad"]))
    blocks = list(pipeline(backend, window_items=2).run(as_items(["bad", "x", "y", "bad"])))
    failed = [(f.row, f.key, type(f.error)) for block in blocks for f in block.failures]
    assert failed == [(0, "0", BadVectorError), (3, "3", BadVectorError)]


def test_nan_for_one_text_leaves_its_batch_alone(fake_backend: type[FakeBackend]) -> None:
    """A NaN row is tried again alone and then named; its neighbours keep their vectors."""
    backend = fake_backend(faults=Faults(nan_for=["bad"]))
    vectors, blocks = run(backend, ["a", "bad", "c"])
    assert np.isnan(vectors[1]).all()
    assert np.isfinite(vectors[[0, 2]]).all()
    assert [type(f.error) for f in blocks[0].failures] == [BadVectorError]


@pytest.mark.parametrize("fault", [{"rows_off": -1}, {"rows_off": 1}, {"columns_off": 2}])
def test_a_wrong_shape_is_never_passed_on(fake_backend: type[FakeBackend], fault: dict[str, Any]) -> None:
    """Too few rows, too many, or another dimension are failures of the texts, not shifted vectors."""
    _, blocks = run(fake_backend(faults=Faults(**fault)), ["a", "b", "c"])
    assert [type(f.error) for f in blocks[0].failures] == [ItemBackendError] * 3


def test_an_engine_that_always_fails_ends_the_run(fake_backend: type[FakeBackend]) -> None:
    """When no call succeeds any more, the run ends with the cause instead of trying every text alone."""
    backend = fake_backend(faults=Faults(raise_for=[""]))
    with pytest.raises(BackendError, match="times in a row"):
        run(backend, [f"t{i}" for i in range(1000)])
    assert backend.calls < 100


def test_a_closed_backend_is_said_at_once(fake_backend: type[FakeBackend]) -> None:
    """Using a closed backend is one clear error, not one per text."""
    backend = fake_backend()
    backend.close()
    with pytest.raises(BackendClosedError):
        run(backend, ["a", "b"])


def test_unknown_exceptions_of_a_backend_do_not_lose_rows(fake_backend: type[FakeBackend]) -> None:
    """A ZeroDivisionError inside a backend fails its texts by name."""

    def explode(texts: list[str]) -> None:
        if "b" in texts:
            raise ZeroDivisionError("inside")

    _, blocks = run(fake_backend(faults=Faults(before_embed=explode)), ["a", "b", "c"])
    assert [(f.key, str(f.error)) for f in blocks[0].failures] == [
        ("1", "the model failed on this text: ZeroDivisionError: inside")
    ]


def test_overlong_texts_can_be_refused(fake_backend: type[FakeBackend]) -> None:
    """With overlong='error' only texts over the model's limit fail."""
    texts = ["short", " ".join(["w"] * 100)]
    _, blocks = run(fake_backend(), texts, spec={"overlong": "error"})
    assert [(f.row, type(f.error)) for f in blocks[0].failures] == [(1, TooLongError)]


def test_overlong_texts_can_be_averaged(fake_backend: type[FakeBackend]) -> None:
    """With overlong='pool' the vector is the normalised mean of the pieces, weighted by tokens."""
    backend = fake_backend()
    text = " ".join(f"w{i}" for i in range(100))
    run_of = pipeline(backend, {"overlong": "pool"})
    (block,) = run_of.run(as_items(["short", text, "other"]))
    pieces = backend.split(text)
    weights = [len(piece.split()) + 2 for piece in pieces]
    mean = np.average([backend.vector(piece) for piece in pieces], axis=0, weights=weights)
    np.testing.assert_allclose(block.vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(block.vectors[2], backend.vector("other"))
    assert (run_of.report.pooled, run_of.report.truncated) == (1, 0)


def test_truncated_texts_are_counted(fake_backend: type[FakeBackend]) -> None:
    """With overlong='truncate' cut rows are counted, repeats included."""
    long = " ".join(["w"] * 100)
    run_of = pipeline(fake_backend())
    list(run_of.run(as_items([long, "a", long])))
    assert run_of.report.truncated == 2


def test_fewer_dimensions_are_cut_and_normalised(fake_backend: type[FakeBackend]) -> None:
    """Matryoshka: the first dimensions, at unit length again."""
    backend = fake_backend(dim=8)
    vectors, _ = run(backend, ["hello world"], spec={"dimensions": 4})
    cut = backend.vector("hello world")[:4]
    np.testing.assert_allclose(vectors[0], cut / np.linalg.norm(cut), atol=1e-6)


@pytest.mark.parametrize("window_items", [1, 2, 4096])
def test_what_the_source_raises_comes_after_the_rows_before_it(
    fake_backend: type[FakeBackend], window_items: int
) -> None:
    """Rows read before a source breaks are handed over, then its error is raised."""

    def rows() -> Iterator[Item]:
        yield from as_items(["a", "b"])  # type: ignore[misc]  # rows of a source that breaks
        raise RowError("the disk is gone")

    seen: list[str] = []
    blocks = pipeline(fake_backend(), window_items=window_items).run(rows())
    with pytest.raises(RowError, match="disk"):
        seen.extend(item.text for block in blocks for item in block.items)
    assert seen == ["a", "b"]


def test_an_endless_source_stays_bounded(fake_backend: type[FakeBackend]) -> None:
    """A consumer that stops reading stops the source: only a few windows are ever read ahead."""
    read = 0

    def endless() -> Iterator[Item]:
        nonlocal read
        while True:
            read += 1
            yield Item(str(read), f"text {read}")

    blocks = pipeline(fake_backend(), window_items=64).run(endless())
    for _ in range(3):
        next(blocks)
    blocks.close()
    assert read <= (3 + 5) * 64
    assert not [t for t in threading.enumerate() if t.name.startswith("embatch-stream")]


def test_as_many_streams_as_the_backend_has_run_side_by_side(fake_backend: type[FakeBackend]) -> None:
    """Two streams meet inside the backend: each waits there for the other."""
    meeting = threading.Barrier(2, timeout=20)

    def meet(_: list[str]) -> None:
        meeting.wait()

    backend = fake_backend(streams=2, faults=Faults(before_embed=meet))
    run(backend, [f"t{i}" for i in range(4)], count=1)
    assert backend.most_at_once == 2
