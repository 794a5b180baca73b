"""`/v1/files` and `/v1/batches` over HTTP. What a key made, that key alone sees; without keys everybody sees all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from embatch.frontends.server import wire
from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.jobs import shown
from embatch.frontends.server.jobs.forms import read_form
from embatch.frontends.server.jobs.jobs import KEPT_S, Jobs
from embatch.frontends.server.transport.body import read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from embatch.frontends.server.state import ServerState
    from embatch.storage.served_files import ServedFile
    from embatch.storage.served_jobs import ServedJob

_MOST_FILES, _MOST_BATCHES, _USUAL_BATCHES = 10_000, 100, 20
_BATCH_BYTES = 64 << 10  # of the body that makes one


def routes(state: ServerState) -> list[Route]:
    """All routes of files and batches. Makes the server's jobs if nobody has."""
    if state.jobs is None:
        state.jobs = Jobs(state.settings, state.pool)
    state.jobs.purse = state.jobs.purse or state.purse
    files, batches = FileRoutes(state.jobs), BatchRoutes(state.jobs)
    return [
        Route("/v1/files", files.upload, methods=["POST"]),
        Route("/v1/files", files.page, methods=["GET"]),
        Route("/v1/files/{id}", files.get, methods=["GET"]),
        Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/content", files.content, methods=["GET"]),
        Route("/v1/batches", batches.create, methods=["POST"]),
        Route("/v1/batches", batches.page, methods=["GET"]),
        Route("/v1/batches/{id}", batches.get, methods=["GET"]),
        Route("/v1/batches/{id}/cancel", batches.cancel, methods=["POST"]),
    ]


class FileRoutes:
    """`/v1/files`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def upload(self, request: Request) -> Response:
        """`POST`: take a file in, as it comes."""
        jobs, settings = self._jobs, self._jobs.settings
        served = await jobs.opened()
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > settings.file_bytes + _BATCH_BYTES:
            message = f"The file is larger than the {settings.file_bytes} bytes that are allowed."
            raise ApiError(413, message, code="file_too_large", param="file", headers={"Connection": "close"})
        upload = await jobs.in_thread(served.files.upload)
        try:
            form = await read_form(
                request,
                lambda data: jobs.in_thread(upload.write, data),
                file_bytes=settings.file_bytes,
                pause_s=settings.body_s,
            )
            kept_s = self._check(form.fields, form.filename, upload.bytes)
            now = jobs.clock()
            keeping = jobs.in_thread(
                upload.keep,
                owner=owner_of(request),
                purpose="batch",
                name=form.filename or upload.id,
                created=now,
                expires=now + kept_s,
            )
            file = await asyncio.shield(keeping)
        finally:
            await jobs.in_thread(upload.close)
        return _json(shown.file_object(file))

    @staticmethod
    def _check(fields: dict[str, str], filename: str | None, size: int) -> float:
        """Whether what was sent can be a file; how long it is kept, in seconds."""
        if filename is None:
            raise shown.bad("Missing required parameter: 'file'.", "file", "missing_required_parameter")
        purpose = fields.get("purpose")
        if purpose is None:
            raise shown.bad("Missing required parameter: 'purpose'.", "purpose", "missing_required_parameter")
        if purpose != "batch":
            raise shown.bad(f"'{purpose[:100]}' is not served: 'purpose' must be 'batch'.", "purpose")
        if not size:
            raise shown.bad("The file is empty.", "file", "empty_file")
        return shown.kept_s(fields, "expires_after", of_form=True) or KEPT_S

    async def page(self, request: Request) -> Response:
        """`GET`: the files, a page at a time."""
        query = request.query_params
        limit = shown.limit_of(query, usual=_MOST_FILES, most=_MOST_FILES)
        served = await self._jobs.opened()
        found = await self._jobs.in_thread(
            served.files.page,
            owner_of(request),
            self._jobs.clock(),
            limit=limit + 1,
            after=query.get("after"),
            purpose=query.get("purpose"),
            newest_first=shown.is_newest_first(query),
        )
        if found is None:
            raise shown.missing("File object", query["after"], "after")
        return _json(shown.page_object(found, limit, lambda file: file.id, shown.file_object))

    async def get(self, request: Request) -> Response:
        """`GET` of one."""
        return _json(shown.file_object(await self._find(request)))

    async def delete(self, request: Request) -> Response:
        """`DELETE`, unless a job reads it."""
        file = await self._find(request)
        served = await self._jobs.opened()
        user = await self._jobs.in_thread(served.jobs.user_of, file.id)
        if user is not None:
            message = f"File {file.id} is the input of {user}, which is under way: cancel that first."
            raise ApiError(409, message, code="file_in_use", param="id")
        await self._jobs.in_thread(served.files.delete, file.id)
        return _json({"id": file.id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        """`GET` of what is in it, or of a range of it."""
        file = await self._find(request)
        served = await self._jobs.opened()
        path = served.folder.file(file.id)
        if not await self._jobs.in_thread(path.exists):  # it was deleted behind the server's back
            raise shown.missing("File object", file.id)
        return FileResponse(path, media_type="application/octet-stream")

    async def _find(self, request: Request) -> ServedFile:
        name = request.path_params["id"]
        served = await self._jobs.opened()
        file: ServedFile | None = await self._jobs.in_thread(
            served.files.get, name, owner_of(request), self._jobs.clock()
        )
        if file is None:
            raise shown.missing("File object", name)
        return file


class BatchRoutes:
    """`/v1/batches`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def create(self, request: Request) -> Response:
        """`POST`: a new job."""
        jobs = self._jobs
        body = await read_body(request, most_bytes=_BATCH_BYTES, pause_s=jobs.settings.body_s)
        fields = wire.parse(body)
        name = shown.check_batch(fields)
        kept_s = shown.kept_s(fields, "output_expires_after")
        served = await jobs.opened()
        owner = owner_of(request)
        file = await jobs.in_thread(served.files.get, name, owner, jobs.clock())
        if file is None:
            raise shown.missing("File object", name, "input_file_id")
        if file.purpose != "batch":
            raise shown.bad(f"File '{name}' must have been uploaded with purpose 'batch'.", "input_file_id")
        job = await jobs.create(
            owner=owner, input_file=name, metadata=fields.get("metadata"), output_expires_s=kept_s
        )
        return _json(shown.batch_object(job))

    async def page(self, request: Request) -> Response:
        """`GET`: the jobs, a page at a time, newest first."""
        query = request.query_params
        limit = shown.limit_of(query, usual=_USUAL_BATCHES, most=_MOST_BATCHES)
        served = await self._jobs.opened()
        found = await self._jobs.in_thread(
            served.jobs.page, owner_of(request), limit=limit + 1, after=query.get("after")
        )
        if found is None:
            raise shown.missing("Batch object", query["after"], "after")
        return _json(shown.page_object(found, limit, lambda job: job.id, shown.batch_object))

    async def get(self, request: Request) -> Response:
        """`GET` of one."""
        return _json(shown.batch_object(await self._find(request)))

    async def cancel(self, request: Request) -> Response:
        """`POST`: have it end early. What it has by then is kept."""
        job = await self._find(request)
        if job.status != "cancelling" and not await self._jobs.cancel(job.id):
            job = await self._find(request)
            if job.status != "cancelling":
                message = f"Cannot cancel a batch with status '{job.status}'."
                raise ApiError(409, message, code="batch_ended", param="batch_id")
        return _json(shown.batch_object(await self._find(request)))

    async def _find(self, request: Request) -> ServedJob:
        name = request.path_params["id"]
        served = await self._jobs.opened()
        job: ServedJob | None = await self._jobs.in_thread(served.jobs.find, name, owner_of(request))
        if job is None:
            raise shown.missing("Batch object", name)
        return job


def owner_of(request: Request) -> str:
    """The name of the key that a request bears; empty where none is needed."""
    permit = request.scope.get("pass")
    return "" if permit is None else str(permit.key.name)


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
