"""How long calls and jobs take: learned per provider and model, from a stated prior, and kept as plain numbers.

`Beliefs` holds call latency (a fixed part, and one that grows with items and tokens) and job turnaround (a queue whose
wait depends on a *regime* that all jobs share, then rows at some rate). It answers with distributions; what they are
worth is decided by the strategy. It reads no clock: times are arguments.

The prior, from measured and reported latencies of Gemini's and OpenAI's interfaces in 2026:

- a call takes 0.45 s (lognormal, sigma 0.45), and 8 ms an item and 1.5 ms a thousand tokens more; one in 200 stalls
  for 5 to 30 s;
- a job waits in a queue: 65 % of the time the provider is *good* (45 s, sigma 0.6), 25 % *busy* (10 min, sigma 1.1),
  10 % *stuck* (until that is over, 5 h in the mean, or the job expires); a regime lasts hours;
- then it runs at 30 rows a second (15 to 60), and takes some 6 s to be finished and handed over;
- a cancelled job ends within 5 s at Gemini, 45 s elsewhere (OpenAI allows itself 10 minutes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embatch.decisions.lanes.regimes import REGIMES, Queue, Regimes
from embatch.decisions.lanes.scale import Scale, highest_of, scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.decisions.lanes.regimes import Ends, Pending

_STALL_S = 15.0
_STALL_FACTOR = 5.0  # an answer so many times later than expected, and later than 4 s, has stalled
_STALL_LEAST_S = 4.0
_STALL_MEMORY = 200.0  # calls
_CLIP = 1.1  # of a logarithm: one odd answer moves the belief no further than one that is three times off
_SPREAD_MEMORY = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of a provider before anything was seen. Times in seconds."""

    call_s: float = 0.45
    item_s: float = 0.008
    ktoken_s: float = 0.0015
    call_spread: float = 0.45
    stall: float = 0.005
    """Share of calls that stall."""
    good_s: float = 45.0
    busy_s: float = 600.0
    stuck_s: float = 18_000.0
    shares: tuple[float, float, float] = (0.65, 0.25, 0.10)
    """How much of the time a provider is good, busy and stuck."""
    rows_per_s: float = 30.0
    finish_s: float = 6.0
    cancel_s: float = 45.0
    memory_s: float = 21_600.0
    """Time after which a regime that was seen says little."""


_PRIORS = {"gemini": Prior(cancel_s=5.0), "openai": Prior(), "compatible": Prior()}


class Beliefs:
    """What is believed of one provider's model, and learned.

    Args:
        prior: what to begin with.
    """

    def __init__(self, prior: Prior | None = None) -> None:
        first = prior or Prior()
        self.prior = first
        self._fixed = scale(first.call_s, first.call_spread, 0.9)
        self._load = scale(1.0, first.call_spread, 0.9)  # a factor on what items and tokens take
        self._stall = first.stall
        self.rows = scale(first.rows_per_s, 0.4, 0.8)
        self.cancel = scale(first.cancel_s, 0.6, 0.9)
        self.abreast = math.inf
        """Jobs of one run that the provider works on at once, as far as that was seen."""
        self._regimes = Regimes(
            waits=Queue(
                good=scale(first.good_s, 0.6, 0.9), busy=scale(first.busy_s, 1.1, 0.8), stuck_s=first.stuck_s
            ),
            shares=first.shares,
            memory_s=first.memory_s,
        )

    @classmethod
    def of(cls, provider: str) -> Beliefs:
        """The prior of a provider, by `ModelFacts.provider`."""
        return cls(_PRIORS.get(provider))

    # --- calls ------------------------------------------------------------------------------------------------

    @property
    def call_spread(self) -> float:
        """Standard deviation of the logarithm of a call's fixed part."""
        return self._fixed.spread

    @property
    def stalls(self) -> float:
        """Share of calls that stall, and for how long they do: expected seconds of one call."""
        return self._stall * _STALL_S

    def call_s(self, items: float, tokens: float) -> float:
        """Median seconds of one call."""
        return self._fixed.median + self._load_s(items, tokens)

    def calls_s(self, items: float, tokens: float, *, count: float, worst: float = 0.5) -> float:
        """Seconds until the last of `count` calls sent at once is answered: its `worst` quantile.

        Args:
            items: of each call.
            tokens: of each call.
            count: how many there are.
            worst: 0.5 for what is to be expected, more to be on the safe side.
        """
        if count <= 0:
            return 0.0
        top = count / -math.log2(worst) if worst > 0.5 else count  # P(all below z) = worst
        fixed = self._fixed.median * math.exp(self._fixed.spread * highest_of(top))
        stalled = 1 - math.pow(1 - min(0.5, self._stall), count)
        stall = stalled * _STALL_S if worst <= 0.5 else (2 * _STALL_S if stalled > 1 - worst else 0.0)
        return fixed + self._load_s(items, tokens) + stall

    def call_rate(self, items: float, tokens: float) -> float:
        """Calls a second that one connection answers, in the mean."""
        mean = self._fixed.mean + self._load_s(items, tokens) + self._stall * _STALL_S
        return 1.0 / max(1e-6, mean)

    def observe_call(self, items: int, tokens: int, seconds: float) -> None:
        """Take the duration of a call that was answered."""
        if seconds <= 0 or items <= 0:
            return
        expected = self.call_s(items, tokens)
        stalled = seconds > _STALL_FACTOR * expected and seconds > _STALL_LEAST_S
        self._stall += (stalled - self._stall) / _STALL_MEMORY
        off = max(-_CLIP, min(_CLIP, math.log(seconds / expected)))
        part = self._fixed.median / expected
        spread = self._fixed.spread
        doubt = self._fixed.doubt * part**2 + self._load.doubt * (1 - part) ** 2 + spread**2
        for one, weight in ((self._fixed, part), (self._load, 1 - part)):
            gain = one.doubt * weight / doubt
            one.log_median += gain * off
            one.doubt = max(one.doubt * (1 - gain * weight), spread**2 / 100)
        if not stalled:
            self._fixed.spread = math.sqrt(
                max(0.01, spread**2 + (min(off**2 / max(part, 0.3) ** 2, 1.0) - spread**2) / _SPREAD_MEMORY)
            )

    def _load_s(self, items: float, tokens: float) -> float:
        return self._load.median * (items * self.prior.item_s + tokens / 1000 * self.prior.ktoken_s)

    # --- jobs -------------------------------------------------------------------------------------------------

    def run_s(self, items: float, probability: float = 0.5) -> float:
        """Seconds that the rows of one job take, and its end, without the queue."""
        return items / self.rows.quantile(1 - probability) + self.prior.finish_s

    def ends(self, now: float, jobs: Sequence[Pending] = ()) -> Ends:
        """When jobs under way, and others that would be submitted now, will have ended.

        Args:
            now: seconds, on the clock of `observe_job`.
            jobs: those under way; how long they have waited says which regime it is.
        """
        return self._regimes.ends(now, self.rows, self.prior.finish_s, jobs)

    def regime(self, now: float, jobs: Sequence[Pending] = ()) -> dict[str, float]:
        """How probable each regime is now."""
        return dict(zip(REGIMES, self._regimes.now(now, jobs), strict=True))

    def observe_job(self, now: float, items: int, seconds: float, *, queued_s: float | None = None) -> None:
        """Take the turnaround of a job that ended by itself, with results.

        Args:
            now: when it ended.
            items: its rows.
            seconds: from its acceptance to its end.
            queued_s: how long it was seen waiting before its first row; None if that was not seen.
        """
        if seconds <= 0 or items <= 0:
            return
        run_s = seconds - (queued_s or 0.0) - self.prior.finish_s
        if queued_s is not None and run_s > 0 and items >= 100:
            self.rows.learn(items / run_s)
        expected = items / self.rows.median + self.prior.finish_s
        wait_s = max(1.0, seconds - expected) if queued_s is None else max(1.0, queued_s)
        if queued_s is None and items / self.rows.median > 0.5 * seconds:
            self.rows.learn(items / max(1.0, seconds - min(seconds / 2, self._regimes.waits.good.median)))
        self._regimes.learn(now, wait_s, seconds)

    def remember(self, now: float, jobs: Sequence[Pending]) -> None:
        """Jobs that are about to be cancelled have waited in vain: what that says about the regime is kept."""
        self._regimes.remember(now, jobs)

    def observe_cancel(self, seconds: float) -> None:
        """Take how long a cancelled job took to end."""
        self.cancel.learn(max(0.1, seconds))

    # --- kept between runs ------------------------------------------------------------------------------------

    def to_dict(self, now: float | None = None) -> dict[str, Any]:
        """Plain numbers, for a store. `now`: seconds on the run's clock, so that regimes can fade from then on."""
        regimes = self._regimes
        return {
            **{name: _numbers(one) for name, one in self._scales().items()},
            "stall": self._stall,
            "abreast": None if self.abreast == math.inf else self.abreast,
            "counts": list(regimes.counts),
            "shares": list(regimes.latest) if now is None else regimes.now(now),
        }

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        provider: str = "compatible",
        now: float = 0.0,
        away_s: float = 86_400.0,
    ) -> Beliefs:
        """What `to_dict` gave, as the belief of a new run; anything that makes no sense is left at its prior.

        Args:
            data: from the store.
            provider: whose prior stands in.
            now: seconds on the new run's clock.
            away_s: time since `to_dict`; a regime seen long ago says little.
        """
        made = cls.of(provider)
        made._restore(data, now - max(0.0, away_s))  # noqa: SLF001  # its own, in another way to construct it
        return made

    def _restore(self, data: Mapping[str, Any], at: float) -> None:
        for name, one in self._scales().items():
            _restore(one, data.get(name))
        stall = data.get("stall")
        if isinstance(stall, (int, float)) and 0 <= stall <= 0.5:
            self._stall = float(stall)
        abreast = data.get("abreast")
        if isinstance(abreast, (int, float)) and 1 <= abreast < 10_000:
            self.abreast = float(abreast)
        self._regimes.restore(data.get("counts"), data.get("shares"), at)

    def _scales(self) -> dict[str, Scale]:
        waits = self._regimes.waits
        return {
            "fixed": self._fixed,
            "load": self._load,
            "rows": self.rows,
            "cancel": self.cancel,
            "good": waits.good,
            "busy": waits.busy,
        }


def _numbers(one: Scale) -> list[float]:
    return [one.log_median, one.spread, one.doubt]


def _restore(one: Scale, data: Any) -> None:
    if not isinstance(data, (list, tuple)) or len(data) != 3 or not all(map(_is_number, data)):
        return
    log_median, spread, doubt = map(float, data)
    if abs(log_median) < 40 and 0.01 <= spread <= 5 and 0 < doubt <= 25:
        one.log_median, one.spread, one.doubt = log_median, spread, doubt


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
