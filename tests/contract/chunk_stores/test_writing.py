"""What a writer does, and what readers see of it, in every store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.contract.chunk_stores.conftest import SPEC
from tests.contract.chunk_stores.making import EVERYTHING, chunk, put, state, texts, vector, vectors

from embatch.errors import IndexBusyError, IndexMismatchError, IndexNotFoundError, UsageError

if TYPE_CHECKING:
    from tests.contract.chunk_stores.conftest import Place

    from embatch.types import ModelSpec

OTHER = replace(SPEC, model="test/other", dimensions=8)


def test_there_is_nothing_to_read_before_the_first_publish(place: Place) -> None:
    """A store that does not exist, or was never published, is no index to a reader."""
    with pytest.raises(IndexNotFoundError):
        place.reader()
    writer = place.writer()
    put(writer, chunk("a.py", "one"))
    with pytest.raises(IndexNotFoundError):
        place.reader()
    writer.close()


def test_an_empty_store_can_be_published(place: Place) -> None:
    """A folder without a single chunk makes an index in which nothing is found."""
    writer = place.writer()
    writer.publish()
    writer.close()
    reader = place.reader()
    assert reader.count() == 0
    assert texts(reader) == []
    assert reader.matching(["word"], k=3, where=EVERYTHING) == [[]]
    assert reader.at("a.py", 1) is None
    reader.close()


def test_readers_see_what_was_published_and_nothing_else(place: Place) -> None:
    """What is written is seen after `publish` and `refresh`, whole, and not before."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"), chunk("b.py", "two"))
    writer.publish()
    reader = place.reader()
    put(writer, chunk("a.py", "three"))
    writer.remove(["b.py"])
    assert texts(reader) == ["one", "two"]
    assert not reader.refresh()
    assert texts(place.reader()) == ["one", "two"]
    writer.publish()
    assert texts(reader) == ["one", "two"]
    assert reader.refresh()
    assert texts(reader) == ["three"]
    assert not reader.refresh()
    writer.close()


def test_a_file_is_replaced_whole(place: Place) -> None:
    """All former chunks of the files that are named go, also of those that have no chunks now."""
    writer = place.writer()
    put(
        writer, chunk("a.py", "one"), chunk("a.py", "two", at=1), chunk("b.py", "three"), chunk("c'd.py", "x")
    )
    kept = chunk("a.py", "two", at=0)
    writer.replace([state("a.py", 1), state("b.py", 0, skipped="binary")], [kept], vectors([kept]))
    writer.publish()
    reader = place.reader()
    assert texts(reader) == ["two", "x"]
    assert reader.count() == 2
    assert writer.files()["b.py"].skipped == "binary"
    writer.close()


def test_states_come_back_as_they_were_noted(place: Place) -> None:
    """Every field of a file's state is kept, numbers of 64 bits and odd names included."""
    writer = place.writer()
    name = "odd 'name' with \"quotes\" \\xff; -- é 文.py"
    put(writer, chunk(name, "one"))
    noted = [state("empty.txt", 0, skipped="empty"), state("b/half.py", 0, failed=3, mtime_ns=2**62)]
    writer.note(noted)
    writer.close()
    again = place.writer()
    assert again.files() == {name: state(name, 1), **{file.path: file for file in noted}}
    again.publish()
    assert again.files() == {name: state(name, 1), **{file.path: file for file in noted}}
    again.close()


def test_noting_a_state_keeps_the_chunks(place: Place) -> None:
    """A file that was only touched gets a new state, and its chunks stay; one that has none now loses them."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"), chunk("b.py", "two"))
    writer.note([state("a.py", 1, mtime_ns=9), state("b.py", 0, skipped="too large")])
    writer.publish()
    assert texts(place.reader()) == ["one"]
    assert writer.files()["a.py"].mtime_ns == 9
    writer.close()


def test_removed_files_are_gone(place: Place) -> None:
    """A removed file leaves no chunk and no state, and removing what is not there does nothing."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"), chunk("b.py", "two"))
    writer.publish()
    writer.remove(["b.py", "never.py"])
    writer.remove([])
    writer.publish()
    assert texts(place.reader()) == ["one"]
    assert set(writer.files()) == {"a.py"}
    writer.close()


def test_vectors_are_found_by_content(place: Place) -> None:
    """`known` has the vectors of equal content wherever it lies, published or not, and nothing else."""
    writer = place.writer()
    one, two, three = chunk("a.py", "one"), chunk("b.py", "two"), chunk("c.py", "three")
    assert writer.known([one.digest]) == {}
    put(writer, one)
    writer.publish()
    put(writer, two)
    asked = [one.digest, two.digest, two.digest, three.digest]
    found = writer.known(asked)
    assert set(found) == {one.digest, two.digest}
    np.testing.assert_allclose(found[two.digest], vector("two"), rtol=1e-6)
    np.testing.assert_allclose(found[one.digest], vector("one"), rtol=1e-6)
    writer.close()


def test_a_moved_file_finds_its_vectors_after_it_was_removed(place: Place) -> None:
    """What was published last is still known while its file is removed and another with its content comes."""
    writer = place.writer()
    one = chunk("old.py", "one")
    put(writer, one)
    writer.publish()
    writer.remove(["old.py"])
    assert set(writer.known([one.digest])) == {one.digest}
    writer.close()


def test_the_next_writer_goes_on_where_one_ended(place: Place) -> None:
    """What was written and not published is there for the next writer, and published by it."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"))
    writer.publish()
    put(writer, chunk("b.py", "two"))
    writer.close()
    assert texts(place.reader()) == ["one"]
    again = place.writer()
    assert set(again.files()) == {"a.py", "b.py"}
    assert set(again.known([chunk("b.py", "two").digest])) == {chunk("b.py", "two").digest}
    again.publish()
    again.close()
    assert texts(place.reader()) == ["one", "two"]


def test_only_one_writer_at_a_time(place: Place) -> None:
    """A second writer is refused until the first one is closed, and closing twice does no harm."""
    first = place.writer()
    with pytest.raises(IndexBusyError) as caught:
        place.writer()
    assert caught.value.retryable
    with pytest.raises(IndexBusyError):
        place.writer(fresh=True)
    first.close()
    second = place.writer()
    first.close()
    with pytest.raises(IndexBusyError):
        place.writer()
    second.close()


def test_two_models_are_not_mixed(place: Place) -> None:
    """A writer for another model is refused, both are named, and nothing is changed."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"))
    writer.publish()
    writer.close()
    with pytest.raises(IndexMismatchError) as caught:
        place.writer(spec=OTHER)
    assert "test/model" in str(caught.value)
    assert "test/other" in str(caught.value)
    assert "--rebuild" in caught.value.hint
    place.writer().close()
    assert place.reader().spec == SPEC


@pytest.mark.parametrize("wanted", [SPEC, OTHER], ids=["same model", "other model"])
def test_starting_over_is_seen_when_it_is_done(place: Place, wanted: ModelSpec) -> None:
    """With `fresh` the writer begins with nothing, while readers keep what was published until there is more."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"), chunk("b.py", "two"))
    writer.describe({"cut": "1"})
    writer.publish()
    writer.close()
    reader = place.reader()
    writer = place.writer(spec=wanted, fresh=True)
    assert writer.files() == {}
    assert dict(writer.about) == {}
    assert writer.known([chunk("a.py", "one").digest]) == {}
    put(writer, chunk("a.py", "three"))
    assert not reader.refresh()
    assert texts(reader) == ["one", "two"]
    assert place.reader().spec == SPEC
    writer.publish()
    writer.close()
    assert reader.refresh()
    assert reader.spec == wanted
    assert texts(reader) == ["three"]


def test_words_about_it_go_with_the_state(place: Place) -> None:
    """What a writer says of the store is kept, and readers see it from the next `publish` on."""
    writer = place.writer()
    writer.describe({"cut": "1", "é": "'\""})
    writer.publish()
    reader = place.reader()
    assert dict(reader.about) == {"cut": "1", "é": "'\""}
    writer.describe({"cut": "2"})
    assert dict(writer.about) == {"cut": "2"}
    assert dict(place.reader().about) == {"cut": "1", "é": "'\""}
    writer.close()
    writer = place.writer()
    assert dict(writer.about) == {"cut": "2"}
    writer.publish()
    writer.close()
    assert reader.refresh()
    assert dict(reader.about) == {"cut": "2"}


@pytest.mark.parametrize("shape", [(1, 16), (2, 8)], ids=["too few", "too short"])
def test_wrong_vectors_change_nothing(place: Place, shape: tuple[int, int]) -> None:
    """Vectors that are not one a chunk, or not of the model's size, are refused before anything is touched."""
    rows = np.ones(shape, np.float32)
    writer = place.writer()
    put(writer, chunk("a.py", "one"))
    pair = [chunk("a.py", "two"), chunk("a.py", "three", at=1)]
    with pytest.raises(UsageError):
        writer.replace([state("a.py", 2)], pair, rows)
    with pytest.raises(UsageError):
        writer.replace([state("b.py", 2)], pair, vectors(pair))
    with pytest.raises(UsageError):
        writer.replace([state("a.py", 2)], pair, np.full((2, 16), np.nan, np.float32))
    writer.publish()
    assert texts(place.reader()) == ["one"]
    writer.close()


def test_publishing_again_changes_nothing(place: Place) -> None:
    """When nothing was written since, `publish` gives readers nothing new."""
    writer = place.writer()
    put(writer, chunk("a.py", "one"))
    writer.publish()
    reader = place.reader()
    writer.publish()
    writer.close()
    again = place.writer()
    again.publish()
    again.close()
    assert texts(reader) == ["one"]
    reader.refresh()
    assert texts(reader) == ["one"]
