"""The purse of a day: no bound is gone over, whoever spends, and what a killed process held is not forgotten."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.errors import GoalError, OutputError, OutputMismatchError, UsageError
from embatch.storage.spending import Purse

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)


class Day:
    """The time, as a test wants it."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def test_what_was_reserved_is_replaced_by_the_bill(tmp_path: Path) -> None:
    """Until then it counts at its most; afterwards at what it was, once."""
    purse = Purse(tmp_path / "spending.sqlite", per_day=1.0, now=Day())
    number = purse.reserve("ann", 0.9)
    assert purse.spent_today() == {"ann": 0.9}
    with pytest.raises(GoalError):
        purse.reserve("bob", 0.2)
    purse.settle(number, 0.25)
    purse.settle(number, 0.25)
    assert purse.spent_today() == {"ann": 0.25}
    purse.settle(purse.reserve("bob", 0.75), 0.0)
    assert purse.spent_today() == {"ann": 0.25}
    purse.close()
    purse.close()


def test_a_refusal_names_the_limit_what_is_spent_and_when_the_day_ends(tmp_path: Path) -> None:
    """Whoever reads it knows what to do."""
    purse = Purse(tmp_path / "spending.sqlite", per_day=5.0, payers={"ann": 0.5}, now=Day())
    purse.settle(purse.reserve("ann", 0.4), 0.4)
    with pytest.raises(GoalError) as caught:
        purse.reserve("ann", 0.2)
    for words in ("'ann'", "$0.5000 a day", "$0.4000", "$0.200000", "2026-03-05 00:00 UTC", "in 11 h 30 min"):
        assert words in str(caught.value)
    purse.settle(purse.reserve("bob", 4.0), 4.0)
    with pytest.raises(GoalError, match=r"all clients together is \$5\.0000"):
        purse.reserve(None, 1.0)
    purse.close()


def test_a_new_day_begins_at_midnight_utc(tmp_path: Path) -> None:
    """What was reserved before belongs to the day before, also if its bill comes later."""
    day = Day()
    purse = Purse(tmp_path / "spending.sqlite", per_day=1.0, now=day)
    number = purse.reserve("ann", 1.0)
    day.now = NOON.replace(hour=23, minute=59)
    with pytest.raises(GoalError):
        purse.reserve("ann", 0.1)
    day.now = NOON + timedelta(hours=12)
    purse.settle(purse.reserve("ann", 1.0), 0.5)
    purse.settle(number, 1.0)
    assert purse.spent_today() == {"ann": 0.5}
    purse.close()


def test_what_a_process_left_behind_counts_as_spent(tmp_path: Path) -> None:
    """Nobody knows what became of its calls; days later it is booked for good."""
    path, day = tmp_path / "spending.sqlite", Day()
    killed = Purse(path, per_day=1.0, now=day)
    killed.settle(killed.reserve("ann", 0.25), 0.25)
    killed.reserve("ann", 0.5)
    killed.close()
    later = Purse(path, per_day=1.0, now=day)
    assert later.spent_today() == {"ann": 0.75}
    with pytest.raises(GoalError):
        later.reserve("ann", 0.5)
    day.now = NOON + timedelta(days=7)
    later.settle(later.reserve("bob", 1.0), 0.125)
    assert later.spent_today() == {"bob": 0.125}
    day.now = NOON
    assert later.spent_today() == {"ann": 0.75}
    later.close()


def test_two_processes_share_one_bound(tmp_path: Path) -> None:
    """Two connections, as of two servers over one folder: together they stay within it."""
    purses = [Purse(tmp_path / "spending.sqlite", per_day=1.0, now=Day()) for _ in range(2)]
    granted: list[float] = []

    def spend(purse: Purse) -> None:
        for _ in range(40):
            try:
                number = purse.reserve("ann", 0.03125)
            except GoalError:
                return
            granted.append(0.03125)
            purse.settle(number, 0.03125)

    threads = [threading.Thread(target=spend, args=(purse,)) for purse in purses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 1.0
    assert purses[0].spent_today() == {"ann": 1.0}
    for purse in purses:
        purse.close()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ann", "bob", None]), st.floats(0, 0.4), st.floats(0, 1)), max_size=25
    )
)
def test_no_bound_is_gone_over_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, wishes: list[tuple[str | None, float, float]]
) -> None:
    """Whatever is asked for and however much of it is used, all stay within theirs."""
    purse = Purse(
        tmp_path_factory.mktemp("purse") / "spending.sqlite", per_day=1.0, payers={"ann": 0.5}, now=Day()
    )
    billed: dict[str, float] = {}
    for payer, dollars, share in wishes:
        try:
            number = purse.reserve(payer, dollars)
        except GoalError:
            continue
        purse.settle(number, dollars * share)
        billed[payer or ""] = billed.get(payer or "", 0.0) + dollars * share
    assert sum(billed.values()) <= 1.0 + 1e-9
    assert billed.get("ann", 0.0) <= 0.5 + 1e-9
    assert sum(purse.spent_today().values()) == pytest.approx(sum(billed.values()))
    purse.close()


@pytest.mark.parametrize("bound", [-1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, bound: float) -> None:
    """When the purse is made."""
    with pytest.raises(UsageError, match="dollars of a day"):
        Purse(tmp_path / "a.sqlite", per_day=bound)
    with pytest.raises(UsageError, match="dollars of a day"):
        Purse(tmp_path / "a.sqlite", payers={"ann": bound})


def test_a_file_that_is_no_purse_is_left_alone(tmp_path: Path) -> None:
    """And one that was closed says so."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes, longer than a header of a database is" * 10, encoding="utf-8")
    with pytest.raises(OutputMismatchError):
        Purse(path)
    purse = Purse(tmp_path / "spending.sqlite")
    assert not purse.bounded
    purse.close()
    with pytest.raises(OutputError):
        purse.reserve(None, 0.0)
