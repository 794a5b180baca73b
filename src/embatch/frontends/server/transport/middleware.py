"""What every request and every answer goes through: names, early refusals, safe headers, the access log.

One plain ASGI callable between uvicorn and the application, for it is passed by each of many thousand requests a
second. Whatever the application lets escape ends here, as an answer and a line in the log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect

from embatch.errors import EmbatchError
from embatch.frontends.server.errors import ApiError, as_api_error
from embatch.frontends.server.transport.body import too_large

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from embatch.frontends.server.settings import ServeSettings
    from embatch.frontends.server.transport.traffic import Traffic

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("embatch.serve")

REQUEST_ID = "request_id"
"""Where in a request's scope its id is."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
# New ids: what no other process has, and a number. Random bytes for each request would be a call of the system each.
_PROCESS = b"req_" + secrets.token_hex(8).encode()
_numbers = itertools.count(1)
_UPLOADS = "/v1/files"
_PATHS = frozenset(
    {
        "/",
        "/embed",
        "/health",
        "/metrics",
        "/ready",
        "/v1/batches",
        "/v1/embeddings",
        "/v1/files",
        "/v1/models",
        "/v1/search",
    }
)
_PLAIN = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_PAGE = [
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        (
            b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
            b"img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        ),
    ),
]


class Front:
    """Wraps an application.

    Args:
        app: what answers.
        settings: limits.
        traffic: where answers are counted.
    """

    def __init__(self, app: App, settings: ServeSettings, traffic: Traffic) -> None:
        self._app = app
        self._settings = settings
        self._traffic = traffic
        self._local_only = is_loopback(settings.host) and not settings.keys
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.host.strip("[]").lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; other kinds of scopes go through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        answer = _Answer(send, _request_id(headers), scope)
        traffic = self._traffic
        traffic.under_way += 1
        try:
            refused = self._refusal(scope, headers)
            if refused is not None:
                await answer.refuse(refused)
            else:
                await self._app(scope, receive, answer.send)
        except Exception as error:  # noqa: BLE001  # nothing may escape: uvicorn would log it with a traceback
            await answer.fail(error)
        except asyncio.CancelledError:  # the time for draining is over
            await answer.fail(ApiError(503, "The server was stopped.", type="server_error", code="stopped"))
            raise
        finally:
            traffic.under_way -= 1
            traffic.answers[_known(scope["path"]), answer.status] += 1
            answer.log(scope)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiError | None:
        """What the headers alone forbid."""
        settings = self._settings
        declared = headers.get(b"content-length")
        if declared is not None and declared.isdigit():
            upload = scope["path"].startswith(_UPLOADS)
            most = settings.file_bytes + settings.body_bytes if upload else settings.body_bytes
            if int(declared) > most:
                error = too_large(most)
                if (
                    b"expect" in headers
                ):  # the client waits for a word before it sends, and may not send at all
                    error.headers["Connection"] = "close"
                return error
        host = headers.get(b"host", b"")
        if self._local_only and not self._is_local(host):
            return _forbidden(
                "Without API keys, this server answers to names of this machine only, so that no web page can reach "
                "it through a name of its own. Ask http://localhost or http://127.0.0.1, or start it with keys.",
                "host_not_allowed",
            )
        if scope["method"] not in {"GET", "HEAD", "OPTIONS"} and _crosses(headers, host):
            return _forbidden("Pages of other origins may not ask this server.", "cross_origin")
        return None

    def _is_local(self, host: bytes) -> bool:
        name = host.decode("latin-1").lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        return not name or name in self._hosts or name.endswith(".localhost") or _is_loopback_address(name)


class _Answer:
    """One answer on its way out."""

    __slots__ = ("_begun_at", "_done", "_scope", "_send", "request_id", "status")

    def __init__(self, send: Send, request_id: bytes, scope: Scope) -> None:
        self._send = send
        self._scope = scope
        self._begun_at = time.perf_counter()
        self._done = False
        self.request_id = request_id
        self.status = 0  # none yet
        scope[REQUEST_ID] = request_id.decode("ascii")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            _complete(headers, self.request_id)
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self._done = True
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        body = orjson.dumps(error.body())
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def fail(self, error: Exception) -> None:
        """End an answer that the application did not."""
        if isinstance(error, ClientDisconnect):
            return
        known = isinstance(error, ApiError | EmbatchError)
        if not known:
            where = f"{self._scope['method']} {self._scope['path']}"
            log.error("%s failed (%s)", where, self.request_id.decode(), exc_info=error)
        if self.status == 0:
            await self.refuse(_as_answer(error))
        elif not self._done:
            connection = self._scope.get("embatch.connection")
            if connection is None:
                raise error
            connection.break_off()  # half an answer must not look like a whole one

    def log(self, scope: Scope) -> None:
        if log.isEnabledFor(logging.INFO):
            took_ms = (time.perf_counter() - self._begun_at) * 1000
            client = (scope.get("client") or ("-",))[0]
            log.info(
                "%s %s %s %s %.1f ms %s",
                client,
                scope["method"],
                scope["path"],
                self.status or "left",
                took_ms,
                self.request_id.decode(),
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    return host.lower() == "localhost" or _is_loopback_address(host.strip("[]"))


def _is_loopback_address(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    """The client's own, if it can stand in a log and a header; else a new one."""
    sent = headers.get(b"x-request-id")
    if sent is not None and _SANE_ID.fullmatch(sent):
        return sent
    return b"%b%010x" % (_PROCESS, next(_numbers))


def _complete(headers: list[tuple[bytes, bytes]], request_id: bytes) -> None:
    """Add what the application did not set."""
    headers.append((b"x-request-id", request_id))
    kind = b""
    present = set()
    for name, value in headers:
        present.add(name.lower())
        if name.lower() == b"content-type":
            kind = value
    wanted = [*_PLAIN, *_PAGE] if kind.startswith(b"text/html") else _PLAIN
    headers.extend(header for header in wanted if header[0] not in present)


def _crosses(headers: dict[bytes, bytes], host: bytes) -> bool:
    """Whether a browser sends this for a page of another origin. Programs send neither header."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in {b"same-origin", b"none"}
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != host


def _forbidden(message: str, code: str) -> ApiError:
    return ApiError(403, message, code=code)


def _as_answer(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EmbatchError):
        return as_api_error(error)
    return ApiError(500, "The server failed at this request.", type="server_error", code="failed")


def _known(path: str) -> str:
    """A path that metrics may name; others would let clients make up any number of series."""
    if path in _PATHS:
        return path
    parent = "/".join(path.split("/")[:3])
    return f"{parent}/…" if parent in _PATHS and parent != "/" else "other"
