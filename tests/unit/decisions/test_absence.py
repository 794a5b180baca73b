"""How long a provider that gives nothing is tried."""

from __future__ import annotations

import pytest

from embatch.decisions.lanes.absence import AGAIN_S, FIRST_S, Absence
from embatch.remote import ErrorKind


@pytest.mark.parametrize("kind", list(FIRST_S))
def test_one_that_never_answered_is_tried_for_its_kinds_time(kind: ErrorKind) -> None:
    """A wrong address ends a run soon; the time counts from the sending of the first request that failed."""
    absence = Absence()
    absence.failed(120.0, kind, seconds=20.0)
    assert not absence.over(100.0 + FIRST_S[kind] - 0.001)
    absence.failed(100.0 + FIRST_S[kind], kind)
    assert absence.over(100.0 + FIRST_S[kind])
    assert absence.away_s(160.0) == 60.0
    assert absence.words(160.0).endswith("60 s")


@pytest.mark.parametrize("kind", list(FIRST_S))
def test_an_outage_of_one_that_answered_is_waited_out(kind: ErrorKind) -> None:
    """What gave something before is tried for an hour, counted from the first failure after its last answer."""
    absence = Absence()
    absence.failed(0.0, kind)
    absence.answered()
    assert absence.words(1.0) == ""
    absence.failed(5000.0, kind)
    assert not absence.over(5000.0 + AGAIN_S - 1)
    assert absence.over(5000.0 + AGAIN_S)
    absence.answered()
    assert not absence.over(1e9)


def test_a_refusal_of_what_was_sent_is_an_answer() -> None:
    """A provider that says what it does not like is there, and so is one whose queue of jobs is full."""
    absence = Absence()
    for kind in set(ErrorKind) - set(FIRST_S):
        absence.failed(0.0, ErrorKind.CONNECTION)
        absence.failed(50.0, kind)
        assert absence.away_s(60.0) == 0.0
        assert absence.answered_before
