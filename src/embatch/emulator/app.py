"""The ASGI application: from a request to its handler, and the answer back, with whatever was scripted to go wrong.

Imports starlette, so it is loaded only when an emulator is started.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from embatch.emulator import transmit
from embatch.emulator.answers import Answer, Call, ConnectionReset, Refused, words
from embatch.emulator.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.emulator.admin import Admin
    from embatch.emulator.clock import Clock
    from embatch.emulator.core import Core
    from embatch.emulator.faults import Fault
    from embatch.emulator.routes import Route

ADMIN = "/_emulator/"
_log = logging.getLogger(__name__)


class App:
    """One provider over HTTP.

    Args:
        core: the provider.
        room: the module that knows its wire: `gemini.room` or `openai.room`.
        clock: virtual time.
        admin: answers under `/_emulator/`.
    """

    def __init__(self, core: Core, room: Any, clock: Clock, admin: Admin) -> None:
        self._core = core
        self._room = room
        self._clock = clock
        self._admin = admin
        self._routes: list[Route] = room.ROUTES

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            await self._answer(Request(scope, receive), send)
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("the emulator itself failed at %s %s", scope["method"], scope["path"])
            raise

    async def _answer(self, request: Request, send: Any) -> None:
        if request.url.path.startswith(ADMIN):
            body = await request.body()
            answer = await run_in_threadpool(self._admin.answer, request.method, request.url.path, body)
            await transmit.send_answer(answer, send, self._clock)
            return
        call, route = await self._call(request)
        faults: list[Fault] = []
        try:
            answer = await run_in_threadpool(self._handle, call, route, faults)
        except ConnectionReset:
            self._count(call, 0)
            await transmit.reset(send)
            return
        self._count(call, answer.status)
        late = sum(fault.delay_s for fault in faults if fault.kind == "stall")
        await self._clock.sleep(call.now + answer.seconds + late - self._clock.now())
        await transmit.send_spoilt(answer, faults, send, self._clock)

    async def _call(self, request: Request) -> tuple[Call, Route | None]:
        """The request, read, and its route."""
        path, route = {}, None
        for each in self._routes:
            found = each.match(request.method, request.url.path)
            if found is not None:
                path, route = found, each
                break
        form: dict[str, Any] = {}
        body = b""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form(max_part_size=math.inf) as fields:
                form = {name: await _field(value) for name, value in fields.multi_items()}
        else:
            body = await request.body()
        call = Call(
            core=self._core,
            operation=route.operation if route else "get_file",
            now=self._clock.now(),
            base=str(request.base_url).rstrip("/"),
            path=path,
            query=dict(request.query_params),
            headers=request.headers,
            body=body,
            form=form,
        )
        return call, route

    def _handle(self, call: Call, route: Route | None, faults: list[Fault]) -> Answer:
        """The handler's answer, or that of a refusal. `faults` gets those that happen on the way."""
        try:
            if route is None:
                raise self._room.no_route()
            self._core.settle(call.now)
            self._room.check_key(call)
            with self._core.lock:
                taken = self._core.script.take(call.operation, lambda: self._words(call))
            for fault in taken:
                stage = FAULTS[fault.kind].stage
                if fault.kind == "reset_before":
                    raise ConnectionReset
                if stage == "refuse":
                    raise self._room.scripted(call, fault)
                (faults if stage == "transport" else call.faults).append(fault)
            answer = route.handler(call)
        except Refused as refused:
            answer = refused.answer
            answer.seconds = self._core.control_s()
        answer.headers = self._room.headers(call) | answer.headers
        return answer

    def _words(self, call: Call) -> Iterator[str]:
        """What a fault's `match` is looked for in."""
        yield from call.path.values()
        yield from words(call.body)
        for value in call.form.values():
            if isinstance(value, str):
                yield value
            else:
                yield value[0]
                yield value[1].decode("utf-8", "replace")
        job = self._core.job(call.path.get("job", ""), call.now)
        if job is not None:
            yield job.tag

    def _count(self, call: Call, status: int) -> None:
        with self._core.lock:
            requests = self._core.requests
            requests.counts[call.operation] += 1
            requests.statuses[status] += 1
            if status >= 400:
                requests.refused[call.operation] += 1


async def _field(value: Any) -> Any:
    """A form's field: text, or a file's name and content."""
    if isinstance(value, str):
        return value
    return (value.filename or "", await value.read())
