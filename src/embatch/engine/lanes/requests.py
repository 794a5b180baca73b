"""What worker threads do with a provider, and what they report: no state, no database.

Each function takes all it needs and returns one report, whatever happens: every request gets an answer.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embatch.engine.lanes.spool import JobSpool
from embatch.errors import ProviderError
from embatch.remote import ErrorKind, JobState, JobView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from embatch.engine.lanes.clock import Clock
    from embatch.remote import CallAnswer, JobRef, Provider, Unit, Work

_DOWNLOADS = 3  # tries to get a job's results whole
_FIND_AGAIN_S = (0.0, 2.0, 5.0, 10.0, 20.0)  # waits before each look for a job that may have come to be
PATIENCE_S = (5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 120.0, 120.0)  # further ones, while nobody answers
FIRST_PATIENCE_S = (5.0, 10.0, 20.0)  # the same, when nobody ever has: the address may be wrong
_CANCEL_POLLS, _CANCEL_WAIT_S = 6, 2.5
_CAUSES = 16  # of an error, looked through: a chain may be a circle


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a job is looked for while nobody answers."""

    waits: Sequence[float] = PATIENCE_S
    """Seconds before each look that comes after the usual ones."""
    failed: Callable[[ErrorKind], None] = lambda _: None
    """Told of each look that was not answered, in the thread that looks."""


_PATIENT = Patience()


@dataclass(frozen=True, slots=True)
class CallReport:
    """A synchronous call is over."""

    id: int
    units: Sequence[Unit]
    tokens: int
    """What was expected."""
    seconds: float
    answer: CallAnswer | None
    error: ProviderError | None


@dataclass(frozen=True, slots=True)
class SubmitReport:
    """A job was submitted, or not."""

    id: int
    ref: JobRef | None
    error: ProviderError | None
    lost: bool = False
    """Whether it exists could not be found out: it must not be submitted again before it is."""
    never_left: bool = False
    """Whether nobody took the request: there is no such job, and there will not be."""


@dataclass(frozen=True, slots=True)
class PollReport:
    """How a job stands; with its results once it has ended."""

    id: int
    view: JobView | None
    error: ProviderError | None = None
    spool: JobSpool | None = None
    given_up: bool = False
    """It was cancelled, and its end was not waited for any longer."""


def as_provider_error(error: Exception) -> ProviderError:
    """Anything that a provider raised against its promise, as an error that does not end the run."""
    if isinstance(error, ProviderError):
        return error
    foreign = ProviderError(f"{type(error).__name__}: {error}", kind=ErrorKind.PROTOCOL)
    foreign.__cause__ = error
    return foreign


def never_left(error: BaseException) -> bool:
    """Whether nobody took a request: the connection was refused, or the host has no address. It costs nothing."""
    cause: BaseException | None = error
    for _ in range(_CAUSES):
        if cause is None:
            return False
        if isinstance(cause, ConnectionRefusedError | socket.gaierror):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def call(
    provider: Provider,
    work: Work,
    id_: int,
    units: Sequence[Unit],
    tokens: int,
    *,
    clock: Clock,
    timeout_s: float,
) -> CallReport:
    """One synchronous request."""
    started = clock.now()
    answer, error = None, None
    try:
        answer = provider.call([unit.text for unit in units], work, timeout_s=timeout_s)
        if len(answer.results) != len(units):
            error = ProviderError(
                f"the answer has {len(answer.results)} results for {len(units)} texts",
                kind=ErrorKind.PROTOCOL,
            )
    except Exception as raised:  # noqa: BLE001  # every waiter gets an answer
        error = as_provider_error(raised)
    return CallReport(id_, units, tokens, clock.now() - started, answer, error)


def submit(
    provider: Provider,
    work: Work,
    id_: int,
    items: Iterable[tuple[str, str]],
    tag: str,
    *,
    clock: Clock,
    patience: Patience = _PATIENT,
) -> SubmitReport:
    """Submit a job; when the reply is lost, look for it before anything else is done."""
    try:
        return SubmitReport(id_, provider.submit(items, work, tag=tag), None)
    except Exception as raised:  # noqa: BLE001  # every waiter gets an answer
        error = as_provider_error(raised)
    if not error.kind.may_have_happened:
        return SubmitReport(id_, None, error)
    if never_left(error):
        return SubmitReport(id_, None, error, never_left=True)
    try:
        return SubmitReport(id_, find(provider, tag, clock=clock, patience=patience), error)
    except ProviderError as unknown:
        return SubmitReport(id_, None, unknown, lost=True)


def find(
    provider: Provider,
    tag: str,
    *,
    clock: Clock,
    waits: Sequence[float] = _FIND_AGAIN_S,
    patience: Patience = _PATIENT,
) -> JobRef | None:
    """The job with this tag, looked for several times: lists may lag behind. None: the provider has none.

    Raises:
        ProviderError: the provider did not answer the last look, nor those after that: nothing is known.
    """
    looks = [*waits]
    left = [*patience.waits]
    while looks:
        time.sleep(clock.real(looks.pop(0)))
        try:
            ref = provider.find(tag)
        except Exception as raised:
            error = as_provider_error(raised)
            patience.failed(error.kind)
            if not (error.kind.waits or error.kind.stops):
                return None  # it keeps no list of jobs
            if error.kind.stops or not (looks or left):
                raise error from raised
            if not looks:
                looks.append(max(left.pop(0), error.retry_after_s or 0.0))
            continue
        if ref is not None:
            return ref
    return None


def poll(provider: Provider, id_: int, ref: JobRef) -> PollReport:
    """Ask how a job stands, and fetch its results if it has ended."""
    try:
        view = provider.poll(ref)
    except Exception as raised:  # noqa: BLE001  # every waiter gets an answer
        return PollReport(id_, None, as_provider_error(raised))
    if not view.state.terminal:
        return PollReport(id_, view)
    try:
        spool = fetch(provider, ref)
    except Exception as raised:  # noqa: BLE001  # every waiter gets an answer
        return PollReport(id_, view, as_provider_error(raised))
    return PollReport(id_, view, spool=spool)


def fetch(provider: Provider, ref: JobRef) -> JobSpool:
    """All results of a job that has ended; fetched again if they arrive broken."""
    for attempt in range(1, _DOWNLOADS + 1):
        spool = JobSpool()
        try:
            for row in provider.results(ref):
                spool.add(row)
        except Exception as error:
            spool.close()
            if attempt == _DOWNLOADS or not as_provider_error(error).kind.waits:
                raise
            continue
        if spool.broken and attempt < _DOWNLOADS:
            spool.close()
            continue
        break
    spool.finish()
    return spool


def cancel(provider: Provider, id_: int, ref: JobRef, *, clock: Clock) -> PollReport:
    """Ask for a job's end, and wait for it a little: what it has by then is used."""
    with contextlib.suppress(Exception):  # it is polled all the same, and given up in the end
        provider.cancel(ref)
    for _ in range(_CANCEL_POLLS):
        report = poll(provider, id_, ref)
        if report.spool is not None:
            return report
        time.sleep(clock.real(_CANCEL_WAIT_S))
    return PollReport(id_, JobView(state=JobState.CANCELLED), given_up=True)
