"""Several runs that answer one call together, and what their ends mean for it.

Requests of one call that cannot share a run are run side by side. What a run keeps on disk is given up only once all of
them have ended well: the same call, made again, then finds whatever was paid for.
"""

from __future__ import annotations

import queue
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from embatch.engine.lanes.workers import Workers
from embatch.errors import StillRunningError
from embatch.frontends.smart.metrics import logger
from embatch.frontends.smart.outlook import look_ahead
from embatch.frontends.smart.rules import decision_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embatch.errors import EmbatchError
    from embatch.frontends.remote import LaneSettings, RemoteModel
    from embatch.frontends.smart.metrics import BatchingMetrics
    from embatch.frontends.smart.outlook import Outlook
    from embatch.frontends.smart.rules import Asked, Rules
    from embatch.types import LaneReport

_SIDE_BY_SIDE = 16
_KEPT_S = 5.0  # what calls taught is kept no more often than this: it takes as long as a fortieth of a call


class Answered(Protocol):
    """What a run gives for each request."""

    @property
    def error(self) -> str | None:
        """Why there is no answer; None if there is one."""
        ...


R = TypeVar("R", bound=Answered)


class Run(Protocol[R]):
    """One run over some of a call's requests."""

    requests: int
    stopped_by: EmbatchError | None
    """What ended it before everything was sent; None if nothing did."""

    def go(self) -> list[R]:
        """Results, one a request. Called once."""
        ...

    def end(self, *, whole: bool) -> None:
        """Give up what lies on disk, or keep it for the next time."""
        ...


def run_groups(groups: Iterable[Sequence[int]], runs: Sequence[Run[R]]) -> list[R]:
    """Results of all runs, in the order of the requests.

    Args:
        groups: for each run, the positions of its requests.
        runs: one a group.

    Raises:
        StillRunningError: some wait for jobs as long as they may; all can go on.
        EmbatchError: what ended a run, if nothing at all was obtained by any.
    """
    found = run_together(runs)
    placed = {
        position: result
        for positions, of_group in zip(groups, found, strict=True)
        for position, result in zip(positions, of_group, strict=True)
    }
    stopped = next((run.stopped_by for run in runs if run.stopped_by is not None), None)
    if stopped is not None and all(result.error is not None for result in placed.values()):
        raise stopped
    return [placed[position] for position in range(len(placed))]


def run_together(runs: Sequence[Run[R]]) -> list[list[R]]:
    """Results of all runs.

    Raises:
        StillRunningError: some wait for jobs as long as they may; all can go on.
        EmbatchError: what ended a run in another way than by a provider's refusal.
    """
    outcomes = [runs[0].go()] if len(runs) == 1 else _side_by_side(runs)
    whole = False
    try:
        results = [_result(outcome) for outcome in outcomes]
        _raise_still_running([run.stopped_by for run in runs])
        whole = all(run.stopped_by is None for run in runs)
    finally:
        for run in runs:
            run.end(whole=whole)
    return results


def _side_by_side(runs: Sequence[Run[R]]) -> list[list[R] | BaseException]:
    """Each in a thread of its own, which does not keep an interrupted process alive."""
    posts: queue.SimpleQueue[tuple[int, list[R] | BaseException]] = queue.SimpleQueue()
    workers = Workers(_SIDE_BY_SIDE)

    def go(number: int) -> None:
        try:
            posts.put((number, runs[number].go()))
        except BaseException as error:  # noqa: BLE001  # raised by the caller, who waits for it
            posts.put((number, error))

    try:
        for number in range(len(runs)):
            workers.begin(partial(go, number))
        found = dict(posts.get() for _ in runs)
    finally:
        workers.close()
    return [found[number] for number in range(len(runs))]


def _result(outcome: list[R] | BaseException) -> list[R]:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _raise_still_running(errors: Sequence[EmbatchError | None]) -> None:
    waiting = [error for error in errors if isinstance(error, StillRunningError)]
    if len(waiting) == 1:
        raise waiting[0]
    if waiting:
        words = "; ".join(str(error) for error in waiting)
        raise StillRunningError(words, [job for error in waiting for job in error.jobs])


def decide(
    rules: Rules, asked: Asked, model: RemoteModel, items: int, tokens: int
) -> tuple[LaneSettings, Outlook]:
    """Lane settings for so many distinct texts; what was decided goes to the log."""
    lanes, why = rules.lanes(items, asked, has_jobs=model.facts.job is not None)
    by_cost = lanes.strategy == "auto" and lanes.threshold is None
    outlook = look_ahead(model, items, tokens, rules.goal, choosing=by_cost)
    if items:
        logger.info("Smart batching: %s", decision_words(outlook, lanes, why))
    return lanes, outlook


def count(
    metrics: BatchingMetrics, requests: int, report: LaneReport | None, outlook: Outlook, model: RemoteModel
) -> None:
    """Add a run to a client's metrics, and keep what it taught."""
    if report is None:
        return
    model.save(least_s=0.0 if report.job_items else _KEPT_S)
    by_calls = report.call_items > 0 and outlook.job_s is not None
    saved_s = (outlook.job_s or 0.0) - report.seconds if by_calls else 0.0
    metrics.add(requests, report, model.facts.prices, saved_s=saved_s)
