"""The way in behind the wire: the clock, the script, the ledger. One class for callers in the process and over HTTP."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from embatch.emulator.options import REGIMES, Quotas, plain

if TYPE_CHECKING:
    from embatch.emulator.clock import Clock
    from embatch.emulator.core import Core
    from embatch.emulator.faults import Fault
    from embatch.emulator.jobs import Job
    from embatch.emulator.ledger import Billing
    from embatch.emulator.options import RegimeName
    from embatch.emulator.requests import Requests


class EmulatedJob(NamedTuple):
    """A job as the emulator knows it. Times are virtual seconds."""

    id: str
    """As the client knows it: `batches/…` at Gemini, `batch_…` at OpenAI."""
    tag: str
    """Display name; at OpenAI, the values of its metadata, one a line."""
    metadata: dict[str, str]
    model: str
    state: str
    """validating, waiting, running, finalizing, cancelling, succeeded, failed, cancelled or expired."""
    items: int
    """Texts."""
    tokens: int
    completed: int
    """Rows that were processed."""
    good: int
    """Rows with a result; 0 before it has ended."""
    bad: int
    created: float
    ended: float | None
    deleted: bool


class Control:
    """What a test, a demonstration or an administrator does to an emulator.

    Args:
        core: the provider.
        clock: its time.
    """

    def __init__(self, core: Core, clock: Clock) -> None:
        self._core = core
        self._clock = clock
        self._save_clock()

    def now(self) -> float:
        """Virtual seconds."""
        return self._clock.now()

    def advance(self, seconds: float) -> float:
        """Move the virtual clock on; jobs go on, and whoever waits that long is answered. Gives the new time."""
        now = self._clock.advance(seconds)
        self._save_clock()
        self._core.settle(now)
        return now

    def fault(self, fault: Fault) -> None:
        """Put a fault at the end of the script.

        Raises:
            ValueError: this provider never does that.
        """
        with self._core.lock:
            self._core.script.add(fault)

    def clear_faults(self) -> None:
        """Nothing of what was scripted goes wrong any more."""
        with self._core.lock:
            self._core.script.clear()

    def set_quotas(self, quotas: Quotas, *, at: float | None = None) -> None:
        """Other limits from now on, or from a time just past."""
        self._core.set_quotas(quotas, self.now() if at is None else at)

    def change_quotas(self, changes: dict[str, Any], *, at: float | None = None) -> None:
        """Some other limits, by name.

        Raises:
            ValueError: there is no such quota.
        """
        current = dataclasses.asdict(self._core.quotas)
        self.set_quotas(plain(Quotas, current | changes, "quotas"), at=at)

    def set_regime(self, regime: RegimeName | None, *, at: float | None = None) -> None:
        """From now on, or from a time just past, all jobs fare so; None: as the seed has it.

        Raises:
            ValueError: there is no such regime.
        """
        if regime is not None and regime not in REGIMES:
            raise ValueError(f"regime must be one of {', '.join(REGIMES)}, not {regime!r}")
        self._core.set_regime(regime, self.now() if at is None else at)

    def billing(self, *, entries: bool = True) -> Billing:
        """The ledger as it stands; without `entries`, totals only, which is quick at any length."""
        return self._core.billing(self.now(), entries=entries)

    def billed(self, text: str) -> int:
        """How often a text was billed."""
        return self._core.billed(text, self.now())

    def jobs(self, tag: str | None = None) -> list[EmulatedJob]:
        """All jobs ever made, oldest first; with `tag`, those in whose tag it occurs."""
        jobs = self._core.jobs(self.now())
        return [_seen(job) for job in jobs if tag is None or tag in job.tag]

    @property
    def requests(self) -> Requests:
        """What was asked so far."""
        with self._core.lock:
            return self._core.requests.copy()

    def _save_clock(self) -> None:
        import time

        state = {"real": time.time(), "virtual": self._clock.now(), "scale": self._clock.scale}
        with self._core.lock:
            self._core.store.set_meta("clock", state)


def _seen(job: Job) -> EmulatedJob:
    return EmulatedJob(
        id=f"batches/{job.id}" if job.provider == "gemini" else job.id,
        tag=job.tag,
        metadata=dict(job.metadata or {}),
        model=job.model,
        state=job.state,
        items=job.items,
        tokens=job.tokens,
        completed=job.completed,
        good=job.good,
        bad=job.bad,
        created=job.created,
        ended=job.ended_at,
        deleted=job.deleted,
    )
