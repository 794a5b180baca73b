"""The jobs of a run: written down, submitted, polled, collected, cancelled, and found again after a crash.

The driver's other half. A job is known by the strategy's number for it and by the ledger's; jobs of an interrupted run
have negative numbers for the strategy. Everything here happens in the driver's thread, except what `requests` holds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from embatch.decisions.packing_calls import take
from embatch.engine.lanes import requests
from embatch.engine.lanes.abandoned import Abandoned
from embatch.engine.lanes.failures import ATTEMPTS, item_error
from embatch.errors import ProviderError
from embatch.events import JobAccepted, JobAttached, JobEnded, JobRefused, JobSeen, Started
from embatch.remote import ErrorKind, Generated, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embatch.engine.lanes.requests import PollReport, SubmitReport
    from embatch.engine.lanes.run import LaneRun, Result
    from embatch.engine.lanes.spool import JobSpool
    from embatch.errors import ItemError
    from embatch.events import Event, SubmitJob
    from embatch.remote import JobRef, LedgerJob, Unit

_log = logging.getLogger(__name__)

_PAGE = 1000  # rows taken from a job's results at once
_NOT_FOUND = 3  # polls in a row that do not find a job, until it is believed to be gone
_NO_KEY = 3  # polls in a row for which the key is refused, until the run ends: the job is left as it is
_IN_VAIN = 8  # downloads in a row that make no sense, or polls of an expired job, until it is given up
_EXPIRY_SLACK = 1.1  # of the provider's own expiry, after which a job that says nothing of it is given up
_ROW_BYTES = 400  # of a line in a job's file, beside the text
_GRACE_S = 60.0  # after an intent, within which a create under way may still become a job


@dataclass(slots=True)
class _Running:
    job: LedgerJob
    accepted: float
    """By the clock of this process."""
    polling: bool = False
    cancelled: bool = False
    failed: int = 0
    """Polls in a row that failed for the same reason."""
    kind: ErrorKind | None = None
    """That reason."""


class Jobs:
    """The jobs of one run."""

    def __init__(self, run: LaneRun) -> None:
        self._run = run
        self._running: dict[int, _Running] = {}  # the strategy's number -> job
        self._submitting: dict[int, LedgerJob] = {}
        self._abandoned = Abandoned(run)
        self._cap: int | None = None  # items of a job, learned from refusals

    # --- after a crash ----------------------------------------------------------------------------------------

    def attach(self, tell: Callable[[Event], None]) -> None:
        """Take up the jobs that an interrupted run left; what it only meant to submit is looked for."""
        parts = self._run.parts
        for job in parts.ledger.jobs(done=False):
            ref = job.ref or self._orphan(job)
            if ref is None:
                parts.ledger.drop_job(job.number, "never submitted")
                continue
            if job.ref is None:
                parts.ledger.accept_job(job.number, ref, parts.clock.wall())
            job = job._replace(ref=ref)  # noqa: PLW2901  # the same job, now with its name
            age_s = max(0.0, parts.clock.wall() - (job.accepted or job.intended))
            self._running[-job.number] = _Running(job, parts.clock.now() - age_s)
            parts.report.jobs_attached += 1
            _log.info("found job %s again, %.0f s old, with %d items", ref.id, age_s, job.items)
            tell(
                JobAttached(
                    now=parts.clock.now(),
                    id=-job.number,
                    items=job.items,
                    tokens=parts.ratio.correct(job.tokens),
                    age_s=age_s,
                )
            )

    def _orphan(self, job: LedgerJob) -> JobRef | None:
        parts = self._run.parts
        age_s = parts.clock.wall() - job.intended
        waits = (0.0, 2.0) if age_s > _GRACE_S else (0.0, 2.0, 5.0, 10.0, 20.0, 23.0)
        patient = self._patience()
        return requests.find(parts.provider, job.tag, clock=parts.clock, waits=waits, patience=patient)

    def _patience(self) -> requests.Patience:
        """For how long a job is looked for while nobody answers: not for long if nobody ever has."""
        absence, now = self._run.absence, self._run.parts.clock.now
        waits = requests.PATIENCE_S if absence.answered_before else requests.FIRST_PATIENCE_S
        return requests.Patience(waits, lambda kind: absence.failed(now(), kind))

    # --- what the strategy asks for ---------------------------------------------------------------------------

    def submit(self, asked: SubmitJob) -> Started:
        """Write a job down and submit it."""
        parts = self._run.parts
        found = self._take(asked.items, asked.tokens)
        now = parts.clock.now()
        if not found:
            return Started(now=now, id=asked.id, lane="batch", items=0, tokens=0)
        tokens = sum(row[1] for row in found)
        job = parts.ledger.intend_job(found[-1][0], len(found), tokens, parts.clock.wall())
        self._submitting[asked.id] = job
        parts.report.jobs += 1
        items = ((unit.key, unit.text) for unit in parts.ledger.job_items(job.number))
        self._run.begin(
            partial(
                requests.submit,
                parts.provider,
                parts.work,
                asked.id,
                items,
                job.tag,
                clock=parts.clock,
                patience=self._patience(),
            )
        )
        return Started(
            now=now, id=asked.id, lane="batch", items=len(found), tokens=parts.ratio.correct(tokens)
        )

    def poll(self, id_: int) -> None:
        """Ask how a job stands, unless that is being asked already."""
        running = self._running.get(id_)
        if running is None or running.polling or running.job.ref is None:
            return
        running.polling = True
        self._run.begin(partial(requests.poll, self._run.parts.provider, id_, running.job.ref))

    def cancel(self, id_: int) -> None:
        """Ask for a job's end."""
        running = self._running.get(id_)
        if running is None or running.cancelled or running.job.ref is None:
            return
        running.cancelled = running.polling = True
        self._run.parts.report.jobs_cancelled += 1
        parts = self._run.parts
        self._run.begin(partial(requests.cancel, parts.provider, id_, running.job.ref, clock=parts.clock))

    def _take(self, items: int, tokens: int) -> list[tuple[int, int, int]]:
        parts = self._run.parts
        limits = parts.provider.facts.job
        caps = (items, limits.items if limits else None, self._cap)
        most = min(cap for cap in caps if cap is not None)
        found = parts.ledger.peek(max(1, most))
        if not found:
            return []
        count = take(
            [parts.ratio.correct(row[1]) for row in found],
            [row[2] + _ROW_BYTES for row in found],
            items=most,
            tokens=tokens,
            bytes=limits.bytes if limits else None,
        )
        return found[:count]

    # --- what comes back --------------------------------------------------------------------------------------

    def take_post(self, post: SubmitReport | PollReport) -> Iterator[Event]:
        """The events that a report amounts to."""
        if isinstance(post, requests.SubmitReport):
            event = self._submitted(post)
            if event is not None:
                yield event
            return
        running = self._running.get(post.id)
        if running is None:
            if post.spool is not None:
                post.spool.close()
            return
        if not (running.cancelled and post.spool is None and not post.given_up):
            running.polling = False
        event = self._polled(post, running)
        if event is not None:
            yield event

    def _submitted(self, post: SubmitReport) -> Event | None:
        parts, now = self._run.parts, self._run.parts.clock.now()
        job = self._submitting.get(post.id)
        event: Event | None = None
        if job is None:  # an interrupt came just after it was taken
            return None
        if post.ref is not None:
            self._run.absence.answered()
            parts.ledger.accept_job(job.number, post.ref, parts.clock.wall())
            self._running[post.id] = _Running(job._replace(ref=post.ref), now)
            event = JobAccepted(now=now, id=post.id)
        elif post.error is not None and post.lost:  # the intent stays: the next run looks for it
            self._run.give_up(post.error)
        elif post.error is not None:
            event = self._refused(post, job, post.error)
        del self._submitting[post.id]
        return event

    def _refused(self, post: SubmitReport, job: LedgerJob, error: ProviderError) -> Event:
        parts = self._run.parts
        in_doubt = error.kind.may_have_happened and not post.never_left
        if in_doubt:
            self._run.seen(error)
            self._run.absence.answered()  # when it was asked whether there is such a job
        else:
            self._run.unanswered(error)
        if error.kind in {ErrorKind.TOO_MANY_ITEMS, ErrorKind.TOO_MANY_TOKENS}:
            self._cap = max(1, job.items // 2)
        if in_doubt:
            self._abandoned.add(job)  # looked for once more at the end
        parts.ledger.drop_job(job.number, f"refused: {error.kind}")
        return JobRefused(
            now=parts.clock.now(),
            id=post.id,
            kind=error.kind,
            retry_after_s=error.retry_after_s,
            never_left=post.never_left,
        )

    def _polled(self, post: PollReport, running: _Running) -> Event | None:
        now = self._run.parts.clock.now()
        if post.error is None:
            self._run.absence.answered()
        if post.spool is not None:
            assert post.view is not None
            kind = post.view.error.kind if post.view.error is not None else None
            if post.view.error is not None:
                self._run.seen(post.view.error)
            return self._ended(post, running, post.view.state, kind)
        if post.given_up:
            return self._ended(post, running, JobState.CANCELLED, None)
        if post.error is not None:
            return self._poll_failed(post, running, post.error)
        assert post.view is not None
        running.failed, running.kind = 0, None
        if self._overdue(running, now):
            return self._ended(post, running, JobState.EXPIRED, None)
        return JobSeen(now=now, id=post.id, state=post.view.state, completed=post.view.completed)

    def _overdue(self, running: _Running, now: float) -> bool:
        limits = self._run.parts.provider.facts.job
        return limits is not None and now - running.accepted > limits.expires_s * _EXPIRY_SLACK

    def _poll_failed(self, post: PollReport, running: _Running, error: ProviderError) -> Event | None:
        """It is asked again, unless that is in vain: the job is gone, the key refused, its results are rubbish."""
        self._run.unanswered(error)
        now = self._run.parts.clock.now()
        running.failed = running.failed + 1 if error.kind is running.kind else 1
        running.kind = error.kind
        if error.kind is ErrorKind.NOT_FOUND and running.failed >= _NOT_FOUND:
            return self._ended(post, running, JobState.FAILED, None)  # says nothing about other jobs
        if error.kind is ErrorKind.AUTH and running.failed >= _NO_KEY:
            self._run.give_up(error)
            return None
        rubbish = post.view is not None and error.kind is ErrorKind.PROTOCOL
        if running.failed >= _IN_VAIN and (rubbish or self._overdue(running, now)):
            return self._ended(post, running, JobState.FAILED, error.kind)
        return JobSeen(now=now, id=post.id, state=JobState.UNKNOWN)

    def _ended(
        self, post: PollReport, running: _Running, state: JobState, kind: ErrorKind | None
    ) -> JobEnded:
        """Take a job's results in; whatever has none waits again."""
        run, parts, job = self._run, self._run.parts, running.job
        done, failed, again, used, output = 0, 0, 0, 0, 0
        if post.spool is not None:
            done, used, output = self._collect(job, post.spool)
            failed, again = self._give_up(job, post.spool)
            post.spool.close()
        else:
            self._abandoned.add(job)
        cost = run.price("batch", used, output)
        if done or used:
            counted = post.spool is not None and post.spool.counted
            self._bill(job, done, used, cost, estimated=not counted)
        del self._running[post.id]
        back = again + parts.ledger.drop_job(job.number, "collected" if done else str(state))
        parts.report.retried += back if done else 0
        if job.ref is not None and not post.given_up:
            ref = job.ref
            run.begin_quietly(lambda: parts.provider.clean_up(ref))
        return JobEnded(
            now=parts.clock.now(),
            id=post.id,
            state=state,
            seconds=parts.clock.now() - running.accepted,
            done=done,
            failed=failed,
            back=back,
            back_tokens=parts.ratio.correct(round(job.tokens * back / max(1, job.items))),
            used_tokens=used,
            cost=cost,
            kind=kind,
            cost_unknown=post.spool is None,
        )

    def _collect(self, job: LedgerJob, spool: JobSpool) -> tuple[int, int, int]:
        """Store the good rows; how many, their tokens, and those generated."""
        run, parts = self._run, self._run.parts
        done, expected, output = 0, 0, 0
        keys = [key for key in spool.good if _is_digest(key)]
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            units = parts.ledger.job_units(job.number, [bytes.fromhex(key) for key in page])
            known = [key for key in page if bytes.fromhex(key) in units]
            good: list[tuple[Unit, Result]] = []
            for key, raw in zip(known, spool.values(known), strict=True):
                result = run.usable(raw)
                if isinstance(result, ProviderError):
                    run.seen(result)
                    continue
                good.append((units[bytes.fromhex(key)], result))
                output += (result.output_tokens or 0) if isinstance(result, Generated) else 0
            run.keep([unit for unit, _ in good], [result for _, result in good])
            done += len(good)
            expected += sum(unit.tokens for unit, _ in good)
        used = spool.tokens if spool.counted else parts.ratio.correct(expected)
        if spool.counted and expected:
            parts.ratio.observe(expected, spool.tokens)
        return done, used, output

    def _give_up(self, job: LedgerJob, spool: JobSpool) -> tuple[int, int]:
        """Rows that were refused for what they are fail, others may be sent again; how many of each."""
        bad = {bytes.fromhex(key): error for key, error in spool.bad.items() if _is_digest(key)}
        units = self._run.parts.ledger.job_units(job.number, list(bad))
        failures: list[tuple[Unit, ItemError]] = []
        again: list[Unit] = []
        cut = 0
        for digest, unit in units.items():
            error = bad[digest]
            self._run.seen(error)
            if self._run.shortened(unit, error):
                cut += 1
            elif error.kind.splits or unit.attempts + 1 >= ATTEMPTS:
                failures.append((unit, item_error(error)))
            else:
                again.append(unit)
        self._run.parts.ledger.back([unit.id for unit in again], blame=True)
        self._run.fail(failures)
        return len(failures), len(again) + cut

    def _bill(self, job: LedgerJob, items: int, tokens: int, dollars: float, *, estimated: bool) -> None:
        report = self._run.parts.report
        report.job_items += items
        report.job_tokens += tokens
        report.job_dollars += dollars
        report.estimated_tokens += tokens if estimated else 0
        self._run.parts.ledger.bill(
            "batch", items=items, tokens=tokens, dollars=dollars, estimated=estimated, job=job.number
        )

    # --- ending -----------------------------------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """Jobs that the provider has and that have not ended."""
        return len(self._running)

    @property
    def submitting(self) -> bool:
        """Whether a job is on its way to the provider."""
        return bool(self._submitting)

    @property
    def items(self) -> int:
        """In jobs that have not ended, those being submitted included."""
        running = sum(running.job.items for running in self._running.values())
        return running + sum(job.items for job in self._submitting.values())

    def settle(self) -> None:
        """Look once more at jobs that were given up."""
        self._abandoned.settle()


def _is_digest(key: str) -> bool:
    """Whether a key can be one of ours."""
    return len(key) == 32 and not set(key) - set("0123456789abcdef")
