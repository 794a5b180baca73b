"""One job through its states: validating, in progress, finalizing, ended. Each step can be done again after a kill."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from embatch.errors import ModelError
from embatch.frontends.opening import is_remote
from embatch.frontends.remote_host import RemoteHost
from embatch.frontends.server.jobs.asking import Asker, JobFailedError
from embatch.frontends.server.jobs.checking import Checker
from embatch.frontends.server.jobs.over_provider import ProviderRun
from embatch.frontends.server.jobs.reading import GROUP_INPUTS, GroupReader, InputLines
from embatch.frontends.server.jobs.room import Room
from embatch.frontends.server.jobs.running import LocalRun, driven, watched, write_undone
from embatch.storage.served_jobs import Done
from embatch.storage.served_output import JobOutput, publish

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.server.jobs.asking import Models
    from embatch.frontends.server.jobs.checking import Verdict
    from embatch.frontends.server.settings import ServedModel, ServeSettings
    from embatch.storage.served import ServedFolder
    from embatch.storage.served_jobs import Ending, ServedJob, ServedJobs
    from embatch.storage.spending import Purse

    Ended = tuple[Ending, Sequence[dict[str, Any]] | None]

IN_FLIGHT = 1024
"""Inputs of one model's jobs that are under way together, unless its queue is short."""
SIDE_BY_SIDE = 16
"""Jobs of one model that take turns; more wait until one has ended."""
_SLICE = 256  # lines that a thread takes in one go: it holds the interpreter for about a millisecond


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What carrying jobs out takes."""

    folder: ServedFolder
    jobs: ServedJobs
    pool: Models
    settings: ServeSettings
    clock: Callable[[], float]
    """Seconds since the Unix epoch."""
    in_thread: Callable[..., Awaitable[Any]]
    """Calls a function that may block."""
    most_rows: int
    """Of a job."""
    kept_s: float
    """How long outputs are kept, unless the job says otherwise."""
    open_embedder: Callable[[ServedModel], Embedder]
    """Opens a provider's model for a job of its own."""
    purse: Purse | None = None
    """What bounds a day's dollars."""


class Carrier:
    """Carries jobs out."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._folder = means.folder
        self._jobs = means.jobs
        self._pool = means.pool
        self._settings = means.settings
        self._clock = means.clock
        self._in_thread = means.in_thread
        self._rooms: dict[str, Room] = {}
        self._turns: dict[str, Room] = {}

    async def carry_out(self, name: str, cancelled: asyncio.Event) -> None:
        """From wherever it stands to its end.

        Raises:
            JobFailedError: it cannot go on.
            OutputMismatchError: what it had computed is gone.
            OutputError: the folder cannot be written now.
        """
        job = await self._find(name)
        if job.status == "validating":
            await self._validate(job, cancelled)
            job = await self._find(name)
        if job.status == "in_progress" or self._is_cancelled_at_provider(job):
            ending, errors = await self._work(job, cancelled)
            if ending != "cancelled":  # which is written down by whoever wants it
                await self._in_thread(self._jobs.finalize, name, ending, self._clock(), errors)
            job = await self._find(name)
        if job.ended is None:
            await self._finish(job)

    async def start_over(self, name: str) -> None:
        """Forget what it had computed."""
        job = await self._find(name)
        await self._in_thread(self._jobs.start_over, name)
        for output in (job.output_file, job.error_file):  # there after a power cut, and worth nothing now
            await self._in_thread(self._folder.file(output).unlink, missing_ok=True)

    async def give_up(self, name: str, errors: Sequence[dict[str, Any]]) -> None:
        """It fails, and keeps what it has."""
        await self._in_thread(self._jobs.finalize, name, "failed", self._clock(), errors)

    async def _find(self, name: str) -> ServedJob:
        job: ServedJob | None = await self._in_thread(self._jobs.find, name)
        assert job is not None  # jobs are never deleted
        return job

    # --- validating -------------------------------------------------------------------------------------------

    async def _validate(self, job: ServedJob, cancelled: asyncio.Event) -> None:
        verdict = await self._check(job, cancelled)
        if cancelled.is_set():
            return
        if self._clock() >= job.expires:
            await self._in_thread(self._jobs.finalize, job.id, "expired", self._clock())
        elif verdict is None or verdict.errors:
            errors = [] if verdict is None else verdict.errors
            await self._in_thread(self._jobs.reject, job.id, errors, self._clock())
        else:
            begin = self._jobs.begin
            await self._in_thread(begin, job.id, total=verdict.total, model=verdict.model, now=self._clock())

    async def _check(self, job: ServedJob, cancelled: asyncio.Event) -> Verdict | None:
        checker = Checker(job.endpoint, knows=self._knows, most_rows=self._means.most_rows)
        with self._lines(job, fresh=True) as lines:
            while part := await self._in_thread(lines.take, _SLICE):
                if cancelled.is_set() or not await self._in_thread(checker.feed, part):
                    return checker.verdict()
        doubles = await self._in_thread(checker.doubles)
        if doubles:
            seen: set[str] = set()
            with self._lines(job, fresh=True) as lines:
                while part := await self._in_thread(lines.take, _SLICE):
                    if cancelled.is_set():
                        break
                    if not await self._in_thread(checker.feed_again, part, doubles, seen):
                        break
        return checker.verdict()

    def _knows(self, model: str) -> bool:
        try:
            self._pool.name_of(model)
        except ModelError:
            return False
        return True

    def _lines(self, job: ServedJob, *, fresh: bool = False) -> InputLines:
        try:
            return InputLines(
                self._folder.file(job.input_file),
                most_bytes=self._settings.body_bytes,
                offset=0 if fresh else job.done.bytes,
                number=0 if fresh else job.done.lines,
            )
        except OSError as error:
            raise JobFailedError("input_file_gone", f"The input file cannot be read: {error}") from error

    # --- in progress ------------------------------------------------------------------------------------------

    async def _work(self, job: ServedJob, cancelled: asyncio.Event) -> Ended:
        """Its rows, once it is its turn."""
        try:
            served = self._pool.served(job.model)
        except ModelError as error:
            raise JobFailedError("model_not_found", str(error)) from error
        turns = self._turns.setdefault(served.name, Room(SIDE_BY_SIDE))
        watch = partial(watched, cancelled=cancelled, is_over=partial(self._is_over, job))
        if job.status != "cancelling":
            ending = await watch(turns.take(1))
            if ending != "completed":
                return ending, None
        try:
            if is_remote(served.model):
                ended = await self._work_at_provider(job, served, cancelled)
                if ended is not None:
                    return ended
            output = await self._in_thread(JobOutput, self._folder, self._jobs, job)
            with output, self._lines(job) as lines:
                run = self._run(job, served.name, lines, output)
                return await watch(run.run(), note=lambda: self._in_thread(output.sync)), None
        finally:
            if job.status != "cancelling":
                turns.give(1)

    async def _work_at_provider(
        self, job: ServedJob, served: ServedModel, cancelled: asyncio.Event
    ) -> Ended | None:
        """Its rows through the provider's jobs; None if it has none, so that calls are the only way."""
        embedder = await self._in_thread(self._means.open_embedder, served)
        try:
            host = embedder.host
            if not isinstance(host, RemoteHost) or host.backend.facts.job is None:
                return None
            await self._in_thread(self._jobs.start_over, job.id)  # the journal knows what was done
            job = await self._find(job.id)
            output = await self._in_thread(JobOutput, self._folder, self._jobs, job)
            with output:
                run = ProviderRun(
                    job,
                    embedder,
                    output,
                    source=self._folder.file(job.input_file),
                    place=self._folder.run(job.id),
                    settings=self._settings,
                    purse=self._means.purse,
                )
                if job.status == "cancelling":
                    run.stop("cancelled")
                note = partial(self._note_rows, job, run)
                is_over = partial(self._is_over, job)
                ending = await driven(run, cancelled=cancelled, is_over=is_over, note=note)
                await self._in_thread(output.sync)
                return ending, run.errors
        finally:
            await self._in_thread(embedder.close)

    async def _note_rows(self, job: ServedJob, run: ProviderRun) -> None:
        await self._in_thread(self._jobs.note, job.id, Done(completed=run.rows_done))

    def _is_over(self, job: ServedJob) -> bool:
        return self._clock() >= job.expires

    def _is_cancelled_at_provider(self, job: ServedJob) -> bool:
        """Whether a kill came between a cancel and what it means: jobs at the provider that nobody wants any more."""
        return job.status == "cancelling" and not job.done.bytes and self._folder.run(job.id).exists()

    def _run(self, job: ServedJob, model: str, lines: InputLines, output: JobOutput) -> LocalRun:
        room = self._room(model)
        asker = Asker(self._pool, model, most_inputs=min(GROUP_INPUTS, room.places), payer=job.owner or None)
        return LocalRun(
            job,
            lines,
            output,
            asker=asker,
            room=room,
            settings=self._settings,
            in_thread=self._in_thread,
        )

    def _room(self, model: str) -> Room:
        if model not in self._rooms:
            self._rooms[model] = Room(max(1, min(IN_FLIGHT, self._settings.queue // 4)))
        return self._rooms[model]

    # --- the end ----------------------------------------------------------------------------------------------

    async def _finish(self, job: ServedJob) -> None:
        """Tell the rows whose turn never came, make the outputs files, and end."""
        if job.ending != "completed" and job.begun is not None and not self._is_published(job):
            await self._tell_undone(job)
            job = await self._find(job.id)
        now = self._clock()
        kept_s = self._means.kept_s if job.output_expires is None else job.output_expires
        files = await self._in_thread(publish, self._folder, job, job.done, now=now, expires=now + kept_s)
        await self._in_thread(self._jobs.end, job.id, files, now)
        await self._in_thread(shutil.rmtree, self._folder.run(job.id), ignore_errors=True)

    def _is_published(self, job: ServedJob) -> bool:
        """Whether a kill came after the first output had got its name: nothing is missing in it then."""
        return any(self._folder.file(name).exists() for name in (job.output_file, job.error_file))

    async def _tell_undone(self, job: ServedJob) -> None:
        try:
            lines = self._lines(job)
        except JobFailedError:  # nobody can know which rows there were
            return
        with lines:
            reader = GroupReader(lines, self._settings)
            with await self._in_thread(JobOutput, self._folder, self._jobs, job) as output:
                while await self._in_thread(write_undone, reader, output, job):
                    pass
                await self._in_thread(output.sync)
