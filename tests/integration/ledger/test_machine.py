"""The ledger against a model of it: no unit is lost and none is in two places, whatever happens, kills included."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from embatch.errors import NotSentError
from embatch.remote import JobRef
from embatch.storage.ledger import Ledger

WAITING, IN_CALL, IN_JOB, DONE, FAILED = "waiting", "in call", "in job", "done", "failed"


@dataclass
class Kept:
    """A unit as the model knows it."""

    text: str
    order: int
    place: str = WAITING
    job: int | None = None
    attempts: int = 0
    met: bool = True


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class LedgerMachine(RuleBasedStateMachine):
    """Does to a ledger what runs do, in any order, and to a dictionary the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.life = 0
        self.units: dict[bytes, Kept] = {}
        self.ids: dict[bytes, int] = {}
        self.jobs: dict[int, str] = {}
        self.order = 0

    @initialize()
    def open(self) -> None:
        """A new run."""
        self.ledger = Ledger.open(self.path, fingerprint="f", about={})

    @property
    def path(self) -> Path:
        """Of the ledger, in its present life."""
        return self.folder / str(self.life) / "out.lanes"

    def teardown(self) -> None:
        """Leave nothing."""
        if hasattr(self, "ledger"):
            self.ledger.close()
        shutil.rmtree(self.folder)

    def where(self, place: str, job: int | None = None) -> list[bytes]:
        """The model's units in one place, in order."""
        found = [d for d, u in self.units.items() if u.place == place and (job is None or u.job == job)]
        return sorted(found, key=lambda d: self.units[d].order)

    # --- what runs do ---------------------------------------------------------------------------------------------

    @rule(numbers=st.lists(st.integers(0, 30), max_size=12))
    def add(self, numbers: list[int]) -> None:
        """Texts are read, some of them known."""
        new = 0
        for number in numbers:
            text = f"text {number}"
            known = self.units.get(digest(text))
            if known is None:
                self.order += 1
                self.units[digest(text)] = Kept(text, self.order)
                new += 1
            elif not known.met:
                known.met = True
                new += 1
        assert self.ledger.add([(digest(f"text {n}"), f"text {n}", n + 1) for n in numbers]) == new

    @rule(items=st.integers(1, 8))
    def take_call(self, items: int) -> None:
        """A call is sent."""
        units = self.ledger.take_call([row[0] for row in self.ledger.peek(items)])
        assert [unit.digest for unit in units] == self.where(WAITING)[:items]
        for unit in units:
            kept = self.units[unit.digest]
            assert (unit.text, unit.attempts) == (kept.text, kept.attempts)
            self.ids[unit.digest] = unit.id
            kept.place, kept.job = IN_CALL, kept.job

    @rule(data=st.data(), blame=st.booleans())
    def back(self, data: st.DataObject, blame: bool) -> None:
        """Some units of calls wait again."""
        chosen = self.some(data, self.where(IN_CALL))
        self.ledger.back([self.ids[d] for d in chosen], blame=blame)
        for d in chosen:
            self.units[d].place = WAITING
            self.units[d].attempts += blame

    @rule(data=st.data(), fails=st.booleans())
    def end_in_call(self, data: st.DataObject, fails: bool) -> None:
        """Some units of calls have their result, or fail."""
        self.end(self.some(data, self.where(IN_CALL)), fails=fails)

    @rule(items=st.integers(1, 8))
    def intend(self, items: int) -> None:
        """A job is about to be submitted."""
        found = self.ledger.peek(items)
        if not found:
            return
        job = self.ledger.intend_job(found[-1][0], len(found), sum(row[1] for row in found), 1.0)
        assert job.number not in self.jobs
        assert job.items == len(self.where(WAITING)[:items])
        self.jobs[job.number] = "intended"
        for d in self.where(WAITING)[:items]:
            self.units[d].place, self.units[d].job = IN_JOB, job.number

    @precondition(lambda self: "intended" in self.jobs.values())
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        """The provider has it."""
        number = data.draw(st.sampled_from([n for n, state in self.jobs.items() if state == "intended"]))
        self.ledger.accept_job(number, JobRef(id=f"job {number}"), 2.0)
        self.jobs[number] = "accepted"

    @precondition(lambda self: set(self.jobs.values()) - {"ended"} != set())
    @rule(data=st.data(), fails=st.booleans())
    def end_in_job(self, data: st.DataObject, fails: bool) -> None:
        """Some rows of a job are collected."""
        number = self.running(data)
        chosen = self.some(data, self.where(IN_JOB, number))
        units = self.ledger.job_units(number, chosen)
        assert set(units) == set(chosen)
        self.ids.update({d: unit.id for d, unit in units.items()})
        self.end(chosen, fails=fails)

    @precondition(lambda self: set(self.jobs.values()) - {"ended"} != set())
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """A job has ended."""
        number = self.running(data)
        left = self.where(IN_JOB, number)
        assert self.ledger.drop_job(number, "ended") == len(left)
        self.jobs[number] = "ended"
        for d in left:
            self.units[d].place = WAITING

    @rule()
    def kill(self) -> None:
        """The process dies: the next one has the bytes that were written, and nothing more."""
        run_id, before = self.ledger.run_id, self.path
        self.life += 1
        shutil.copytree(before.parent, self.path.parent)
        self.ledger.close()
        shutil.rmtree(before.parent)
        self.ledger = Ledger.open(self.path, fingerprint="f", about={})
        assert self.ledger.run_id == run_id
        assert self.ledger.reset == len(self.where(IN_CALL))
        self.units = {d: u for d, u in self.units.items() if u.place == IN_JOB}
        for unit in self.units.values():
            unit.met = False

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        """Every unit is in the place where the model has it, and in no other."""
        if not hasattr(self, "ledger"):
            return
        waiting = self.where(WAITING)
        tokens = [int(self.units[d].text.split()[1]) + 1 for d in waiting]
        assert self.ledger.waiting() == (len(waiting), sum(tokens))
        assert [row[1] for row in self.ledger.peek(1000)] == tokens
        jobs = {job.number: job for job in self.ledger.jobs()}
        assert set(jobs) == set(self.jobs)
        for number, state in self.jobs.items():
            assert (jobs[number].state, jobs[number].done) == (state, state == "ended")
            assert (jobs[number].ref is not None) == (state == "accepted") or state == "ended"
            inside = [unit.digest for unit in self.ledger.job_items(number)]
            assert inside == self.where(IN_JOB, number)
        failed = self.ledger.errors([digest(f"text {n}") for n in range(31)])
        assert set(failed) == set(self.where(FAILED))

    # --- helpers --------------------------------------------------------------------------------------------------

    def some(self, data: st.DataObject, places: list[bytes]) -> list[bytes]:
        return data.draw(st.lists(st.sampled_from(places), unique=True)) if places else []

    def running(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from([n for n, state in self.jobs.items() if state != "ended"]))

    def end(self, chosen: list[bytes], *, fails: bool) -> None:
        if fails:
            self.ledger.fail([(self.ids[d], NotSentError("no")) for d in chosen])
        else:
            self.ledger.done([self.ids[d] for d in chosen])
        for d in chosen:
            self.units[d].place = FAILED if fails else DONE


LedgerMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedger = pytest.mark.timeout(120)(LedgerMachine.TestCase)
