"""What a remote run must remember to lose nothing and to pay nothing twice, as a protocol.

The ledger knows *units*: distinct texts by content. A unit waits, is in a call, is in a job, is done or has failed;
every change is one transaction. Jobs are written down before they are submitted (the intent, with the tag that finds an
orphan) and again when the provider has given them a name. Results lie in a store of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embatch.errors import ItemError
    from embatch.remote import JobRef, Lane, LedgerJob, Unit, Waiting


class LaneLedger(Protocol):
    """See the module. Used by one thread at a time, except `job_items`, which may be read by another."""

    run_id: str
    """8 hex digits, in every tag."""

    def add(self, units: Iterable[tuple[bytes, str, int]]) -> int:
        """Add waiting units: (digest, text, tokens). Known digests stay as they are; how many were new."""
        ...

    def waiting(self) -> Waiting:
        """What waits, groups included."""
        ...

    def peek(self, items: int) -> list[tuple[int, int, int]]:
        """(id, tokens, size) of the first units that wait, at most `items`."""
        ...

    def take_call(self, ids: Sequence[int]) -> list[Unit]:
        """Mark waiting units as being in a call."""
        ...

    def back(self, ids: Sequence[int], *, blame: bool) -> None:
        """Units wait again; with `blame`, one more attempt of theirs was fruitless."""
        ...

    def shorten(self, unit: int, text: str, tokens: int) -> None:
        """A unit waits again, with less text: all of it was refused as too long."""
        ...

    def done(self, ids: Sequence[int]) -> None:
        """Units have their results, and these are in the store."""
        ...

    def fail(self, failures: Sequence[tuple[int, ItemError]]) -> None:
        """Units have failed for good."""
        ...

    def errors(self, digests: Sequence[bytes]) -> dict[bytes, ItemError]:
        """Why some texts failed, among those asked for."""
        ...

    def intend_job(self, last_id: int, items: int, tokens: int, now: float) -> LedgerJob:
        """Write down that all units that wait, up to `last_id`, are about to be submitted as one job."""
        ...

    def accept_job(self, number: int, ref: JobRef, now: float) -> None:
        """The provider has the job under this name."""
        ...

    def drop_job(self, number: int, state: str) -> int:
        """The job will give nothing more: its units that have no result wait again. How many, groups included."""
        ...

    def jobs(self, *, done: bool | None = None) -> list[LedgerJob]:
        """The run's jobs, oldest first."""
        ...

    def job_items(self, number: int) -> Iterator[Unit]:
        """The units of a job that have no result yet, a page at a time."""
        ...

    def job_units(self, number: int, digests: Sequence[bytes]) -> dict[bytes, Unit]:
        """Those units among the digests that belong to a job and have no result yet, or wait again after it."""
        ...

    def pend(self, lane: Lane, *, items: int, tokens: int, dollars: float) -> int:
        """Write down that a request is about to leave that may cost so much at most; its number, 0 for none.

        Jobs are written down by their intent, and need this only once they are given up without a bill.
        """
        ...

    def settle(self, pending: int) -> None:
        """A request that was written down so has cost nothing."""
        ...

    def bill(
        self,
        lane: Lane,
        *,
        items: int,
        tokens: int,
        dollars: float,
        estimated: bool,
        job: int | None = None,
        pending: int = 0,
    ) -> None:
        """Add to what was paid for, in place of what was pending for it.

        A job is billed once, also if its results are taken in again after a kill.
        """
        ...

    def spent(self) -> float:
        """Dollars so far, those of the runs that this one goes on with included.

        What is pending counts at the most that it may cost: nobody knows what became of the calls of a killed process.
        """
        ...
