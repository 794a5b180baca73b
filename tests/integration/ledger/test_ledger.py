"""What each method of the ledger promises, for a ledger in a file and for one in memory."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

from embatch.errors import EmbatchError, ItemProviderError, NotSentError, TooLongError
from embatch.remote import JobRef, Unit
from embatch.storage.ledger import Ledger, ledger_path
from embatch.storage.ledger_money import NOTHING, Bill, Pending

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["file", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    path = tmp_path / "run.lanes" if request.param == "file" else None
    opened = Ledger.open(path, fingerprint="f", about={"model": "m"})
    yield opened
    opened.close()


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def rows(*texts: str) -> list[tuple[bytes, str, int]]:
    return [(digest(text), text, 3) for text in texts]


def numbered(count: int) -> list[tuple[bytes, str, int]]:
    return rows(*(f"text {n}" for n in range(count)))


def ids(ledger: Ledger, items: int = 1_000_000) -> list[int]:
    return [row[0] for row in ledger.peek(items)]


def texts_of(units: list[Unit]) -> list[str]:
    return [unit.text for unit in units]


# --- units -----------------------------------------------------------------------------------------------------------


def test_units_wait_in_the_order_in_which_they_came(ledger: Ledger) -> None:
    """Added units wait, with their tokens and their size in bytes."""
    assert ledger.add([(digest("a"), "a", 2), (digest("ß"), "ß", 5)]) == 2
    assert ledger.waiting() == (2, 7)
    assert [row[1:] for row in ledger.peek(10)] == [(2, 1), (5, 2)]
    assert ledger.peek(1) == ledger.peek(10)[:1]


def test_a_known_digest_is_not_added_again(ledger: Ledger) -> None:
    """Adding what is known changes nothing, in whatever state it is."""
    ledger.add(numbered(5))
    taken = ledger.take_call(ids(ledger, 2))
    ledger.done([taken[0].id])
    assert ledger.add(numbered(6)) == 1
    assert ledger.waiting().items == 4
    assert ledger.add([]) == 0


def test_many_units_are_added_from_an_iterator(ledger: Ledger) -> None:
    """Ten thousand units, more than a page, are all there; repeats among them count once."""
    assert ledger.add(iter([*numbered(10_000), *numbered(500)])) == 10_000
    assert ledger.waiting() == (10_000, 30_000)
    assert len(ledger.take_call(ids(ledger))) == 10_000


def test_units_in_a_call_do_not_wait(ledger: Ledger) -> None:
    """What was taken is handed out whole, in order, and to nobody else."""
    ledger.add(numbered(3))
    taken = ledger.take_call(ids(ledger, 2))
    assert texts_of(taken) == ["text 0", "text 1"]
    assert taken[0] == Unit(taken[0].id, digest("text 0"), "text 0", 3, 6, 0)
    assert taken[0].key == digest("text 0").hex()
    assert ledger.waiting() == (1, 3)
    assert ledger.take_call([]) == []


def test_units_come_back_with_or_without_blame(ledger: Ledger) -> None:
    """A fruitless attempt is counted if it may have been the text's own fault; the order stays."""
    ledger.add(numbered(3))
    taken = ledger.take_call(ids(ledger, 2))
    ledger.back([taken[0].id], blame=True)
    ledger.back([taken[1].id], blame=False)
    again = ledger.take_call(ids(ledger))
    assert texts_of(again) == ["text 0", "text 1", "text 2"]
    assert [unit.attempts for unit in again] == [1, 0, 0]


def test_errors_are_kept_by_text(ledger: Ledger) -> None:
    """A failed unit waits no more, and its error comes back with class, message and hint."""
    ledger.add(numbered(3))
    units = ledger.take_call(ids(ledger))
    ledger.fail(
        [(units[0].id, TooLongError("too long", hint="Cut it.")), (units[2].id, ItemProviderError("no"))]
    )
    found = ledger.errors([unit.digest for unit in units] * 2)
    assert set(found) == {digest("text 0"), digest("text 2")}
    first, third = found[digest("text 0")], found[digest("text 2")]
    assert (type(first), str(first), first.hint) == (TooLongError, "too long", "Cut it.")
    assert (type(third), str(third), third.hint) == (ItemProviderError, "no", ItemProviderError.default_hint)
    assert ledger.waiting().items == 0


def test_errors_of_many_texts_are_found(ledger: Ledger) -> None:
    """More digests than one statement takes are asked for in pages."""
    ledger.add(numbered(2500))
    ledger.fail([(unit, NotSentError("no")) for unit in ids(ledger)])
    assert len(ledger.errors([digest(f"text {n}") for n in range(3000)])) == 2500


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_an_intended_job_has_the_first_that_wait(ledger: Ledger) -> None:
    """Units up to the last one named go into the job, except those in calls; the rest waits on."""
    ledger.add(numbered(10))
    waiting = ids(ledger)
    called = ledger.take_call([waiting[1]])
    job = ledger.intend_job(waiting[4], 4, 12, now=7.0)
    assert (job.number, job.items, job.tokens, job.intended, job.ref) == (1, 4, 12, 7.0, None)
    assert texts_of(list(ledger.job_items(1))) == ["text 0", "text 2", "text 3", "text 4"]
    assert ledger.waiting().items == 5
    ledger.back([called[0].id], blame=False)
    assert ids(ledger, 1) == [called[0].id]


def test_tags_tell_runs_and_jobs_apart(ledger: Ledger) -> None:
    """A tag holds the run's name and the job's number, in characters that every provider takes."""
    ledger.add(numbered(2))
    first, second = (ledger.intend_job(id_, 1, 3, 0.0) for id_ in ids(ledger))
    assert (first.tag, second.tag) == (f"embatch-{ledger.run_id}-1", f"embatch-{ledger.run_id}-2")
    assert len(ledger.run_id) == 8
    int(ledger.run_id, 16)


def test_jobs_are_listed_as_they_stand(ledger: Ledger) -> None:
    """A job is intended, accepted under the provider's name, and done with a word why."""
    ledger.add(numbered(3))
    for id_ in ids(ledger):
        ledger.intend_job(id_, 1, 3, now=1.0)
    ledger.accept_job(2, JobRef(id="batches/2", input_file="files/2"), now=5.0)
    ledger.accept_job(3, JobRef(id="batches/3"), now=6.0)
    assert ledger.drop_job(3, "collected") == 1
    one, two, three = ledger.jobs()
    assert (one.state, one.ref, one.accepted, one.done) == ("intended", None, None, False)
    assert (two.state, two.ref, two.accepted) == (
        "accepted",
        JobRef(id="batches/2", input_file="files/2"),
        5.0,
    )
    assert (three.state, three.ref, three.done) == ("collected", JobRef(id="batches/3"), True)
    assert [job.number for job in ledger.jobs(done=False)] == [1, 2]
    assert [job.number for job in ledger.jobs(done=True)] == [3]


def test_a_dropped_job_gives_back_what_has_no_result(ledger: Ledger) -> None:
    """Units without a result wait again, in their old order and without blame; the others stay as they are."""
    ledger.add(numbered(5))
    ledger.intend_job(ids(ledger)[3], 4, 12, 0.0)
    units = list(ledger.job_items(1))
    ledger.done([units[0].id])
    ledger.fail([(units[2].id, NotSentError("no"))])
    assert texts_of(list(ledger.job_items(1))) == ["text 1", "text 3"]
    assert ledger.drop_job(1, "expired") == 2
    assert ledger.drop_job(1, "expired") == 0
    assert list(ledger.job_items(1)) == []
    assert texts_of(ledger.take_call(ids(ledger))) == ["text 1", "text 3", "text 4"]


def test_units_of_a_job_are_found_by_digest(ledger: Ledger) -> None:
    """Those of this job that have no result, also if they wait again after it; nobody else's."""
    ledger.add(numbered(6))
    waiting = ids(ledger)
    ledger.intend_job(waiting[2], 3, 9, 0.0)
    ledger.intend_job(waiting[4], 2, 6, 0.0)
    every = [digest(f"text {n}") for n in range(7)]
    assert set(ledger.job_units(1, every)) == set(every[:3])
    ledger.done([waiting[0]])
    ledger.back([waiting[1]], blame=True)
    found = ledger.job_units(1, every)
    assert {unit.text: unit.attempts for unit in found.values()} == {"text 1": 1, "text 2": 0}
    assert ledger.job_units(3, every) == {}


def test_the_items_of_a_job_are_read_by_another_thread(ledger: Ledger) -> None:
    """While one thread uploads a job of many pages, another goes on with the ledger."""
    ledger.add(numbered(5000))
    ledger.intend_job(ids(ledger)[3999], 4000, 12_000, 0.0)
    found: list[str] = []

    def upload() -> None:
        found.extend(unit.text for unit in ledger.job_items(1))

    thread = threading.Thread(target=upload)
    thread.start()
    for unit in ids(ledger):
        ledger.take_call([unit])
        ledger.done([unit])
    thread.join()
    assert found == [f"text {n}" for n in range(4000)]


# --- money and answers -----------------------------------------------------------------------------------------------


def test_bills_add_up(ledger: Ledger) -> None:
    """Each lane's requests, items, tokens and dollars are summed, and what was only estimated."""
    assert ledger.spent() == 0.0
    ledger.bill("individual", items=3, tokens=10, dollars=0.25, estimated=False)
    ledger.bill("individual", items=0, tokens=5, dollars=0.5, estimated=True)
    ledger.bill("batch", items=7, tokens=70, dollars=1.0, estimated=True)
    assert ledger.bills() == {"individual": Bill(2, 3, 15, 0.75, 5), "batch": Bill(1, 7, 70, 1.0, 70)}
    assert ledger.spent() == 1.75


def test_what_is_on_its_way_counts_at_its_most(tmp_path: Path) -> None:
    """A call that was written down counts as spent until its bill is known; another process goes on with the same."""
    path = tmp_path / "run.lanes"
    ledger = Ledger.open(path, fingerprint="f", about={})
    first, second, third = (ledger.pend("individual", items=1, tokens=10, dollars=2.0) for _ in range(3))
    assert ledger.spent() == 6.0
    ledger.bill("individual", items=1, tokens=4, dollars=0.5, estimated=False, pending=first)
    ledger.settle(second)
    assert ledger.pending() == Pending(1, 1, 10, 2.0)
    ledger.close()
    ledger = Ledger.open(path, fingerprint="f", about={})
    assert ledger.spent() == 2.5
    assert ledger.bills() == {"individual": Bill(1, 1, 4, 0.5, 0)}
    ledger.settle(third)
    assert ledger.spent() == 0.5
    assert ledger.pending() == NOTHING
    ledger.close()


def test_nothing_is_on_its_way_in_memory() -> None:
    """A ledger that ends with its process need not remember what is under way."""
    ledger = Ledger.open(None, fingerprint="f", about={})
    assert ledger.pend("individual", items=1, tokens=10, dollars=2.0) == 0
    ledger.settle(0)
    assert ledger.spent() == 0.0
    ledger.close()


def test_a_job_is_billed_once(ledger: Ledger) -> None:
    """Results that are taken in a second time, after a kill, cost nothing more; another job does."""
    ledger.add(numbered(2))
    for id_ in ids(ledger):
        ledger.intend_job(id_, 1, 3, 0.0)
    for _ in range(2):
        ledger.bill("batch", items=1, tokens=3, dollars=0.5, estimated=False, job=1)
    ledger.bill("batch", items=1, tokens=3, dollars=0.25, estimated=False, job=2)
    assert ledger.bills() == {"batch": Bill(2, 2, 6, 0.75, 0)}


def test_the_first_answer_stays(ledger: Ledger) -> None:
    """Generated answers are kept under their prompts, and the first one is believed."""
    ledger.put_answers([(digest("a"), '"one"'), (digest("b"), '"two"')])
    ledger.put_answers([(digest("a"), '"three"')])
    many = [digest(f"text {n}") for n in range(2000)]
    assert ledger.answers([*many, digest("a"), digest("b")]) == {digest("a"): '"one"', digest("b"): '"two"'}


# --- ending ----------------------------------------------------------------------------------------------------------


def test_a_closed_ledger_says_so(ledger: Ledger) -> None:
    """After `close` or `finish`, which may be repeated, every use is an error of ours."""
    ledger.close()
    ledger.close()
    ledger.finish()
    with pytest.raises(EmbatchError, match="closed"):
        ledger.waiting()
    with pytest.raises(EmbatchError, match="closed"):
        ledger.add(numbered(1))


def test_a_finished_ledger_leaves_nothing(tmp_path: Path) -> None:
    """`finish` removes the file, its side files, and its folder if nothing else lies there."""
    path = ledger_path(tmp_path / "out.parquet")
    assert path == tmp_path.resolve() / ".embatch" / "out.parquet.lanes"
    ledger = Ledger.open(path, fingerprint="f", about={})
    ledger.add(numbered(10))
    assert path.exists()
    ledger.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_change_that_breaks_changes_nothing(ledger: Ledger) -> None:
    """If the source of units breaks half-way, none of them is there: a change is one transaction."""

    def broken() -> Iterator[tuple[bytes, str, int]]:
        yield from numbered(1500)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        ledger.add(broken())
    assert ledger.waiting().items == 0
    assert ledger.add(numbered(3)) == 3


def test_an_interrupt_in_a_change_does_not_lock_the_ledger(ledger: Ledger) -> None:
    """Ctrl-C in the middle of a change leaves a ledger that takes the next one."""

    def interrupted() -> Iterator[tuple[bytes, str, int]]:
        yield from numbered(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.add(interrupted())
    assert ledger.add(numbered(3)) == 3
