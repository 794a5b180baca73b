"""A provider that gives nothing: for how long a run goes on trying.

An outage passes, so a run that was answered before has patience, with its jobs above all. A wrong address does not
pass, so one that was never answered ends soon. What is lost by ending is nothing: the same command goes on where the
run was. Which lane is given up before that is the strategy's business. Sans I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.decisions.lanes.words import span
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_S: Mapping[ErrorKind, float] = {
    ErrorKind.CONNECTION: 60.0,
    ErrorKind.PROTOCOL: 60.0,  # somebody else answers: a proxy's page, another server
    ErrorKind.TIMEOUT: 240.0,  # a server that loads its model first answers late
    ErrorKind.OVERLOADED: 1800.0,
    ErrorKind.RATE_MINUTE: 1800.0,  # a minute's quota is never used up so long: it is 0, or another's
}
"""Seconds for which a provider that has given nothing yet is tried."""

AGAIN_S = 3600.0
"""The same for one that has given something before."""

_WORDS: Mapping[ErrorKind, str] = {
    ErrorKind.CONNECTION: "no connection",
    ErrorKind.PROTOCOL: "answers make no sense",
    ErrorKind.TIMEOUT: "no answer",
    ErrorKind.OVERLOADED: "provider overloaded",
    ErrorKind.RATE_MINUTE: "waits for a quota",
}


class Absence:
    """How long a provider has given nothing but failures. Times by any clock that does not go back."""

    def __init__(self) -> None:
        self._answered = False
        self._since: float | None = None
        self._kind: ErrorKind | None = None

    @property
    def answered_before(self) -> bool:
        """Whether it has ever given something."""
        return self._answered

    @property
    def kind(self) -> ErrorKind | None:
        """What the last failure was; None when all is well."""
        return self._kind

    def answered(self) -> None:
        """A call, a job or a question about one was answered."""
        self._answered = True
        self._since = self._kind = None

    def failed(self, now: float, kind: ErrorKind, *, seconds: float = 0.0) -> None:
        """A request failed that took so many seconds. A refusal of what was sent is an answer."""
        if kind not in FIRST_S:
            self.answered()
            return
        self._kind = kind
        if self._since is None:
            self._since = now - seconds

    def away_s(self, now: float) -> float:
        """Seconds for which nothing has come; 0.0 when all is well."""
        return 0.0 if self._since is None else max(0.0, now - self._since)

    def words(self, now: float) -> str:
        """What is waited for, in a few words; empty when all is well."""
        if self._kind is None:
            return ""
        return f"{_WORDS[self._kind]} for {span(self.away_s(now))}"

    def over(self, now: float) -> bool:
        """Whether it was tried long enough. Asked when a try has failed: a wait that was asked for has ended then."""
        if self._kind is None:
            return False
        return self.away_s(now) >= (AGAIN_S if self._answered else FIRST_S[self._kind])
