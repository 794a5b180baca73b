"""Piles: what arrives while senders are busy goes together, and whatever happens every ask is told of its end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from embatch.decisions.pile_turns import Load, Room
from embatch.engine.coalesce.pile_asks import Part
from embatch.engine.coalesce.piles import Piles
from embatch.errors import (
    BackendClosedError,
    BackendError,
    EmbatchError,
    ExpiredError,
    OverloadedError,
    ProviderError,
    UsageError,
)
from embatch.remote import ErrorKind
from embatch.serving import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embatch.engine.coalesce.pile_asks import Ended, PileOnItsWay, PileTicket

    Pile = PileOnItsWay[str, str]
    Open = Callable[..., Piles[str, str]]

WAIT_S, LONG_S = 20.0, 3600.0


class Sender:
    """Sends piles once its gate is open, and remembers them. Answers are the texts in capitals."""

    def __init__(self) -> None:
        self.piles: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.cut = 0
        self.unwanted = threading.Event()

    def __call__(self, pile: Pile) -> Sequence[str | EmbatchError]:
        pile.on_unwanted = self.unwanted.set
        self.piles.append(pile.payloads)
        self.began.release()
        assert self.gate.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        found: list[str | EmbatchError] = [
            UsageError(text) if text.startswith("!") else text.upper() for text in pile.payloads
        ]
        return found[: len(found) - self.cut]


class Asked:
    """One ask and what it was told."""

    def __init__(self, piles: Piles[str, str], *texts: str, terms: str = "", **options: object) -> None:
        self.told: list[Ended[str]] = []
        self._end = threading.Event()
        parts = [Part(text, Load(1, len(text), len(text))) for text in texts]
        self.ticket: PileTicket = piles.submit(parts, terms, self._done, **options)  # type: ignore[arg-type]  # by name

    def _done(self, how: Ended[str]) -> None:
        self.told.append(how)
        self._end.set()

    @property
    def how(self) -> Ended[str]:
        assert self._end.wait(WAIT_S)
        (one,) = self.told
        return one

    @property
    def results(self) -> list[str]:
        assert self.how.error is None, self.how.error
        return list(self.how.results)


@pytest.fixture
def sender() -> Sender:
    """What sends."""
    return Sender()


@pytest.fixture
def opened(sender: Sender) -> Iterator[Open]:
    """Makes piles over the sender that are closed in the end."""
    made: list[Piles[str, str]] = []

    def make(**options: object) -> Piles[str, str]:
        made.append(Piles(sender, **({"senders": 1} | options)))  # type: ignore[arg-type]  # by name
        return made[-1]

    yield make
    sender.gate.set()
    for piles in made:
        piles.close()
        assert piles.join(WAIT_S)


def busy(piles: Piles[str, str], sender: Sender) -> Asked:
    """An ask that keeps the one sender busy until its gate is opened."""
    sender.gate.clear()
    while sender.began.acquire(blocking=False):
        pass  # of piles before
    first = Asked(piles, "first")
    assert sender.began.acquire(timeout=WAIT_S)
    return first


def test_an_idle_sender_sends_at_once_and_a_busy_one_finds_a_pile(opened: Open, sender: Sender) -> None:
    """No window: the first ask goes alone, what comes meanwhile goes together, in its order."""
    piles = opened()
    first = busy(piles, sender)
    others = [Asked(piles, f"a{i}", f"b{i}") for i in range(5)]
    sender.gate.set()
    assert first.results == ["FIRST"]
    assert [one.results for one in others] == [[f"A{i}", f"B{i}"] for i in range(5)]
    assert sender.piles == [["first"], [f"{name}{i}" for i in range(5) for name in "ab"]]


def test_a_pile_holds_what_a_call_takes_and_an_ask_may_be_spread(opened: Open, sender: Sender) -> None:
    """Oldest first; an ask is told once all of its parts are there."""
    piles = opened(gate=lambda _: Room(items=3))
    first = busy(piles, sender)
    asks = [Asked(piles, "a", "b"), Asked(piles, "c", "d", "e", "f"), Asked(piles, "g")]
    sender.gate.set()
    assert [one.results for one in (first, *asks)] == [
        ["FIRST"], ["A", "B"], ["C", "D", "E", "F"], ["G"],
    ]  # fmt: skip  # one look
    assert sender.piles[1:] == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_a_part_over_a_limit_goes_alone(opened: Open, sender: Sender) -> None:
    """It is the provider that decides about it, not an estimate; its neighbours are not held up."""
    piles = opened(gate=lambda _: Room(tokens=4))
    first = busy(piles, sender)
    asks = [Asked(piles, text) for text in ("aa", "far too long", "bb", "cc")]
    sender.gate.set()
    assert [one.results for one in (first, *asks)] == [["FIRST"], ["AA"], ["FAR TOO LONG"], ["BB"], ["CC"]]
    assert sender.piles[1:] == [["aa"], ["far too long"], ["bb", "cc"]]


def test_only_equal_terms_go_together(opened: Open, sender: Sender) -> None:
    """The pile that waits longest goes first."""
    piles = opened()
    first = busy(piles, sender)
    asks = [Asked(piles, f"{i}", terms="odd" if i % 2 else "even") for i in range(6)]
    sender.gate.set()
    assert [one.results for one in (first, *asks)] == [["FIRST"], *[[f"{i}"] for i in range(6)]]
    assert sender.piles[1:] == [["0", "2", "4"], ["1", "3", "5"]]


def test_interactive_asks_overtake_a_job(opened: Open, sender: Sender) -> None:
    """Also one that came first."""
    piles = opened(gate=lambda _: Room(items=2), batch_share=0.1)
    first = busy(piles, sender)
    job = Asked(piles, "j1", "j2", "j3", "j4", priority=Priority.BATCH)
    person = Asked(piles, "p")
    sender.gate.set()
    assert (first.results, person.results, job.results) == (["FIRST"], ["P"], ["J1", "J2", "J3", "J4"])
    assert sender.piles[1:] == [["p"], ["j1", "j2"], ["j3", "j4"]]


def test_a_shut_gate_lets_things_pile_up(opened: Open, sender: Sender) -> None:
    """While a quota is used up nothing is taken; what came meanwhile then goes together."""
    rooms = [Room(wait_s=0.05)]
    piles = opened(gate=lambda _: rooms[0])
    asks = [Asked(piles, text) for text in "abc"]
    assert not sender.began.acquire(timeout=0.01)
    rooms[0] = Room()
    assert [one.results for one in asks] == [["A"], ["B"], ["C"]]
    assert sender.piles == [["a", "b", "c"]]


def test_a_window_waits_for_others_and_ends_when_it_is_full(opened: Open, sender: Sender) -> None:
    """A short one ends by itself, a long one by what fills it; everything that waits goes along."""
    short = opened(window_s=0.03, senders=4)
    asks = [Asked(short, text) for text in "ab"]
    assert [one.results for one in asks] == [["A"], ["B"]]
    long = opened(window_s=LONG_S, full=Room(items=3), senders=4)
    asks = [Asked(long, "c"), Asked(long, "d", "e", "f")]
    assert [one.results for one in asks] == [["C"], ["D", "E", "F"]]
    assert sender.piles == [["a", "b"], ["c", "d", "e", "f"]]


def test_what_nobody_waits_for_is_not_sent(opened: Open, sender: Sender) -> None:
    """A cancelled ask is told nothing, and its texts stay here; also the rest of one that was begun."""
    piles = opened(gate=lambda _: Room(items=1))
    sender.gate.clear()
    begun = Asked(piles, "sent", "rest")
    assert sender.began.acquire(timeout=WAIT_S)
    gone, stays = Asked(piles, "gone"), Asked(piles, "stays")
    gone.ticket.cancel()
    begun.ticket.cancel()
    begun.ticket.cancel()
    assert sender.unwanted.is_set()
    sender.gate.set()
    assert stays.results == ["STAYS"]
    assert sender.piles == [["sent"], ["stays"]]
    assert (gone.told, begun.told) == ([], [])
    counts = piles.counts()
    assert (counts.asks, counts.answered, counts.cancelled) == (3, 1, 2)
    assert counts.waiting[Priority.INTERACTIVE] == Load()


def test_a_full_queue_refuses_and_says_when_to_come_back(opened: Open, sender: Sender) -> None:
    """What waits is bounded; the bound is in the message."""
    piles = opened(queue=4)
    first = busy(piles, sender)
    waiting = Asked(piles, "a", "b", "c")
    with pytest.raises(OverloadedError, match="3 of 4 inputs wait") as caught:
        Asked(piles, "d", "e")
    assert caught.value.retry_after_s > 0
    last = Asked(piles, "f")
    sender.gate.set()
    assert [one.results for one in (first, waiting, last)] == [["FIRST"], ["A", "B", "C"], ["F"]]
    assert piles.counts().refused == 1


def test_an_ask_is_told_when_its_time_is_over(opened: Open, sender: Sender) -> None:
    """Waiting or under way, while every sender hangs; what waited is not sent afterwards."""
    piles = opened()
    sender.gate.clear()
    sent = Asked(piles, "sent", timeout_s=0.05)
    assert sender.began.acquire(timeout=WAIT_S)
    waiting = Asked(piles, "waits", timeout_s=0.05)
    patient = Asked(piles, "patient")
    for one in (sent, waiting):
        assert isinstance(one.how.error, ExpiredError)
        assert one.how.seconds >= 0.05
    sender.gate.set()
    assert patient.results == ["PATIENT"]
    assert sender.piles == [["sent"], ["patient"]]
    assert piles.counts().expired == 2


def test_a_failed_pile_fails_its_own_asks_only(opened: Open, sender: Sender) -> None:
    """Each ask in it hears of it; the next pile goes on."""
    piles = opened()
    first = busy(piles, sender)
    sender.error = ProviderError("no key", kind=ErrorKind.AUTH)
    sender.gate.set()
    assert isinstance(first.how.error, ProviderError)
    sender.error = None
    assert Asked(piles, "later").results == ["LATER"]
    assert piles.counts().failed == 1


@pytest.mark.parametrize("error", [ValueError("broken"), None])
def test_a_sender_that_breaks_its_word_leaves_nobody_waiting(
    opened: Open, sender: Sender, error: Exception | None
) -> None:
    """Whatever it raises, and also if it answers too little."""
    sender.error, sender.cut = error, 0 if error else 1
    asks = [Asked(opened(), "a", "b") for _ in range(3)]
    for one in asks:
        assert isinstance(one.how.error, BackendError)


def test_an_error_in_the_place_of_a_result_ends_its_ask_alone(opened: Open, sender: Sender) -> None:
    """The others of the pile have their answers."""
    piles = opened()
    first = busy(piles, sender)
    asks = [Asked(piles, "a"), Asked(piles, "b", "!c"), Asked(piles, "d")]
    sender.gate.set()
    assert first.results == ["FIRST"]
    assert (asks[0].results, asks[2].results) == (["A"], ["D"])
    assert isinstance(asks[1].how.error, UsageError)


def test_a_caller_that_cannot_be_told_disturbs_no_other(opened: Open, sender: Sender) -> None:
    """What it raises is logged, and those after it are told."""
    piles = opened()
    first = busy(piles, sender)

    def broken(_: Ended[str]) -> None:
        raise RuntimeError("gone")

    piles.submit([Part("x", Load(1))], "", broken)
    last = Asked(piles, "y")
    sender.gate.set()
    assert (first.results, last.results) == (["FIRST"], ["Y"])


def test_a_gate_that_breaks_ends_everything_with_an_error(opened: Open) -> None:
    """The thread that forms piles dies, and nobody waits for ever, now or later."""

    def gate(_: Load) -> Room:
        raise ZeroDivisionError

    piles = opened(gate=gate)
    assert isinstance(Asked(piles, "a").how.error, BackendError)
    with pytest.raises(BackendClosedError):
        Asked(piles, "b")
    assert not piles.counts().alive


def test_closing_drains_for_as_long_as_it_may(opened: Open, sender: Sender) -> None:
    """With time, everything that waits is sent, windows or not; without, it is told that this was closed."""
    patient = opened(window_s=LONG_S)
    asks = [Asked(patient, text) for text in "ab"]
    patient.close(drain_s=WAIT_S)
    assert [one.results for one in asks] == [["A"], ["B"]]
    hasty = opened()
    under_way = busy(hasty, sender)
    waits = Asked(hasty, "waits")
    hasty.close()
    hasty.close()
    for one in (under_way, waits):
        assert isinstance(one.how.error, BackendClosedError)
    with pytest.raises(BackendClosedError):
        Asked(hasty, "late")
    sender.gate.set()
    assert hasty.join(WAIT_S)
    assert sender.piles == [["a", "b"], ["first"]]


def test_every_ask_of_a_crowd_is_told_once(opened: Open) -> None:
    """Many threads, some of which leave: each ask has its own answer or none, and nothing is left behind."""
    piles = opened(senders=3, gate=lambda _: Room(items=7))
    asks: list[Asked] = []

    def come(name: str) -> None:
        for i in range(60):
            one = Asked(piles, f"{name}{i}", f"{name}{i}-", terms=name[:1])
            asks.append(one)
            if i % 7 == 0:
                one.ticket.cancel()

    threads = [threading.Thread(target=come, args=(f"{'xy'[i % 2]}{i}t",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    piles.close(drain_s=WAIT_S)
    counts = piles.counts()
    assert counts.answered + counts.cancelled == counts.asks == 360
    assert sum(len(one.told) for one in asks) == counts.answered
    for one in asks:
        assert all(result.isupper() for how in one.told for result in how.results)
    assert counts.waiting == {priority: Load() for priority in Priority}
