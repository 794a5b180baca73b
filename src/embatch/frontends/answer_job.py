"""Prompts from sources to a finished file of answers: what `embatch generate` carries out.

What `jobs` is for vectors. The answers lie in the run's ledger beside the output until the file is whole, so that a run
that was killed goes on and pays for nothing twice. It knows no terminal.
"""

from __future__ import annotations

import gzip
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self, cast

from embatch.decisions.progress import Meter, Progress
from embatch.engine.telling import tell_failures
from embatch.errors import InterruptedRunError, UsageError
from embatch.frontends.generation import GenerateRun, answer_spec, check_generation
from embatch.frontends.remote_host import open_ledger
from embatch.remote import Generated
from embatch.storage.files import os_errors
from embatch.storage.finished import forget_finished, keep_finished, look_finished
from embatch.storage.ledger import Ledger, ledger_path
from embatch.storage.runs import default_registry
from embatch.storage.sinks import ErrorFile
from embatch.storage.sinks.files import AtomicFile, check_place
from embatch.storage.sinks.text import json_bytes
from embatch.types import BadItem, ItemFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from embatch.errors import EmbatchError
    from embatch.frontends.generation import GeneratingModel
    from embatch.frontends.remote import LaneSettings
    from embatch.remote import GenerateWork
    from embatch.seen_lanes import RunObserver
    from embatch.storage.sources import Sources
    from embatch.types import Item, LaneReport

PROMPT_COLUMN = "prompt"
"""Where prompts are looked for first in tables, before the usual names of texts."""
_PLAIN, _PACKED = (".jsonl", ".ndjson"), (".jsonl.gz", ".ndjson.gz")
_GZIP_LEVEL = 6


class _Row(NamedTuple):
    number: int
    key: str
    source: str


@dataclass(slots=True, kw_only=True)
class AnswersOutcome:
    """How a job ended."""

    report: LaneReport
    output: Path
    errors: Path | None
    """The file that names the prompts without an answer; None if there are none."""
    answered: int
    failed: int
    repeated: int
    """Prompts that needed no request of their own: equal to another, or answered before."""
    seconds: float
    skipped: dict[str, int] = field(default_factory=dict)
    """Files passed over on purpose, by reason."""


def check_answers_target(path: Path) -> None:
    """Refuse a target that answers cannot be written to. Creates the folders above it.

    Raises:
        UsageError: its name does not end as lines of JSON do.
        OutputError: nothing can be written there.
    """
    if not path.name.lower().endswith((*_PLAIN, *_PACKED)):
        raise UsageError(
            f"answers cannot be written to {path.name!r}",
            hint=f"Let the name end in {', '.join(_PLAIN)} or {', '.join(_PACKED)}.",
        )
    check_place(path)


class AnswerJob:
    """Answer the prompts of sources into one file, a line each, in their order.

    Args:
        model: open; the caller closes it.
        work: what is asked for each prompt.
        sources: what to read.
        output: the file to make.
        settings: how the run may use the lanes.
        fresh: forget what an interrupted run left.
        command: arguments that go on with the run, for `embatch runs resume`.
        observer: is told of what happens in the run.
    """

    def __init__(
        self,
        model: GeneratingModel,
        work: GenerateWork,
        sources: Sources,
        output: Path,
        *,
        settings: LaneSettings,
        fresh: bool = False,
        command: Sequence[str] = (),
        observer: RunObserver | None = None,
    ) -> None:
        self._observer = observer
        check_answers_target(output)
        check_generation(model.facts, work)
        self._model = model
        self._sources = sources
        self._output = output
        self._spec = answer_spec(model, work)
        self._command = list(command)
        signature = sources.signature()
        self._request: dict[str, object] | None = None
        if signature is not None:  # else the inputs cannot be known beforehand
            self._request = {
                "inputs": signature,
                "spec": self._spec.to_json(),
                "base_url": model.base_url,
            }
        self._finished = None if fresh or not self._request else look_finished(output, self._request)
        if self._finished is None:
            forget_finished(output)
            self._ledger = self._open_ledger(fresh=fresh)
        else:
            self._ledger = Ledger.open(None, fingerprint=self._spec.fingerprint, about={})
        self._run = GenerateRun(model, work, ledger=self._ledger, settings=settings, observer=observer)
        self._meter = Meter(time.monotonic())
        self._failed = 0

    def _open_ledger(self, *, fresh: bool = False) -> Ledger:
        return open_ledger(
            self._output, self._spec, command=self._command, fresh=fresh, base_url=self._model.base_url
        )

    @property
    def resumed(self) -> bool:
        """Whether an interrupted run goes on."""
        return self._ledger.resumed

    @property
    def finished(self) -> bool:
        """Whether the same was asked before and is there already: nothing will be sent."""
        return self._finished is not None

    @property
    def report(self) -> LaneReport:
        """What was sent so far."""
        return self._run.report

    def progress(self) -> Progress:
        """How far the job is; may be called from another thread."""
        run = self._run
        return self._meter.look(
            time.monotonic(),
            completed=run.rows_done,
            failed=self._failed,
            tokens=run.report.call_tokens + run.report.job_tokens,
            total=run.rows_read if run.read_all else None,
            left_s=run.left_s,
            note=run.note,
        )

    def run(self) -> AnswersOutcome:
        """Carry it out.

        Raises:
            InterruptedRunError: Ctrl-C or SIGTERM; the same job goes on where it was.
            EmbatchError: whatever ended it early; answers so far are in the ledger.
        """
        if self._finished is not None:
            return self._tell_finished(self._finished)
        whole = False
        try:
            outcome = self._write()
            whole = True
        except KeyboardInterrupt as error:
            raise self._interrupted() from error
        finally:
            if self.report.call_items + self.report.job_items > 1:
                self._model.conclude(self.report)
            default_registry().end(
                self._ledger.run_id, "done" if whole else "stopped", self._run.report.to_dict()
            )
            if whole:
                self._ledger.finish()
            else:
                self._ledger.close()
            self._model.save()
        return outcome

    def _write(self) -> AnswersOutcome:
        started = time.monotonic()
        answers = self._run.run(_prompts(self._sources))
        answered = 0
        with _Lines(self._output) as lines, ErrorFile(self._output) as errors:
            for row, answer in answers:
                if isinstance(answer, Generated):
                    lines.write(row, answer)
                    answered += 1
                else:
                    self._failed += 1
                    failure = ItemFailure(row=row.number, key=row.key, error=answer, source=row.source)
                    errors.write([failure])
                    if self._observer is not None:
                        tell_failures(self._observer, [failure])
            lines.commit()
            error_file = errors.commit()
        skipped = dict(self._sources.skipped_counts)
        if self._request is not None:  # before the ledger goes: from here on a kill finds one of them
            told = {"answered": answered, "failed": self._failed, "skipped": skipped}
            keep_finished(self._output, self._request, told)
        return AnswersOutcome(
            report=self._run.report,
            output=self._output,
            errors=error_file,
            answered=answered,
            failed=self._failed,
            repeated=max(0, self._run.known - self._failed),
            seconds=time.monotonic() - started,
            skipped=skipped,
        )

    def _tell_finished(self, told: dict[str, Any]) -> AnswersOutcome:
        """The outcome of the run that made the output; what it may have left when it was killed at its end goes."""
        self._ledger.close()
        if ledger_path(self._output).exists():
            left = self._open_ledger()
            default_registry().end(left.run_id, "done", self._run.report.to_dict())
            left.finish()
        answered, failed = int(told["answered"]), int(told["failed"])
        return AnswersOutcome(
            report=self._run.report,
            output=self._output,
            errors=ErrorFile(self._output).path if failed else None,
            answered=answered,
            failed=failed,
            repeated=answered,
            seconds=0.0,
            skipped=told["skipped"],
        )

    def _interrupted(self) -> InterruptedRunError:
        jobs = self._ledger.jobs(done=False)
        if not jobs:
            return InterruptedRunError(
                f"Interrupted after {self._run.rows_done:,} prompts; answers are kept."
            )
        items = sum(job.items for job in jobs)
        return InterruptedRunError(
            f"Interrupted; {len(jobs)} paid job(s) with {items:,} prompts go on at the provider.",
            hint="Run the same command again to take their results: it submits nothing twice. Or give them up with "
            f"`embatch runs cancel {self._ledger.run_id}`.",
        )


def _prompts(rows: Iterable[Item | BadItem]) -> Iterator[tuple[_Row, str | EmbatchError]]:
    for number, row in enumerate(rows):
        place = _Row(number, row.key, row.source)
        yield place, row.error if isinstance(row, BadItem) else row.text


class _Lines:
    """The output: it appears whole at `commit`, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = AtomicFile(path)
        packed = path.name.lower().endswith(_PACKED)
        # No name and no time in it: the same answers give the same bytes.
        self._gzip = (
            gzip.GzipFile("", "wb", compresslevel=_GZIP_LEVEL, fileobj=self._file.file, mtime=0)
            if packed
            else None
        )
        self._out = cast("IO[bytes]", self._gzip or self._file.file)

    def write(self, row: _Row, answer: Generated) -> None:
        """One line."""
        line = {
            "key": row.key,
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "source": row.source,
        }
        with os_errors(self._path):
            self._out.write(json_bytes(line) + b"\n")

    def commit(self) -> None:
        """Make the file appear, in place of an older one."""
        with os_errors(self._path):
            if self._gzip is not None:
                self._gzip.close()  # writes its end, and leaves the file under it open
        self._file.sync()
        self._file.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._gzip is not None:
            with suppress(OSError):  # what could not be written still waits in it, and fails again
                self._gzip.close()
        self._file.discard()
