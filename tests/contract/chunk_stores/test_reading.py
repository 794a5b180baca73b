"""What a reader finds, in every store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.contract.chunk_stores.making import EVERYTHING, chunk, found, put, texts, vector

from embatch.chunks import Where
from embatch.errors import IndexMismatchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.chunk_stores.conftest import Place

    from embatch.chunks import ChunkReader

CHUNKS = [
    chunk(
        "src/retry.py",
        "def call(): # retries a failed connection",
        symbol="Client.call",
        imports="import time",
    ),
    chunk("src/retry.py", "def size(): return batch_size", at=1, symbol="Client.size"),
    chunk("src/web/http.py", "def getHTTPResponse(url): pass", kind="method", symbol="Web.getHTTPResponse"),
    chunk("src/web/page.ts", "class BatchSize {}", kind="class", language="typescript", symbol="BatchSize"),
    chunk("docs/guide.md", "How vectors are cached, and where.", kind="section", language="markdown"),
    chunk("docs/a b/it's.md", "Größe und Übersicht: 検索エンジン", kind="section", language="markdown"),
]


@pytest.fixture
def reader(place: Place) -> Iterator[ChunkReader]:
    """A store with `CHUNKS`, some of them published later than others."""
    writer = place.writer()
    put(writer, *CHUNKS[:3])
    writer.publish()
    put(writer, *CHUNKS[3:])
    writer.publish()
    writer.close()
    opened = place.reader()
    yield opened
    opened.close()
    opened.close()


def near(reader: ChunkReader, text: str, *, where: Where = EVERYTHING, k: int = 10) -> list[str]:
    return [hit.chunk.text for hit in reader.nearest(vector(text)[None], k=k, where=where)[0]]


def test_chunks_come_back_as_they_were_stored(reader: ChunkReader) -> None:
    """Every field of a chunk is what was given, from both searches and by its place."""
    for wanted in CHUNKS:
        hits = reader.nearest(vector(wanted.text)[None], k=1, where=EVERYTHING)[0]
        assert hits[0].chunk == wanted
        placed = reader.at(wanted.path, wanted.start_line)
        assert placed is not None
        assert placed[0] == wanted
        np.testing.assert_allclose(placed[1], vector(wanted.text), rtol=1e-6)
    assert reader.matching(["getHTTPResponse"], k=1, where=EVERYTHING)[0][0].chunk == CHUNKS[2]


def test_scores_are_cosines_best_first(reader: ChunkReader) -> None:
    """The score of `nearest` is the cosine, whatever the length of the query, and hits are in its order."""
    query = np.stack([vector("other") * 7, vector(CHUNKS[3].text)])
    for row, hits in zip(query, reader.nearest(query, k=10, where=EVERYTHING), strict=True):
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        for hit in hits:
            cosine = float(vector(hit.chunk.text) @ row / np.linalg.norm(row))
            assert hit.score == pytest.approx(cosine, abs=1e-5)
    assert len(hits) == len(CHUNKS)


def test_many_queries_are_answered_in_their_order(reader: ChunkReader) -> None:
    """A batch of queries gives the answers of each alone."""
    order = [one.text for one in CHUNKS] * 13
    hits = reader.nearest(np.stack([vector(text) for text in order]), k=2, where=EVERYTHING)
    assert [row[0].chunk.text for row in hits] == order
    assert {len(row) for row in hits} == {2}
    words = reader.matching(["connection", "", "batch size"], k=2, where=EVERYTHING)
    assert [len(row) for row in words] == [1, 0, 2]


def test_a_chunk_has_one_id_in_both_searches(reader: ChunkReader) -> None:
    """Hits of the two searches can be told to be the same chunk by their ids, and different ones differ."""
    by_vector = {hit.id: hit.chunk for hit in reader.nearest(vector("x")[None], k=9, where=EVERYTHING)[0]}
    assert len(by_vector) == len(CHUNKS)
    queries = ["connection", "batch", "response", "cached", "Größe"]
    for hits in reader.matching(queries, k=9, where=EVERYTHING):
        assert hits
        for hit in hits:
            assert by_vector[hit.id] == hit.chunk


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("where do we retry?", CHUNKS[0].text),
        ("retrying connections", CHUNKS[0].text),
        ("Client.call", CHUNKS[0].text),
        ("time", CHUNKS[0].text),
        ("batch_size", CHUNKS[1].text),
        ("BatchSize", CHUNKS[3].text),
        ("getHTTPResponse", CHUNKS[2].text),
        ("get_http_response", CHUNKS[2].text),
        ("http response", CHUNKS[2].text),
        ("page", CHUNKS[3].text),
        ("cache", CHUNKS[4].text),
        ("grösse", CHUNKS[5].text),
        ("übersicht", CHUNKS[5].text),
        ("検索", CHUNKS[5].text),
    ],
)
def test_words_are_found_in_any_form(reader: ChunkReader, query: str, text: str) -> None:
    """Text, symbol, path and imports are searched, identifiers by parts and whole, words in their forms."""
    assert text in found(reader, query, k=2)


def test_identifiers_are_found_by_parts_in_every_style(reader: ChunkReader) -> None:
    """`batch size` finds `batch_size` and `BatchSize`, and either finds the other."""
    both = {CHUNKS[1].text, CHUNKS[3].text}
    for query in ("batch size", "batch_size", "BatchSize", "batchSize", "the size of a batch"):
        assert set(found(reader, query)) == both


@pytest.mark.parametrize("query", ["", "   ", "?!", "zzyzx", '"', "\x00"])
def test_some_queries_find_nothing(reader: ChunkReader, query: str) -> None:
    """A query without words, or with words that nothing has, finds nothing and raises nothing."""
    assert found(reader, query) == []


@pytest.mark.parametrize(
    "query",
    [
        '"retries a" AND NOT connection',
        "text:connection",
        "connect* OR (connection",
        "+connection -failed ~2 ^3 'x' & | ! <->",
        "connection\n\tconnection " * 300,
    ],
)
def test_a_query_is_no_language(reader: ChunkReader, query: str) -> None:
    """Operators, quotes and brackets have no meaning: their words are looked for."""
    assert CHUNKS[0].text in found(reader, query)


def test_stop_words_alone_are_words(reader: ChunkReader) -> None:
    """A question's filling words are looked for if there is nothing else."""
    assert CHUNKS[4].text in found(reader, "how are")


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (Where(paths=("src/**",)), [0, 1, 2, 3]),
        (Where(paths=("src/*",)), [0, 1]),
        (Where(paths=("**/*.py",)), [0, 1, 2]),
        (Where(paths=("**/*.py", "docs/**")), [0, 1, 2, 4, 5]),
        (Where(paths=("!src/web/**",)), [0, 1, 4, 5]),
        (Where(paths=("src/**", "!**/*.py")), [3]),
        (Where(paths=("docs/a b/it's.md",)), [5]),
        (Where(paths=("docs/??gu*",)), []),
        (Where(paths=("src/[q-s]etr?.py",)), [0, 1]),
        (Where(paths=("src/web/[!h]*.ts",)), [3]),
        (Where(languages=("typescript", "markdown")), [3, 4, 5]),
        (Where(kinds=("method", "class")), [2, 3]),
        (Where(languages=("python",), kinds=("function",), paths=("!src/retry.py",)), []),
        (Where(languages=("no 'such",)), []),
    ],
    ids=str,
)
def test_filters_come_before_ranking(reader: ChunkReader, where: Where, wanted: list[int]) -> None:
    """Among what passes, the best are found, even if everything that does not pass is better."""
    allowed = {CHUNKS[at].text for at in wanted}
    for text in (one.text for one in CHUNKS):
        assert set(near(reader, text, where=where)) == allowed
        assert len(near(reader, text, where=where, k=1)) == min(1, len(allowed))
    query = "retries batch size response cached Größe"
    assert set(found(reader, query, where=where)) == allowed
    assert len(found(reader, query, where=where, k=1)) == min(1, len(allowed))


@pytest.mark.parametrize("k", [0, -1])
def test_none_are_asked_for(reader: ChunkReader, k: int) -> None:
    """Fewer than one hit is no hit."""
    assert near(reader, "x", k=k) == []
    assert found(reader, "batch", k=k) == []


def test_no_query_gives_no_answer(reader: ChunkReader) -> None:
    """An empty batch has an empty answer."""
    assert reader.nearest(np.empty((0, 16), np.float32), k=3, where=EVERYTHING) == []
    assert reader.matching([], k=3, where=EVERYTHING) == []


def test_wrong_queries_are_refused(reader: ChunkReader) -> None:
    """A vector of another model, a vector instead of a matrix, and a broken pattern are named errors."""
    with pytest.raises(IndexMismatchError):
        reader.nearest(np.ones((1, 8), np.float32), k=1, where=EVERYTHING)
    with pytest.raises(UsageError):
        reader.nearest(np.ones(16, np.float32), k=1, where=EVERYTHING)
    with pytest.raises(UsageError):
        reader.nearest(np.ones((1, 16), np.float32), k=1, where=Where(paths=("[z-a]",)))
    with pytest.raises(UsageError):
        reader.matching(["x"], k=1, where=Where(paths=("",)))


def test_a_line_has_a_chunk(reader: ChunkReader) -> None:
    """The chunk that holds a line is found by any of its lines; other lines and files have none."""
    for line, wanted in ((1, 0), (10, 0), (11, 1), (20, 1)):
        placed = reader.at("src/retry.py", line)
        assert placed is not None
        assert placed[0] == CHUNKS[wanted]
    for path, line in (("src/retry.py", 21), ("src/retry.py", 0), ("src/none.py", 1), ("it's", 1)):
        assert reader.at(path, line) is None


def test_counts_are_told(reader: ChunkReader) -> None:
    """How much there is, by language and kind."""
    stats = reader.stats()
    assert (stats.chunks, stats.files, reader.count()) == (6, 5, 6)
    assert dict(stats.by_language) == {"python": 3, "markdown": 2, "typescript": 1}
    assert dict(stats.by_kind) == {"function": 2, "section": 2, "method": 1, "class": 1}
    assert "exact" in stats.vector_index
    assert stats.recall is None


def test_threads_share_a_reader(reader: ChunkReader) -> None:
    """Searches and refreshes in many threads at once give what they give one by one."""

    def work(number: int) -> bool:
        if number % 7 == 0:
            reader.refresh()
        wanted = CHUNKS[number % len(CHUNKS)].text
        return near(reader, wanted, k=1) == [wanted] and set(found(reader, "batch")) == {
            CHUNKS[1].text,
            CHUNKS[3].text,
        }

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))


def test_a_closed_reader_says_so(place: Place) -> None:
    """Used after it was closed, a reader raises a named error."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"))
    writer.publish()
    writer.close()
    reader = place.reader()
    reader.close()
    with pytest.raises(UsageError):
        texts(reader)
