"""HTTP/1.1 on one connection: uvicorn's protocol over httptools, with an end to the patience that it lacks.

A client that is slow with its headers or its body, that does not take its answer, or that sends no HTTP is answered
where that is still possible, and cut off. What requests mean is the application's matter; how many inputs or bytes
they may have, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.transport.deadline import Deadline

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from embatch.frontends.server.settings import ServeSettings
    from embatch.frontends.server.transport.traffic import Cut, Traffic

HEAD_BYTES = 65_536
"""Longest request line and headers together."""
PIPELINED = 256
"""Requests that may wait behind one that is being answered, on one connection."""
REFUSING = 1024
"""Connections above the limit that are answered at one time; more are closed without a word."""
LINGER_S = 3.0
"""After a refusal, what a client still sends is read and dropped for so long: to close at once could cost it the
answer."""
LINGER_BYTES = 64 << 20
"""And so much of it."""
_SHORT_BYTES = 65_536  # what is copied to be sent in one piece
_GRACE_S = 1.0  # routes time bodies themselves, in better words; this is for those that do not
_KINDS = {408: "timed_out", 431: "headers_too_large", 503: "too_many_connections"}


class _RefusedError(Exception):
    """Ends the parsing."""

    def __init__(self, why: Cut) -> None:
        super().__init__(why)
        self.why = why


class LimitedProtocol(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn's types are not looked at
    """One connection.

    Args:
        settings: limits.
        traffic: where it counts.
        uvicorns: what uvicorn's protocol takes.
    """

    def __init__(self, *, settings: ServeSettings, traffic: Traffic, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.cycle: Any = None
        self.scope: Any = None
        self.headers: Any = None
        self._settings = settings
        self._traffic = traffic
        self._deadline = Deadline(self.loop, self._overdue)
        self._awaited: Cut | None = None  # what the deadline is for; None is the next request
        self._in_head = False
        self._head_timed = (
            True  # the first headers are due from the connecting on, others from their first byte
        )
        self._head_bytes = 0
        self._alone = True  # whether all of these can only be headers
        self._unsent = 0  # bytes that the client had not taken when that was last looked at
        self._surplus = False  # above the limit of connections: told so as soon as it speaks
        self._deaf = False  # what still comes is dropped
        self._dropped_bytes = 0
        self._left = False
        self._active: Any = None  # the cycle that is being answered; `cycle` is the newest
        self._polite = _Polite(self)
        self._gone: Callable[[], object] | None = None

    @property
    def gone(self) -> bool:
        """Whether nobody reads an answer any more."""
        return self._left

    @property
    def body_came(self) -> bool:
        """Whether the whole body of the request that is being answered is here."""
        return self._active is not None and not self._active.more_body

    def when_gone(self, callback: Callable[[], object] | None) -> None:
        """Call this once if the client goes away from now on, in the loop's thread; None takes it back."""
        self._gone = callback

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Let it in, if there is room."""
        super().connection_made(transport)
        if len(self.connections) <= self._settings.connections:
            self._traffic.open += 1
            self._traffic.accepted += 1
            self._await("headers", self._settings.header_s)
            return
        self.connections.discard(self)
        self._surplus = True
        self._traffic.refusing += 1
        if self._traffic.refusing > REFUSING:
            self._cut("connections")
        else:
            self._await("connections", LINGER_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still works for this client, and let go of everything."""
        if self._surplus:
            self._traffic.refusing -= 1
        else:
            self._traffic.open -= 1
        self._deadline.close()
        self._leave()
        super().connection_lost(exc)
        self.pipeline.clear()
        self.cycle = self.scope = self.headers = self._active = None

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._surplus or self._deaf:
            self._drop(data)
            return
        if not self._in_head:
            self._head_bytes = 0
            self._alone = self.cycle is None or not self.cycle.more_body
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Its request is answered like any other; what follows is not HTTP.
            self.cycle.keep_alive = False
            self._deaf = True
            return
        except httptools.HttpParserError as error:
            refused = error.__context__
            self._refuse(refused.why if isinstance(refused, _RefusedError) else "broken")
            return
        if not self._alone:  # this piece had the end of something else, too: count from the next one on
            self._head_bytes = 0
            self._alone = True
        self._watch_incoming(len(data))

    def pause_writing(self) -> None:
        """The client reads more slowly than answers come."""
        super().pause_writing()
        self._watch_outgoing()

    def resume_writing(self) -> None:
        """The client has taken most of what was sent."""
        super().resume_writing()
        self._await_next()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Hand the request to the application, or put it behind the one under way."""
        if self._head_bytes > HEAD_BYTES:  # seldom: look how much of it is this request's
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEAD_BYTES:
                raise _RefusedError("header_bytes")
        if len(self.pipeline) >= PIPELINED:
            raise _RefusedError("pipeline")
        self._in_head = self._head_timed = self._alone = False
        self.scope["embatch.connection"] = self
        super().on_headers_complete()
        self.cycle.transport = self._polite

    def on_message_complete(self) -> None:
        """The request's last byte."""
        super().on_message_complete()
        self.cycle.more_body = False  # also where it was answered before
        if self._awaited == "linger":
            self._await_next()

    # What the cycles call.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        self._polite.flush()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self._watch_outgoing()
            return
        if self._deaf:
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._await_next()

    def close_after_answer(self) -> None:
        """Close, but not while the client is still sending: it would see a broken connection, not the answer."""
        if self._active is not None and self._active.more_body and not self._deaf:
            self._hang_up()
        else:
            self.transport.close()

    def break_off(self) -> None:
        """End an answer in its middle, so that it does not look whole."""
        self._leave()
        self.transport.abort()

    # What is awaited, and for how long.

    def _watch_incoming(self, size: int) -> None:
        if self._in_head:
            if self._head_bytes > HEAD_BYTES:
                self._refuse("header_bytes")
            elif not self._head_timed:
                self._head_timed = True
                if self._answered():
                    self._await("headers", self._settings.header_s)
        elif self._awaited == "linger":
            self._drop_bytes(size)
        elif self._active is not None and not self.flow.write_paused:
            if self._active.more_body:
                self._await("body", self._settings.body_s + _GRACE_S)
            elif not self._active.response_complete:
                self._deadline.clear()

    def _await_next(self) -> None:
        """Set the deadline by what the connection is in."""
        settings = self._settings
        active = self._active
        if self.transport.get_write_buffer_size() and (active is None or active.response_complete):
            self._watch_outgoing()
        elif active is not None and not active.response_complete:
            if active.more_body:
                self._await("body", settings.body_s + _GRACE_S)
            else:
                self._deadline.clear()
        elif active is not None and active.more_body:
            self._await("linger", LINGER_S)
        elif self._in_head:
            self._await("headers", settings.header_s)
        else:
            self._await(None, settings.keep_alive_s)

    def _await(self, what: Cut | None, seconds: float) -> None:
        self._awaited = what
        self._deadline.move(seconds)

    def _watch_outgoing(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._await("send", self._settings.send_s)

    def _overdue(self) -> None:
        why = self._awaited
        if why is None:
            self.transport.close()
        elif why == "send":
            self._look_at_reader()
        elif why == "body" and self.flow.read_paused:  # it is the application that is slow
            self._await("body", self._settings.body_s + _GRACE_S)
        elif why == "linger" or (why == "headers" and not self._in_head):  # there was nothing to answer
            self._cut(why)
        else:
            self._refuse(why)

    def _look_at_reader(self) -> None:
        """Slow is not stuck: whoever took anything since the last look is given more time."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent >= self._unsent:
            self._cut("send")
        elif unsent:
            self._watch_outgoing()
        elif not self.transport.is_closing():
            self._await_next()

    # Ends.

    def _refuse(self, why: Cut) -> None:
        """Answer what no application will, and hang up."""
        active = self._active
        if active is not None and not active.response_complete:
            if not active.more_body:  # an earlier request; its answer still goes out, as the last one
                active.keep_alive = False
                self.pipeline.clear()
                self._deaf = True
                self._traffic.cuts[why] += 1
                return
            if active.response_started:
                self._cut(why)
                return
        self._traffic.cuts[why] += 1
        self.transport.write(_answer(_refusal(why, self._settings), self.server_state.default_headers))
        self._hang_up()
        self._leave()

    def _hang_up(self) -> None:
        """Send the end of our side, and drop what still comes from theirs."""
        self._deaf = True
        self.pipeline.clear()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._await("linger", LINGER_S)

    def _cut(self, why: Cut) -> None:
        self._traffic.cuts[why] += 1
        self.transport.abort()

    def _drop(self, data: bytes) -> None:
        if not self._deaf:
            self._refuse("connections")
        self._drop_bytes(len(data))

    def _drop_bytes(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > LINGER_BYTES:
            self._cut("linger")

    def _leave(self) -> None:
        """Nobody reads an answer any more: tell whoever works on one."""
        self._left = True
        for cycle in (self._active, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _answered(self) -> bool:
        return self._active is None or bool(self._active.response_complete)


class _Polite:
    """The transport as cycles see it.

    What is written first waits for what follows in the same turn of the loop: head and body of a short answer go out
    in one piece, which wakes the client once.
    """

    __slots__ = ("_head", "_protocol")

    def __init__(self, protocol: LimitedProtocol) -> None:
        self._protocol = protocol
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head or len(data) > _SHORT_BYTES:
            self.flush(data)
        elif data:
            self._head = data
            self._protocol.loop.call_soon(self.flush)

    def flush(self, more: bytes = b"") -> None:
        """Send what waits, and this behind it."""
        head, self._head = self._head, b""
        transport = self._protocol.transport
        if transport.is_closing():
            return
        if len(more) > _SHORT_BYTES:
            if head:
                transport.write(head)
            transport.write(more)
        elif head or more:
            transport.write(head + more)

    def is_closing(self) -> bool:
        return bool(self._protocol.transport.is_closing())

    def close(self) -> None:
        self.flush()
        self._protocol.close_after_answer()


def _refusal(why: Cut, settings: ServeSettings) -> ApiError:
    if why == "connections":
        message = (
            f"More than {settings.connections:,} connections are open. Keep some of yours and use them again."
        )
        return _api_error(503, message, headers={"Retry-After": "1"})
    if why in {"headers", "body"}:
        seconds = settings.header_s if why == "headers" else settings.body_s
        return _api_error(408, f"The request's {why} did not come within {seconds:g} seconds.")
    if why == "header_bytes":
        return _api_error(431, f"Request line and headers are longer than {HEAD_BYTES:,} bytes.")
    if why == "pipeline":
        return _api_error(400, f"More than {PIPELINED} requests at once on one connection; wait for answers.")
    return _api_error(400, "This is no HTTP/1.1 request that could be understood.")


def _api_error(status: int, message: str, headers: dict[str, str] | None = None) -> ApiError:
    kind = "server_error" if status == 503 else "invalid_request_error"
    return ApiError(status, message, type=kind, code=_KINDS.get(status, "bad_request"), headers=headers)


def _answer(error: ApiError, defaults: list[tuple[bytes, bytes]]) -> bytes:
    """An answer in bytes, for clients that never reached the application."""
    body = orjson.dumps(error.body())
    lines = [STATUS_LINE[error.status]]
    lines += [b"%b: %b\r\n" % header for header in defaults]
    lines += [f"{name.lower()}: {value}\r\n".encode() for name, value in error.headers.items()]
    lines.append(
        b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    )
    return b"".join([*lines, body])
