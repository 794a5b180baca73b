"""How many waiting items go into one call or job, and what refusals teach about that.

Pure: sizes in, counts out. `take` packs, `TokenRatio` corrects estimated tokens by those that the provider counted,
`LearnedCaps` remembers what was refused as too large, `split` halves a call that was refused for something in it. Which
items wait, and in which order, is the engine's business; when a call may go is `pacing`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embatch.errors import UsageError
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.remote import CallLimits

_LOW, _HIGH = 0.25, 4.0  # of used to estimated tokens: beyond that, one of the two counts something else
_FOLLOW = 0.1  # weight of a new ratio, once there are many
_EARLY = 8  # the first ratios may move the estimate far
_FAR, _NEAR = (
    math.log(4.0),
    math.log(1.5),
)  # how far off a ratio counts, at first and later: the rest is cut off


def take(
    lengths: Sequence[int],
    sizes_bytes: Sequence[int],
    *,
    items: int | None,
    tokens: int | None,
    bytes: int | None,  # noqa: A002  # the word of CallLimits
) -> int:
    """How many of the first waiting items fit into one call or job.

    Args:
        lengths: tokens of each waiting item, in the order in which they are taken.
        sizes_bytes: bytes that each adds to the body.
        items: most items, None for no limit.
        tokens: most tokens together, None for no limit.
        bytes: most bytes together, None for no limit.

    Returns:
        The count; 0 only if nothing waits. An item over a limit by itself is taken alone: the provider's answer
        decides about it, not an estimate.

    Raises:
        UsageError: the two sequences differ in length.
    """
    if len(lengths) != len(sizes_bytes):
        raise UsageError(f"{len(lengths)} token counts do not go with {len(sizes_bytes)} sizes")
    tokens_left = math.inf if tokens is None else tokens
    bytes_left = math.inf if bytes is None else bytes
    most = len(lengths) if items is None else min(len(lengths), max(1, items))
    for count in range(most):
        tokens_left -= lengths[count]
        bytes_left -= sizes_bytes[count]
        if tokens_left < 0 or bytes_left < 0:
            return max(1, count)
    return most


class TokenRatio:
    """Tokens that a provider counts for each one estimated: follows what it sees, and no single odd answer.

    Args:
        ratio: to begin with.
        seen: on how many answers that rests.
    """

    def __init__(self, ratio: float = 1.0, seen: int = 0) -> None:
        if not math.isfinite(ratio) or ratio <= 0 or seen < 0:
            raise UsageError(f"a ratio is positive and rests on 0 answers or more, not {ratio!r} on {seen!r}")
        self._ratio = min(_HIGH, max(_LOW, ratio))
        self._seen = seen

    @property
    def ratio(self) -> float:
        """Used to estimated tokens, 0.25 to 4."""
        return self._ratio

    @property
    def seen(self) -> int:
        """Answers that it rests on. With `ratio`, all that a later run needs to go on."""
        return self._seen

    def correct(self, estimate: int) -> int:
        """The tokens to reckon with, given those estimated from the text."""
        return 0 if estimate <= 0 else math.ceil(estimate * self._ratio)

    def observe(self, estimated: int, used: int) -> None:
        """A call was estimated, before any correction, at `estimated` tokens, and the provider counted `used`."""
        if estimated <= 0 or used <= 0:
            return
        cut = _FAR if self._seen < _EARLY else _NEAR
        off = min(cut, max(-cut, math.log(used / estimated / self._ratio)))
        moved = self._ratio * math.exp(off * max(_FOLLOW, 1 / (self._seen + 2)))
        self._ratio = min(_HIGH, max(_LOW, moved))
        self._seen += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What one call was found to hold at most: plain numbers, to begin the next run with. None: nothing found."""

    items: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    day: str = ""
    """ISO 8601 date on which the last of them was learned."""


class LearnedCaps:
    """Limits of a call that refusals have taught. They only get tighter: what was refused is never sent again.

    Args:
        caps: what an earlier run learned.
        day: today, as an ISO 8601 date, to go with what is learned in this run.
    """

    def __init__(self, caps: Caps | None = None, *, day: str = "") -> None:
        self._caps = caps or Caps()
        self._day = day

    @property
    def caps(self) -> Caps:
        """What was learned up to now."""
        return self._caps

    def refused(
        self,
        kind: ErrorKind,
        items: int,
        tokens: int,
        bytes: int,  # noqa: A002  # the word of CallLimits
    ) -> None:
        """A call of this size was refused: from now on at most half of it.

        A call of a single item teaches nothing about calls, and neither does a refusal for another reason than size.
        """
        if items <= 1:
            return
        now = self._caps
        if kind is ErrorKind.TOO_MANY_ITEMS:
            now = replace(now, items=_half(now.items, items))
        elif kind is ErrorKind.TOO_MANY_TOKENS:  # of bytes too: providers' words do not tell them apart
            now = replace(now, tokens=_half(now.tokens, tokens), bytes=_half(now.bytes, bytes))
        if now != self._caps:
            self._caps = replace(now, day=self._day)

    def limits(self, call: CallLimits) -> CallLimits:
        """The stated limits and the learned ones, whichever is tighter."""
        return replace(
            call,
            items=_tighter(call.items, self._caps.items),
            tokens=_tighter(call.tokens, self._caps.tokens),
            bytes=_tighter(call.bytes, self._caps.bytes),
        )


def split(n: int) -> tuple[range, range]:
    """The two halves of `n` items, neither of them empty.

    Halves of refused calls, sent in calls of their own, isolate k bad items among n in at most 1 + 2k⌈log₂ n⌉ calls.

    Raises:
        UsageError: there are fewer than two.
    """
    if n < 2:
        raise UsageError(f"{n} items cannot be split into two calls")
    return range(n // 2), range(n // 2, n)


def _half(cap: int | None, refused: int) -> int:
    half = max(1, refused // 2)
    return half if cap is None else min(cap, half)


def _tighter(a: int | None, b: int | None) -> int | None:
    known = [limit for limit in (a, b) if limit is not None]
    return min(known, default=None)
