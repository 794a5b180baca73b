"""All batch jobs of a server: taken up, carried out side by side, taken up again after a restart.

Jobs of one model share its room and take turns; the coalescer under them lets interactive requests go first. The
folder of files and jobs is opened when it can be: a disk that is full or read-only is told to who asks, and stops no
server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from embatch.errors import EmbatchError, OutputError, OutputMismatchError
from embatch.frontends.server.jobs.asking import LONGEST_PAUSE_S, JobFailedError
from embatch.frontends.server.jobs.carrying import Carrier, Means
from embatch.frontends.server.jobs.over_provider import NotNowError
from embatch.frontends.server.jobs.rows import complaint
from embatch.frontends.server.jobs.shown import ENDPOINT
from embatch.storage.folders import user_folder
from embatch.storage.served import ServedFolder
from embatch.storage.served_files import ServedFiles
from embatch.storage.served_jobs import STATUSES, ServedJobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.server.jobs.asking import Models
    from embatch.frontends.server.settings import ServedModel, ServeSettings
    from embatch.storage.served_jobs import ServedJob
    from embatch.storage.spending import Purse

WINDOW_S = 86_400.0
"""`completion_window`: the only one there is, as at OpenAI."""
MOST_ROWS = 1_000_000
"""Of one job. Memory does not depend on it, but for 8 bytes a row while it is validated."""
KEPT_S = 30 * 86_400.0
"""Files are deleted so long after they came, unless they say otherwise."""
_THREADS = 4
_SWEEP_S = 3600.0
_FAULTS = 5  # attempts after which a fault that nobody foresaw ends a job

_log = logging.getLogger("embatch")


class Served(NamedTuple):
    """What an open folder holds."""

    folder: ServedFolder
    files: ServedFiles
    jobs: ServedJobs


class Jobs:
    """Files and batch jobs of one server. Belongs to one event loop.

    Args:
        settings: of the server.
        pool: its models.
        clock: seconds since the Unix epoch.
        window_s: that a job has.
        most_rows: of a job.
        open_embedder: opens a provider's model for a job; as the pool would unless given.
        purse: what bounds a day's dollars over providers' models.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pool: Models,
        *,
        clock: Callable[[], float] = time.time,
        window_s: float = WINDOW_S,
        most_rows: int = MOST_ROWS,
        open_embedder: Callable[[ServedModel], Embedder] | None = None,
        purse: Purse | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.window_s = window_s
        self.purse = purse
        """Set before the start."""
        self._open_embedder = open_embedder or _open_model
        self._pool = pool
        self._most_rows = most_rows
        self._threads = ThreadPoolExecutor(_THREADS, "embatch-jobs")
        self._calls: set[asyncio.Future[Any]] = set()
        self._opening: asyncio.Task[Served] | None = None
        self._served: Served | None = None
        self._carrier: Carrier | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: dict[str, asyncio.Event] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def folder(self) -> Path:
        """Where files and jobs are kept."""
        return self.settings.state or user_folder() / "serve"

    # --- beginning and ending ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was interrupted. A folder that cannot be opened is tried again when somebody needs it."""
        try:
            if self.folder.exists():  # else there is nothing, and perhaps there never will be
                await self.opened()
        except OutputError as error:
            _log.warning("files and batch jobs cannot be served now: %s %s", error, error.hint)

    async def stop(self) -> None:
        """Stop all jobs at a row, quickly; they go on with the next start. Stopping twice is allowed."""
        self._stopped = True
        if self._opening is not None:
            await asyncio.wait({self._opening})
        tasks = [*self._tasks.values(), *([self._sweeping] if self._sweeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._calls, return_exceptions=True)
        if self._served is not None:
            await self.in_thread(self._served.folder.close)
            self._served = None
        self._threads.shutdown(wait=False)

    def counts(self) -> dict[str, int]:
        """Jobs by status, those of earlier servers in this folder included."""
        if self._served is not None:
            try:
                return self._served.jobs.counts()
            except EmbatchError as error:  # metrics must not fail for it
                _log.debug("jobs could not be counted: %s", error)
        return dict.fromkeys(STATUSES, 0)

    async def opened(self) -> Served:
        """The folder, opened if need be.

        Raises:
            OutputError: it cannot be.
        """
        if self._served is not None:
            return self._served
        if self._opening is None:  # in a task of its own: whoever asks may leave before the folder is there
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._forget_opening)
        return await asyncio.shield(self._opening)

    async def in_thread(self, function: Callable[..., Any], *values: object, **named: object) -> Any:
        """Call a function that may block. What it opens is closed if nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, partial(function, *values, **named))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            call.add_done_callback(_close_result)
            raise

    async def _open(self) -> Served:
        served: Served = await self.in_thread(_open, self.folder, self.clock)
        try:
            self._carrier = self._new_carrier(served)
            under_way = await self.in_thread(served.jobs.under_way)
        except BaseException:
            served.folder.close()
            raise
        self._served = served
        for job in under_way:
            self.launch(job)
        self._sweeping = asyncio.create_task(self._sweep(served))
        return served

    def _forget_opening(self, task: asyncio.Task[Served]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # which whoever asked was told

    def _new_carrier(self, served: Served) -> Carrier:
        return Carrier(
            Means(
                folder=served.folder,
                jobs=served.jobs,
                pool=self._pool,
                settings=self.settings,
                clock=self.clock,
                in_thread=self.in_thread,
                most_rows=self._most_rows,
                kept_s=KEPT_S,
                open_embedder=self._open_embedder,
                purse=self.purse,
            )
        )

    # --- jobs -------------------------------------------------------------------------------------------------

    async def create(
        self, *, owner: str, input_file: str, metadata: dict[str, str] | None, output_expires_s: float | None
    ) -> ServedJob:
        """A new job, begun at once. Whoever asks may leave meanwhile: it is begun all the same.

        Raises:
            OutputError: it cannot be written down.
        """
        return await asyncio.shield(self._create(owner, input_file, metadata, output_expires_s))

    async def cancel(self, name: str) -> bool:
        """Have a job end early; False if it has ended, or is ending so already.

        Raises:
            OutputError: it cannot be written down.
        """
        return await asyncio.shield(self._cancel(name))

    def launch(self, job: ServedJob) -> None:
        """Begin a job that is written down, or go on with it."""
        if job.id in self._tasks or self._stopped:
            return
        self._cancelled[job.id] = asyncio.Event()
        task = asyncio.create_task(self._carry_out(job.id, self._cancelled[job.id]))
        self._tasks[job.id] = task
        task.add_done_callback(partial(self._forget, job.id))

    async def _create(
        self, owner: str, input_file: str, metadata: dict[str, str] | None, output_expires_s: float | None
    ) -> ServedJob:
        served = await self.opened()
        now = self.clock()
        job: ServedJob = await self.in_thread(
            served.jobs.create,
            owner=owner,
            endpoint=ENDPOINT,
            input_file=input_file,
            metadata=metadata,
            output_expires_s=output_expires_s,
            created=now,
            expires=now + self.window_s,
        )
        self.launch(job)
        return job

    async def _cancel(self, name: str) -> bool:
        served = await self.opened()
        done: bool = await self.in_thread(served.jobs.cancel, name, self.clock())
        if name in self._cancelled:
            self._cancelled[name].set()
        return done

    async def _carry_out(self, name: str, cancelled: asyncio.Event) -> None:
        """See a job to its end, whatever comes between."""
        tries = 0
        while not await self._attempt(name, cancelled, tries):
            tries += 1
            await asyncio.sleep(min(LONGEST_PAUSE_S, 0.25 * 2.0 ** min(tries - 1, 16)))

    async def _attempt(self, name: str, cancelled: asyncio.Event, tries: int) -> bool:
        """Carry a job on as far as it goes now; True if it has ended."""
        carrier = self._carrier
        assert carrier is not None
        try:
            try:
                await carrier.carry_out(name, cancelled)
            except OutputMismatchError as error:
                _log.warning("job %s starts over: %s", name, error)
                await carrier.start_over(name)
            except JobFailedError as error:
                _log.warning("job %s has failed: %s", name, error)
                await carrier.give_up(name, [complaint(error.code, str(error))])
            else:
                return True
        except OutputError as error:
            _log.warning("job %s waits for its folder: %s %s", name, error, error.hint)
        except NotNowError as error:
            _log.warning("job %s waits: %s", name, error)
        except Exception:  # noqa: BLE001  # a job must not end for want of a handler
            _log.exception("job %s met a fault of the server", name)
            if tries >= _FAULTS:
                await carrier.give_up(name, [complaint("server_error", "The server failed on this batch.")])
        return False

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)
        self._cancelled.pop(name, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("job %s was left alone until the next start", name, exc_info=task.exception())

    async def _sweep(self, served: Served) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self.in_thread(served.files.expire, self.clock())
            except EmbatchError as error:
                _log.warning("files that have expired could not be deleted: %s", error)


def _close_result(call: asyncio.Future[Any]) -> None:
    """What was opened for somebody who has left."""
    if not call.cancelled() and call.exception() is None:
        close = getattr(call.result(), "close", None)
        if close is not None:
            close()


def _open_model(served: ServedModel) -> Embedder:
    from embatch.frontends.embedder import Embedder

    return Embedder(served.model, **served.options)


def _open(path: Path, clock: Callable[[], float]) -> Served:
    """Open the folder, and sweep away what killed servers left."""
    folder = ServedFolder.open(path)
    try:
        files, jobs = ServedFiles(folder), ServedJobs(folder)
        files.expire(clock())
        under_way = jobs.under_way()
        outputs = [name for job in under_way for name in (job.output_file, job.error_file)]
        parts = [name for job in under_way for name in job.part_names]
        folder.sweep(files=[*files.names(), *outputs], parts=parts, runs=[job.id for job in under_way])
    except BaseException:
        folder.close()
        raise
    return Served(folder, files, jobs)
