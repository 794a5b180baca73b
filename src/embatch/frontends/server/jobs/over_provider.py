"""One job over a provider's model: its texts go through the provider's own jobs, at the price of these.

It is a run like any other: a ledger and a journal in the job's own folder make it survive its process, and nothing is
submitted or paid for twice. Rows are written when all texts have come back or were given up; a restart before that
begins the outputs anew, from the journal. Everything here blocks, in a thread of the job's own.
"""

from __future__ import annotations

import json
import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from embatch.errors import EmbatchError, GoalError, NotSentError, ProviderError, UsageError
from embatch.frontends.remote_host import RemoteHost, open_run
from embatch.frontends.server.errors import ApiError, as_api_error
from embatch.frontends.server.jobs.asking import JobFailedError
from embatch.frontends.server.jobs.reading import InputLines
from embatch.frontends.server.jobs.rows import (
    Settled,
    Wish,
    as_row,
    complaint,
    result_line,
    undone_line,
    wish_of,
)
from embatch.remote import ErrorKind
from embatch.storage.files import os_errors
from embatch.storage.layered import Layered
from embatch.storage.runs import default_registry
from embatch.types import Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from embatch.engine.lanes.pipeline import LanePipeline
    from embatch.frontends.embedder import Embedder
    from embatch.frontends.server.jobs.rows import Row
    from embatch.frontends.server.settings import ServeSettings
    from embatch.storage.ledger import Ledger
    from embatch.storage.served_jobs import Ending, ServedJob
    from embatch.storage.served_output import JobOutput
    from embatch.storage.spending import Purse
    from embatch.types import VectorStore

_MOST_WISHES = 16  # sets of terms in one file: each is a run of its own
_MARGIN = 1.25  # over the estimate of what a job costs at most
_PIECES = 256  # lines written together
_HOPELESS = {ErrorKind.AUTH, ErrorKind.QUOTA_MONEY, ErrorKind.NOT_FOUND}
_log = logging.getLogger("embatch")


class NotNowError(Exception):
    """The job cannot go on now, and may later."""


class InterruptedJobError(Exception):
    """The server stops; the job goes on with the next one."""


@dataclass(slots=True)
class _Survey:
    """What a file asks for."""

    wishes: list[Wish]
    inputs: int = 0
    tokens: int = 0
    """Estimated."""


class ProviderRun:
    """Carries a job's rows through a provider's jobs.

    Args:
        job: what it is.
        embedder: its model, open; the caller closes it.
        output: where its lines go; nothing is in it yet. The caller syncs it.
        source: its input file.
        place: a folder of its own for what makes it survive; the caller deletes it when the job has ended.
        settings: limits of a request.
        purse: what bounds a day's dollars.

    Attributes:
        errors: entries for the job's `errors`, if it failed.
    """

    def __init__(
        self,
        job: ServedJob,
        embedder: Embedder,
        output: JobOutput,
        *,
        source: Path,
        place: Path,
        settings: ServeSettings,
        purse: Purse | None,
    ) -> None:
        self.errors: list[dict[str, Any]] | None = None
        self._job = job
        self._embedder = embedder
        self._output = output
        self._source = source
        self._place = place
        self._settings = settings
        self._purse = purse
        self._lock = threading.Lock()
        self._ending: Ending | None = None
        self._interrupted = False
        self._pipeline: LanePipeline | None = None
        self._earlier = 0  # inputs of wishes that are done
        self._inputs = 0
        self._spent: dict[
            str, float
        ] = {}  # by what the vectors are: kinds that come to the same share a ledger

    @property
    def rows_done(self) -> int:
        """About how many rows have their result. From any thread."""
        pipeline = self._pipeline
        done = self._earlier + (0 if pipeline is None else pipeline.rows_done)
        return min(self._job.total, done * self._job.total // self._inputs) if self._inputs else 0

    def stop(self, ending: Ending | None) -> None:
        """End early, with what there is; None: end without a word, to go on later. From any thread."""
        with self._lock:
            self._ending = self._ending or ending
            self._interrupted = self._interrupted or ending is None
            if self._pipeline is not None:
                self._halt(self._pipeline)

    def run(self) -> Ending:
        """All rows; how the job ended, and `errors` says why if it failed.

        Raises:
            JobFailedError: nothing of this job can be done.
            NotNowError: it cannot go on now.
            InterruptedJobError: it was to end without a word.
            OutputError: something cannot be written.
        """
        survey = self._survey()
        self._inputs = survey.inputs
        reserved = self._reserve(survey)
        for wish in survey.wishes:
            self._carry(wish)
        if reserved is not None and self._purse is not None:
            self._purse.settle(reserved, sum(self._spent.values()))
        self._output.append(b"", b"", upto=self._source.stat().st_size, lines=self._job.total)
        return self._ending or "completed"

    # --- the first look ---------------------------------------------------------------------------------------

    def _survey(self) -> _Survey:
        """What the rows ask for; those that are refused get their lines."""
        survey = _Survey([])
        model = self._host.backend
        refused: list[Row] = []
        for row in self._rows():
            wish = None if row.asked is None else wish_of(row.asked.ask)
            if wish is None or self._refusal(row) is not None:
                refused.append(row)
                if len(refused) >= _PIECES:
                    self._write((row, []) for row in refused)
                    refused.clear()
                continue
            if wish not in survey.wishes:
                survey.wishes.append(wish)
            texts = [str(text) for text in row.inputs]
            survey.inputs += len(texts)
            survey.tokens += int(model.tokenize(texts).lengths.sum())
            if len(survey.wishes) > _MOST_WISHES:
                message = f"the rows ask for more than {_MOST_WISHES} kinds of vectors"
                raise JobFailedError("too_many_kinds", message)
        self._write((row, []) for row in refused)
        return survey

    def _reserve(self, survey: _Survey) -> int | None:
        """Set aside what the job may cost, once, however often it is interrupted."""
        prices = self._host.backend.facts.prices
        if self._purse is None or prices is None:
            return None
        note = self._place / "reserved.json"
        with suppress(OSError, ValueError):
            return int(json.loads(note.read_bytes()))
        dollars = survey.tokens * prices.batch * _MARGIN / 1e6
        try:
            number = self._purse.reserve(self._job.owner or None, dollars)
        except GoalError as error:
            raise NotNowError(str(error)) from error
        with os_errors(note):
            self._place.mkdir(parents=True, exist_ok=True)
            note.write_bytes(json.dumps(number).encode())
        return number

    # --- rows of one kind -------------------------------------------------------------------------------------

    def _carry(self, wish: Wish) -> None:
        own = self._host.spec_for(None)
        try:
            host = RemoteHost(
                self._host.backend,
                dimensions=wish.dimensions or self._host.work_for(None).dimensions,
                overlong=wish.overlong or own.overlong,
            )
            spec = host.spec_for(wish.task)
        except UsageError as error:
            problem = as_api_error(error)
            self._write((row, [Settled(None, 0, problem)]) for row in self._rows_of(wish))
            return
        place = self._place / spec.fingerprint[:16]
        ledger, journal = open_run(place, spec, base_url=host.backend.base_url)
        state = "stopped"
        try:
            cache = self._embedder.store_for(spec)
            store: VectorStore = journal if cache is None else Layered(cache, journal)
            settings = replace(host.backend.settings, strategy="batch")
            pipeline = host.pipeline(wish.task, store=store, ledger=ledger, settings=settings, collect=True)
            with self._lock:
                self._pipeline = pipeline
                if self._ending is not None or self._interrupted:
                    self._halt(pipeline)
            self._fill(wish, pipeline, ledger)
            self._spent[spec.fingerprint] = ledger.spent()
            self._earlier += pipeline.rows_done
            state = "done" if self._ending is None else "cancelled"
        finally:
            self._pipeline = None
            default_registry().end(ledger.run_id, state, {})
            ledger.close()
            journal.close()

    def _fill(self, wish: Wish, pipeline: LanePipeline, ledger: Ledger) -> None:
        """Write the rows of a kind, from the blocks of their run."""
        characters = 0

        def items() -> Iterator[Item]:
            nonlocal characters
            for row in self._rows_of(wish):
                for text in row.inputs:
                    characters += len(text)
                    yield Item(row.custom_id, str(text))

        def settled() -> Iterator[Settled]:
            rate = 0.0
            for block in pipeline.run(items()):
                if not block.first_row:
                    self._check(pipeline)
                    if self._ending is not None:
                        self._give_up_jobs(ledger)
                    rate = sum(bill.tokens for bill in ledger.bills().values()) / max(1, characters)
                failures = {failure.row - block.first_row: failure.error for failure in block.failures}
                for place, item in enumerate(block.items):
                    error = failures.get(place)
                    tokens = round(len(item.text) * rate)
                    yield Settled(block.vectors[place], tokens) if error is None else self._failed(error)

        results = settled()
        self._write((row, [next(results) for _ in row.inputs]) for row in self._rows_of(wish))
        for _ in results:  # to its end: so that the run has ended too
            pass

    def _check(self, pipeline: LanePipeline) -> None:
        """Whether what has come back is all that there will be."""
        if self._interrupted:
            raise InterruptedJobError
        error = pipeline.stopped_by
        if error is None or self._ending is not None:
            return
        if isinstance(error, ProviderError) and error.kind in _HOPELESS:
            self.errors = [complaint("provider_failed", str(error))]
            self._ending = "failed"
            return
        raise NotNowError(str(error)) from error

    def _failed(self, error: EmbatchError) -> Settled:
        if isinstance(error, NotSentError):
            return Settled(None, 0, None)
        return Settled(None, 0, as_api_error(error, param="input"))

    def _give_up_jobs(self, ledger: Ledger) -> None:
        """The provider's jobs for rows that nobody wants any more."""
        provider = self._host.backend.provider
        for job in ledger.jobs(done=False):
            try:
                ref = job.ref or provider.find(job.tag)
                if ref is not None:
                    provider.cancel(ref)
                ledger.drop_job(job.number, "cancelled")
            except ProviderError as error:
                _log.warning("job %s at the provider could not be cancelled: %s", job.tag, error)

    @staticmethod
    def _halt(pipeline: LanePipeline) -> None:
        pipeline.stop(ProviderError("the batch is to end", kind=ErrorKind.CONNECTION))

    # --- rows and lines ---------------------------------------------------------------------------------------

    @property
    def _host(self) -> RemoteHost:
        host = self._embedder.host
        assert isinstance(host, RemoteHost)
        return host

    def _rows(self) -> Iterator[Row]:
        try:
            lines = InputLines(self._source, most_bytes=self._settings.body_bytes)
        except OSError as error:
            raise JobFailedError("input_file_gone", f"The input file cannot be read: {error}") from error
        with lines:
            for line in iter(lines.next, None):
                if self._interrupted:
                    raise InterruptedJobError
                row = as_row(line.raw or b"", line.number, self._settings)
                refusal = self._refusal(row)
                yield row if refusal is None else replace(row, asked=None, problem=refusal)

    def _rows_of(self, wish: Wish) -> Iterator[Row]:
        return (row for row in self._rows() if row.asked is not None and wish_of(row.asked.ask) == wish)

    @staticmethod
    def _refusal(row: Row) -> ApiError | None:
        if row.problem is not None:
            return row.problem
        if any(not isinstance(text, str) for text in row.inputs):
            message = "Token ids cannot be sent to a provider's jobs: send text."
            return ApiError(400, message, code="invalid_type", param="input")
        return None

    def _write(self, rows: Iterable[tuple[Row, list[Settled]]]) -> None:
        lines = _Lines()
        for row, settled in rows:
            if any(each.vector is None and each.problem is None for each in settled):
                lines.bad.append(undone_line(row, job=self._job.id, ending=str(self._ending)))
            else:
                lines.add(*result_line(row, settled, job=self._job.id, model=self._job.model or ""))
                lines.tokens += sum(each.tokens for each in settled)
            if len(lines.good) + len(lines.bad) >= _PIECES:
                lines.flush(self._output)
        lines.flush(self._output)


@dataclass(slots=True)
class _Lines:
    """Some lines on their way into the outputs."""

    good: list[bytes] = field(default_factory=list)
    bad: list[bytes] = field(default_factory=list)
    failed: int = 0
    """Rows that failed; those whose turn never came are none of them."""
    tokens: int = 0

    def add(self, went_well: bool, line: bytes) -> None:  # noqa: FBT001  # as `result_line` gives it
        """A row that was carried out."""
        (self.good if went_well else self.bad).append(line)
        self.failed += not went_well

    def flush(self, output: JobOutput) -> None:
        """Write them. How far the input is done is said at the end alone."""
        output.append(
            b"".join(self.good),
            b"".join(self.bad),
            upto=0,
            lines=0,
            completed=len(self.good),
            failed=self.failed,
            tokens=self.tokens,
        )
        self.good.clear()
        self.bad.clear()
        self.failed = self.tokens = 0
