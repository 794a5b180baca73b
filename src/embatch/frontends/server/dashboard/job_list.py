"""The batch jobs that the page lists: those under way, and how those ended that were while somebody watched.

Looks are cheap where there are no jobs: no folder is opened, or made, for the page alone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from embatch.errors import EmbatchError
from embatch.frontends.server.dashboard.status import job_row

if TYPE_CHECKING:
    from embatch.frontends.server.jobs import Jobs

MOST_JOBS = 12
"""Jobs that are listed."""


class JobList:
    """Jobs as they were at the last look.

    Args:
        jobs: of the server.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._rows: dict[str, dict[str, Any]] = {}

    async def look(self) -> None:
        """See how far they are. What cannot be read is as it was."""
        with suppress(EmbatchError):
            if not any(self._jobs.counts().values()):
                self._rows = {}
                return
            served = (await self._jobs.opened()).jobs
            found = {job.id: job for job in await self._jobs.in_thread(served.under_way)}
            for name, row in self._rows.items():
                if name not in found and not row["ended"]:
                    job = await self._jobs.in_thread(served.find, name)
                    if job is not None:
                        found[name] = job
            ended = [row for name, row in self._rows.items() if row["ended"] and name not in found]
            rows = [*ended, *map(job_row, found.values())]
            rows.sort(key=lambda row: (not row["ended"], row["created"]))
            self._rows = {row["id"]: row for row in rows[-MOST_JOBS:]}

    def told(self) -> dict[str, Any]:
        """Counts by status, and the jobs: under way before ended, newest first."""
        return {"counts": dict(self._jobs.counts()), "recent": list(reversed(self._rows.values()))}
