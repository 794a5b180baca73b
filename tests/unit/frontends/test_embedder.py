"""The Python API over a fake backend: shapes, errors, tasks, outputs, caches, streams, async."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.doubles import FakeBackend, Faults

from embatch.decisions.tuning import BudgetTuner
from embatch.engine.tuners import SharedTuner
from embatch.errors import (
    EmptyTextError,
    ItemBackendError,
    ItemsFailedError,
    NotTextError,
    TooLongError,
    UsageError,
)
from embatch.frontends.embedder import Embedder
from embatch.frontends.hosts import LocalHost
from embatch.storage.cache import MemoryStore
from embatch.types import Item

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def embedder(backend: FakeBackend | None = None, **options: Any) -> Embedder:
    return Embedder(backend=backend or FakeBackend(), profiles=False, **options)


def test_vectors_come_in_the_order_of_the_texts() -> None:
    """Row i is the vector of text i, float32, repeats computed once."""
    backend = FakeBackend()
    result = embedder(backend).embed(["b", "a", "b"])
    assert result.vectors.shape == (3, 8)
    assert result.vectors.dtype == np.float32
    np.testing.assert_array_equal(result.vectors, np.stack([backend.vector(t) for t in ["b", "a", "b"]]))
    assert (result.errors, result.report.duplicates) == ([], 1)


def test_no_texts_give_an_empty_matrix() -> None:
    """An empty list has the shape (0, dim), and so has an empty generator."""
    assert embedder().embed([]).vectors.shape == (0, 8)
    assert embedder().embed(iter([])).vectors.shape == (0, 8)


def test_bad_texts_are_found_before_anything_is_computed() -> None:
    """With on_error='raise' all bad texts are named at once and the model is not asked."""
    backend = FakeBackend()
    with pytest.raises(ItemsFailedError, match=r"2 of 4 texts .* number 1") as caught:
        embedder(backend).embed(["a", None, "", "d"])  # type: ignore[list-item]  # what callers without types do
    assert [type(f.error) for f in caught.value.failures] == [NotTextError, EmptyTextError]
    assert backend.calls == 0


def test_failures_can_be_collected_beside_the_vectors() -> None:
    """With on_error='collect' the others stand, failed rows are NaN, and each failure has its key."""
    result = embedder(on_error="collect").embed(["a", None, "c"], keys=["x", "y", "z"])  # type: ignore[list-item]  # what callers without types do
    assert [(e.row, e.key) for e in result.errors] == [(1, "y")]
    assert np.isnan(result.vectors[1]).all()
    assert np.isfinite(result.vectors[[0, 2]]).all()


def test_a_text_that_the_model_fails_on_is_raised() -> None:
    """A failure inside the model is raised as well when failures are to be raised."""
    with pytest.raises(ItemsFailedError) as caught:
        embedder(FakeBackend(faults=Faults(raise_for=["bad"]))).embed(["a", "bad"])
    assert [type(f.error) for f in caught.value.failures] == [ItemBackendError]


def test_documents_and_queries_get_their_own_prompts() -> None:
    """embed puts the document prompt before a text, embed_query the query prompt, task any other."""
    backend = FakeBackend(prompts={"query": "q: ", "passage": "p: ", "code": "c: "})
    with embedder(backend) as e:
        np.testing.assert_array_equal(e.embed(["x"]).vectors[0], backend.vector("x", prompt="p: "))
        np.testing.assert_array_equal(e.embed_query("x"), backend.vector("x", prompt="q: "))
        np.testing.assert_array_equal(
            e.embed(["x"], task="code").vectors[0], backend.vector("x", prompt="c: ")
        )
        assert e.spec_for("query").fingerprint != e.spec.fingerprint
    assert backend.closed


def test_a_task_that_the_model_does_not_have_is_said() -> None:
    """An unknown task names the known ones."""
    with pytest.raises(UsageError, match="query"):
        embedder(task="poetry")


@pytest.mark.parametrize(
    ("output", "dtype", "columns"),
    [("float32", np.float32, 8), ("float16", np.float16, 8), ("int8", np.int8, 8), ("binary", np.uint8, 1)],
)
def test_outputs(output: str, dtype: type, columns: int) -> None:
    """Vectors are handed back as asked for, failed rows included."""
    e = embedder(output=output, on_error="collect")
    result = e.embed(["a", ""])
    assert result.vectors.dtype == dtype
    assert result.vectors.shape == (2, columns)
    assert e.embed_query("a").shape == (columns,)
    if output in {"int8", "binary"}:
        assert not result.vectors[1].any()


@pytest.mark.parametrize(
    "options",
    [
        {"overlong": "cut"},
        {"output": "int4"},
        {"on_error": "ignore"},
        {"batch_size": 0},
        {"budget_tokens": -1},
        {"dimensions": 0},
        {"dimensions": 9},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """Each wrong option is one UsageError that names it."""
    with pytest.raises(UsageError):
        embedder(**options)


def test_one_text_instead_of_a_list_is_refused() -> None:
    """A bare string would be taken letter by letter; it is refused with the way out."""
    with pytest.raises(UsageError) as caught:
        embedder().embed("hello")
    assert "embed_query" in caught.value.hint


@pytest.mark.parametrize("value", [None, 5, 1.5, object()])
def test_what_is_no_list_is_refused(value: object) -> None:
    """A value that holds no texts is named by its type."""
    with pytest.raises(UsageError, match=f"of type {type(value).__name__}"):
        embedder().embed(value)  # type: ignore[arg-type]  # what callers without types do


def test_an_error_in_the_callers_own_generator_is_the_callers() -> None:
    """What a generator raises comes out as it is."""
    with pytest.raises(TypeError, match="unsupported operand"):
        embedder().embed(str(1 + number) for number in [1, None])  # type: ignore[operator]  # what callers without types do


def test_a_learned_budget_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls after the first that learned it cost no write."""
    saved: list[int] = []

    class Profiles:
        def load(self, _key: str) -> int | None:
            return None

        def save(self, _key: str, budget: int, _rate: float) -> None:
            saved.append(budget)

    monkeypatch.setattr("embatch.storage.profiles.default_profiles", Profiles)
    with Embedder(backend=FakeBackend()) as e:
        assert isinstance(e.host, LocalHost)
        e.host.tuner = SharedTuner(BudgetTuner(low=1, high=64, first=8, profile=8))
        for _ in range(3):
            e.embed(["a", "b"])
    assert saved == [8]


def test_keys_must_match() -> None:
    """As many keys as texts."""
    with pytest.raises(UsageError, match="2 texts but 1 keys"):
        embedder().embed(["a", "b"], keys=["only"])


def test_queries_fail_by_name() -> None:
    """A bad query raises its own error, not a list."""
    with pytest.raises(EmptyTextError):
        embedder().embed_query(" ")
    with pytest.raises(TooLongError):
        embedder(overlong="error").embed_query("w " * 100)


def test_an_overlong_query_can_be_averaged() -> None:
    """With overlong='pool' a long query goes the way of documents, with the query's prompt."""
    e = embedder(overlong="pool")
    text = " ".join(f"w{i}" for i in range(100))
    np.testing.assert_array_equal(e.embed_query(text), e.embed([text], task="query").vectors[0])


def test_a_cache_file_keeps_vectors_between_embedders(tmp_path: Path) -> None:
    """What was embedded once is not embedded again, by another process's worth of Embedder either."""
    for expected in (0, 2):
        backend = FakeBackend()
        with embedder(backend, cache=tmp_path / "cache.sqlite") as e:
            result = e.embed(["a", "b"])
        assert result.report.cached == expected
        assert backend.calls == (0 if expected else 1)
        np.testing.assert_array_equal(result.vectors, np.stack([backend.vector("a"), backend.vector("b")]))


def test_a_cache_file_is_kept_within_its_limit(tmp_path: Path) -> None:
    """On closing, the oldest vectors beyond the limit go."""
    path = tmp_path / "cache.sqlite"
    texts = [f"text {i}" for i in range(20_000)]
    with embedder(cache=path) as e:
        e.embed(texts)
    before = path.stat().st_size
    with embedder(cache=path, cache_limit=before // 2) as e:
        e.embed(texts[:1])
    assert path.stat().st_size <= before // 2 + 8192


@pytest.mark.parametrize("kind", ["a file", "the caller's own store"])
def test_a_cache_never_mixes_specs(kind: str, tmp_path: Path) -> None:
    """Other dimensions or another prompt are other vectors, in the same cache."""
    cache = tmp_path / "cache.sqlite" if kind == "a file" else MemoryStore()
    with embedder(cache=cache) as e:
        e.embed(["a"])
        assert e.embed(["a"], task="query").report.cached == 0
        assert e.embed(["a"]).report.cached == 1
    with embedder(cache=cache, dimensions=4) as e:
        result = e.embed(["a"])
        assert result.report.cached == 0
        assert result.vectors.shape == (1, 4)
    with embedder(cache=cache) as e:
        assert e.embed(["a"]).report.cached == 1


def test_identity_and_content_are_different_things(tmp_path: Path) -> None:
    """With 'old' stored under key a, new texts under a and b get the vectors of their own texts."""
    backend = FakeBackend()
    with embedder(backend, cache=tmp_path / "c") as e:
        e.embed(["old"], keys=["a"])
        result = e.embed(["new", "old"], keys=["a", "b"])
    np.testing.assert_array_equal(result.vectors, np.stack([backend.vector("new"), backend.vector("old")]))


def test_streams_are_lazy_and_keep_keys() -> None:
    """A stream takes texts or items, hands over blocks in order, and carries failures in them."""

    def texts() -> Iterator[str | Item]:
        yield "a"
        yield Item("named", "b", "file:1")
        yield ""

    (block,) = embedder().stream(texts())
    assert [item.key for item in block.items] == ["0", "named", "2"]
    assert [f.row for f in block.failures] == [2]


def test_async_forms_give_the_same() -> None:
    """aembed, aembed_query and astream equal their synchronous forms."""
    backend = FakeBackend()
    e = embedder(backend)

    async def run() -> tuple[Any, Any, list[Any]]:
        blocks = [block async for block in e.astream(["a", "b"])]
        return await e.aembed(["a", "b"]), await e.aembed_query("a"), blocks

    result, query, blocks = asyncio.run(run())
    np.testing.assert_array_equal(result.vectors, blocks[0].vectors)
    np.testing.assert_array_equal(query, backend.vector("a", prompt="query: "))


def test_a_fixed_count_forms_batches_of_that_count() -> None:
    """batch_size=3 gives the backend three texts at a time."""
    backend = FakeBackend()
    embedder(backend, batch_size=3).embed([f"t{i}" for i in range(7)])
    assert sorted(len(batch) for batch in backend.batches) == [1, 3, 3]
