"""What an exception of an embedding service means, in the words that the lanes act upon.

The lanes repeat, pause, split and give up; this tells them which, from what was raised and from how often these texts
have failed before. `max_retries` and `retry_delay` are honoured here: the delay is a floor under the lanes' own pauses,
and what has failed too often is refused for its content, so that it is halved down to the text to blame. It waits for
nothing and reads no clock.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from embatch.errors import ProviderError
from embatch.providers.refusals import clean, retry_after_s, size_kind, status_kind, table_kind
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

_BROKEN = 40
"""Calls failed in a row, retries used up, after which a service is broken; as for an engine on this machine."""

_PATIENCE = 75.0
"""Times `retry_delay`: how long a service that refuses everything for a quota is asked at least. A minute's quota is
there again after a minute."""

_MOST_S = 60.0  # that the doubled delay grows to
_UNREACHED = frozenset({ErrorKind.CONNECTION, ErrorKind.TIMEOUT})
_STATUSES = ("status_code", "status", "http_status", "code")
_DELAYS = ("retry_after", "retry_after_s", "retry_after_seconds")
_RATE = re.compile(r"rate.?limit|too many requests|quota exceeded|\b429\b|throttl", re.IGNORECASE)


class Verdicts:
    """The judge of one run. Used under a lock.

    Args:
        max_retries: how often a text that fails is sent again before it is tried apart from its neighbours.
        retry_delay: seconds before the first of these at least; doubled with each round of failures.
    """

    def __init__(self, *, max_retries: int, retry_delay: float) -> None:
        self.failed = 0
        """Texts that were given up."""
        self._max_retries = max_retries
        self._retry_delay = retry_delay
        self._fails: dict[str, int] = {}  # text -> failures that may be its own fault
        self._in_a_row = 0
        self._rounds = 0  # the same, calls that were under way together counted once
        self._round_at = -math.inf
        self._since = 0.0  # when the first of the failures in a row began
        self._ever = False

    def answered(self, texts: Sequence[str]) -> None:
        """A call brought results."""
        self._ever = True
        self._in_a_row = self._rounds = 0
        for text in texts if self._fails else ():
            self._fails.pop(text, None)

    def judge(
        self, texts: Sequence[str], error: BaseException, *, sent_at: float, now: float
    ) -> ProviderError:
        """What a failed call means for the lanes.

        Args:
            texts: of the call.
            error: what was raised.
            sent_at: when the call began.
            now: when it failed.
        """
        kind = kind_of(error, items=len(texts))
        words = clean(
            f"{type(error).__name__}: {error}" if not isinstance(error, ProviderError) else str(error)
        )
        self._note(sent_at, now)
        if kind.waits:
            verdict = self._again(texts, kind, words, asked_delay_s(error), now)
        else:
            verdict = ProviderError(words, kind=kind)
        if len(texts) == 1 and verdict.kind.splits:
            self.failed += 1
            self._fails.pop(texts[0], None)
        verdict.__cause__ = error
        return verdict

    def _again(
        self, texts: Sequence[str], kind: ErrorKind, words: str, asked_s: float | None, now: float
    ) -> ProviderError:
        wait_s = min(max(_MOST_S, self._retry_delay), self._retry_delay * 2.0 ** min(self._rounds - 1, 30))
        delay_s = max(wait_s, asked_s or 0.0)
        if kind is ErrorKind.RATE_MINUTE:
            long = now - self._since >= _PATIENCE * self._retry_delay
            if self._rounds > self._max_retries and long:
                return self._broken(words)
            return ProviderError(words, kind=kind, retry_after_s=delay_s)
        fails = max(self._fails.get(text, 0) for text in texts) + 1
        self._fails.update(dict.fromkeys(texts, fails))
        if fails <= self._max_retries:
            return ProviderError(words, kind=ErrorKind.OVERLOADED, retry_after_s=delay_s)
        if self._in_a_row >= _BROKEN or (kind in _UNREACHED and not self._ever):
            return self._broken(words)
        return ProviderError(words, kind=ErrorKind.BAD_INPUT)

    def _broken(self, words: str) -> ProviderError:
        """Nothing can succeed any more: of the kinds, the one that ends a run at once and blames no key."""
        return ProviderError(
            f"the service failed {self._in_a_row} times in a row, last with: {words}",
            kind=ErrorKind.NOT_FOUND,
            hint="Mend the service, and process the chunks again that have failed.",
        )

    def _note(self, sent_at: float, now: float) -> None:
        if not self._in_a_row:
            self._since = sent_at
        self._in_a_row += 1
        if sent_at >= self._round_at:
            self._rounds += 1
            self._round_at = now


def kind_of(error: BaseException, *, items: int) -> ErrorKind:
    """What kind of failure an exception is: by its own kind, an HTTP status, its class, its words."""
    if isinstance(error, ProviderError):
        return error.kind
    words = f"{type(error).__name__} {error}"
    if (sized := size_kind(words, items=items)) is not None:
        return sized
    if (status := _status(error)) is not None:
        return status_kind(status, items=items)
    if _RATE.search(words):
        return ErrorKind.RATE_MINUTE
    return table_kind(type(error)) or ErrorKind.OVERLOADED


def asked_delay_s(error: BaseException) -> float | None:
    """Seconds that the service asked to wait: an attribute, or a header of the response that the error carries."""
    if isinstance(error, ProviderError):
        return error.retry_after_s
    found = [_seconds(getattr(error, name, None)) for name in _DELAYS]
    for holder in (error, getattr(error, "response", None)):
        headers = getattr(holder, "headers", None)
        try:
            lower = {str(name).lower(): str(value) for name, value in dict(headers or {}).items()}
        except (TypeError, ValueError):
            continue
        found.append(retry_after_s(lower))
    return max((one for one in found if one is not None), default=None)


def _seconds(value: object) -> float | None:
    try:
        seconds = float(value)  # type: ignore[arg-type]  # anything may be there: what is no number raises
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    for holder in (error, response):
        for name in _STATUSES:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
                return value
    return None
