"""Runs over prompts: order, repeats, errors in their places, budgets, and going on after a kill."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.fake_provider import FakeProvider, facts

from embatch.engine.lanes.clock import Clock
from embatch.errors import EmptyTextError, GoalError, NotSentError, ProviderError, RowError, UsageError
from embatch.frontends.generation import GenerateRun, GeneratingModel, answer_spec, check_generation
from embatch.frontends.remote import LaneSettings
from embatch.remote import CallAnswer, ErrorKind, Generated, GenerateWork, Goal, JobRow, Prices
from embatch.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from embatch.errors import EmbatchError
    from embatch.remote import JobRef, StrategyName, Work

WORK = GenerateWork(model="chat", system="Be brief")
CALLS, JOBS = LaneSettings(strategy="individual"), LaneSettings(strategy="batch")


class Chat(FakeProvider):
    """The double, whose jobs answer prompts."""

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """All rows."""
        for key, text in self._job(job).rows:
            yield JobRow(key, Generated(f"answer to {text}", 3, 5, "STOP"), 3)


def chat(**changes: Any) -> Chat:
    return Chat(facts=facts(dimensions=0, model="chat"), **changes)


def model(provider: FakeProvider) -> GeneratingModel:
    return GeneratingModel(provider, clock=Clock(2000))


def memory() -> closing[Ledger]:
    return closing(Ledger.open(None, fingerprint="x", about={}))


def answers(
    provider: FakeProvider, prompts: Sequence[Any], *, ledger: Ledger | None = None, **options: Any
) -> list[Generated | EmbatchError]:
    options.setdefault("settings", CALLS)
    with closing(ledger or Ledger.open(None, fingerprint="x", about={})) as opened:
        run = GenerateRun(model(provider), WORK, ledger=opened, **options)
        found = list(run.run(enumerate(prompts)))
    assert [key for key, _ in found] == list(range(len(prompts)))
    return [answer for _, answer in found]


def said(found: Sequence[Generated | EmbatchError]) -> list[str | None]:
    return [answer.text if isinstance(answer, Generated) else None for answer in found]


@pytest.mark.parametrize("settings", [CALLS, JOBS])
def test_each_prompt_has_its_own_answer(settings: LaneSettings) -> None:
    """In the order of the prompts, tokens and the reason of their end included; equal ones are asked once."""
    provider = chat()
    found = answers(provider, ["a", "b", "a"], settings=settings)
    assert said(found) == ["answer to a", "answer to b", "answer to a"]
    assert all(isinstance(answer, Generated) and answer.output_tokens == 5 for answer in found)
    assert provider.billed() == {"a": 1, "b": 1}


def test_more_prompts_than_a_page_keep_their_order() -> None:
    """Read and handed over a page at a time."""
    prompts = [f"p{i}" for i in range(2500)]
    assert said(answers(chat(), prompts, settings=JOBS)) == [f"answer to {text}" for text in prompts]


def test_errors_stand_in_their_places() -> None:
    """Of rows that are broken, of prompts that are none, of prompts that are refused."""

    def before_call(sent: Sequence[str]) -> None:
        if sent == ["poison"]:
            raise ProviderError("blocked", kind=ErrorKind.BAD_INPUT)

    broken = RowError("no JSON")
    found = answers(chat(before_call=before_call), ["a", broken, "", "poison", "b"])
    assert said(found) == ["answer to a", None, None, None, "answer to b"]
    assert found[1] is broken
    assert isinstance(found[2], EmptyTextError)
    assert str(found[3]) == "blocked"


def test_no_prompts_are_no_answers() -> None:
    """Nothing is sent, nothing raised."""
    provider = chat()
    assert answers(provider, []) == []
    assert answers(provider, ["", " "], settings=JOBS)[0].__class__ is EmptyTextError
    assert (provider.calls, provider.jobs) == ([], {})


class Talker(Chat):
    """The double, whose answers are as long as they may be, or much shorter: nobody knows beforehand."""

    PRICES = Prices(individual=0.1, batch=0.05, output_individual=4.0, output_batch=2.0)

    def spent(self) -> float:
        """Dollars, as it reckons."""
        called = sum(0.1 * 3 + 4.0 * self.length(call[0]) for call in self.calls)
        in_jobs = sum(
            0.05 * 3 + 2.0 * self.length(text) for job in self.jobs.values() for _, text in job.rows
        )
        return (called + in_jobs) / 1e6

    @staticmethod
    def length(text: str) -> int:
        """Tokens of the answer: every seventh prompt is answered at full length."""
        return 100 if int(text.rsplit(maxsplit=1)[-1]) % 7 == 6 else 4

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One synchronous request."""
        super().call(texts, work, timeout_s=timeout_s)
        return CallAnswer(results=[Generated("so", 3, self.length(texts[0]), "STOP")], tokens=3)

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """All rows."""
        for key, text in self._job(job).rows:
            yield JobRow(key, Generated("so", 3, self.length(text), "STOP"), 3)


@pytest.mark.parametrize("strategy", ["individual", "batch", "hybrid", "auto"])
@pytest.mark.parametrize("budget", [0.0005, 0.003, 0.02])
def test_a_budget_holds_whatever_the_answers_are(strategy: StrategyName, budget: float) -> None:
    """Each answer counts as the longest one until it is there: no surprise costs more than the budget."""
    provider = Talker(facts=facts(dimensions=0, model="chat", prices=Talker.PRICES))
    settings = LaneSettings(strategy=strategy, goal=Goal(budget=budget))
    work = GenerateWork(model="chat", max_output_tokens=100)
    with closing(Ledger.open(None, fingerprint="x", about={})) as ledger:
        run = GenerateRun(model(provider), work, ledger=ledger, settings=settings, collect=True)
        found = list(run.run(enumerate(f"prompt {n}" for n in range(100))))
    assert provider.spent() <= budget
    assert provider.spent() >= budget / 4 or all(isinstance(answer, Generated) for _, answer in found)


def test_answers_without_a_bound_say_so() -> None:
    """A budget that does not suffice for the longest answer names it: bounding the answers is the way out."""
    prices = Prices(individual=0.1, batch=0.05, output_individual=4.0, output_batch=2.0)
    provider = chat()
    provider.facts = facts(dimensions=0, model="chat", prices=prices, output_tokens=10_000)
    tight = LaneSettings(strategy="individual", goal=Goal(budget=0.01))
    with pytest.raises(GoalError, match="longest answer"):
        answers(provider, ["a"], settings=tight)
    assert not provider.calls


def test_a_budget_ends_the_run_or_stands_in_the_answers_places() -> None:
    """As is asked for; what was answered before stays."""
    tight = LaneSettings(strategy="individual", goal=Goal(budget=1e-9))
    with pytest.raises(GoalError, match="budget"):
        answers(chat(), ["a"], settings=tight)
    found = answers(chat(), ["a", ""], settings=tight, collect=True)
    assert isinstance(found[0], NotSentError)
    assert isinstance(found[0].__cause__, GoalError)


def test_an_interrupted_run_goes_on_without_paying_twice(tmp_path: Path) -> None:
    """Calls that were answered and jobs that were submitted are taken over from the ledger."""
    path = tmp_path / "answers.lanes"
    count = 0

    def stop_later(sent: Sequence[str]) -> None:
        nonlocal count
        count += 1
        if count > 5:
            raise ProviderError("no key", kind=ErrorKind.AUTH)

    provider = chat(before_call=stop_later)
    one = LaneSettings(strategy="individual", parallel=1)
    prompts = [f"p{i}" for i in range(12)]
    with pytest.raises(ProviderError, match="no key"):
        answers(provider, prompts, ledger=_on_disk(path), settings=one)
    provider.before_call = None
    assert len(answers(provider, prompts, ledger=_on_disk(path), settings=one)) == 12
    assert provider.billed() == dict.fromkeys(prompts, 1)


def test_a_job_under_way_is_found_again(tmp_path: Path) -> None:
    """By the ledger: the next run takes its results."""
    path = tmp_path / "answers.lanes"
    provider = chat(polls_until_done=10**9)
    patient = LaneSettings(strategy="batch", patience_s=1500.0)
    with pytest.raises(GoalError, match="jobs/1"):
        answers(provider, ["a", "b"], ledger=_on_disk(path), settings=patient)
    provider.polls_until_done = 0
    assert said(answers(provider, ["a", "b"], ledger=_on_disk(path), settings=JOBS)) == [
        "answer to a",
        "answer to b",
    ]
    assert len(provider.jobs) == 1


def _on_disk(path: Path) -> Ledger:
    return Ledger.open(path, fingerprint="x", about={})


def test_progress_counts_what_is_done() -> None:
    """From any thread: prompts read, and those that have their answer or error."""
    looked: list[tuple[int, int, bool]] = []
    gate = threading.Event()

    def before_call(sent: Sequence[str]) -> None:
        looked.append((run.rows_read, run.rows_done, run.read_all))
        gate.set()

    with memory() as ledger:
        run = GenerateRun(model(chat(before_call=before_call)), WORK, ledger=ledger, settings=CALLS)
        list(run.run(enumerate(["a", "", "a"])))
        assert looked[0] == (3, 2, True)
        assert (run.rows_done, run.known) == (3, 2)
        assert run.report.calls == 1


def test_what_changes_an_answer_is_in_the_spec() -> None:
    """Ledgers of other settings are not gone on with."""
    opened = model(chat())
    works = [
        WORK,
        GenerateWork(model="chat"),
        GenerateWork(model="chat", system="Be brief", temperature=0.0),
        GenerateWork(model="chat", system="Be brief", max_output_tokens=9),
    ]
    prints = {answer_spec(opened, work).fingerprint for work in works}
    assert len(prints) == len(works)


def test_models_that_make_vectors_are_refused() -> None:
    """And settings that make no sense."""
    with pytest.raises(UsageError, match="makes vectors"):
        GeneratingModel(FakeProvider())
    for wrong in (
        GenerateWork(model="m", temperature=3.0),
        GenerateWork(model="m", max_output_tokens=0),
        GenerateWork(model="m", temperature=-0.1),
    ):
        with pytest.raises(UsageError):
            check_generation(facts(dimensions=0), wrong)
