"""A form with a file, read as it comes: the file's bytes are handed on, in memory that does not grow with it.

The parser under it is python-multipart. What a form may have beside its file is little, and bounded.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from embatch.frontends.server.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

_PIECE_BYTES = 256 << 10  # handed on at once
_MOST_PARTS = 16
_FIELD_BYTES = 4096
_LEAST_BYTES_PER_S = 16_384
"""What comes slower, beyond the first pause, keeps a connection for nothing."""


class Form:
    """What a form held beside its file's bytes."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """None: there was no file."""


async def read_form(
    request: Request, write: Callable[[bytes], Awaitable[Any]], *, file_bytes: int, pause_s: float
) -> Form:
    """Read a form whose file is called `file`.

    Args:
        request: not read yet.
        write: takes the file's next bytes.
        file_bytes: longer files are refused.
        pause_s: the body may stand still for so long.

    Raises:
        ApiError: 400, no form, or one that makes no sense; 413, the file is too long; 408, it came too slowly.
        ClientDisconnect: the client went away.
    """
    reader = _Reader(_boundary(request), file_bytes)
    try:
        async for chunk in _chunks(request, pause_s):
            reader.feed(chunk)
            if len(reader.pieces) >= _PIECE_BYTES:
                await write(reader.taken())
        reader.finish()
    except FormParserError as error:
        raise ApiError(400, f"The form cannot be read: {error}", code="invalid_form") from error
    if reader.pieces:
        await write(reader.taken())
    return reader.form


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary: bytes = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(
            400, "Send the file as multipart/form-data, in a part called 'file'.", code="invalid_form"
        )
    return boundary


async def _chunks(request: Request, pause_s: float) -> AsyncIterator[bytes]:
    now = asyncio.get_running_loop().time
    begun, size, more = now(), 0, True
    while more:
        left_s = begun + pause_s + size / _LEAST_BYTES_PER_S - now()
        try:
            async with asyncio.timeout(min(pause_s, left_s)):
                message = await request.receive()
        except TimeoutError as error:
            raise ApiError(
                408,
                f"The file did not come: it stood still for {pause_s:g} seconds, or came too slowly.",
                code="body_timeout",
                headers={"Connection": "close"},
            ) from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        yield chunk


class _Reader:
    """Takes the form apart as its bytes come."""

    def __init__(self, boundary: bytes, file_bytes: int) -> None:
        self.form = Form()
        self.pieces = bytearray()
        self._most = file_bytes
        self._size = 0
        self._parts = 0
        self._field = b""
        self._value = b""
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._data = bytearray()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._take_field,
                "on_header_value": self._take_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._name_part,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        self._parser.write(chunk)

    def finish(self) -> None:
        """There are no more."""
        self._parser.finalize()
        if not self._ended:
            raise ApiError(400, "The form breaks off before its end.", code="invalid_form")

    def taken(self) -> bytes:
        """The file's bytes that were not handed on yet."""
        pieces = bytes(self.pieces)
        self.pieces.clear()
        return pieces

    # --- what the parser calls --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise ApiError(400, f"The form has more than {_MOST_PARTS} parts.", code="invalid_form")
        self._disposition = self._field = self._value = b""
        self._name, self._is_file = "", False
        self._data.clear()

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._field = _bounded(self._field + data[start:end])

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value = _bounded(self._value + data[start:end])

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _name_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self.form.filename is not None:
                raise ApiError(400, "Send one file at a time.", code="invalid_form", param="file")
            self._is_file = True
            self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._data = bytearray(_bounded(bytes(self._data) + data[start:end]))
            return
        self._size += end - start
        if self._size > self._most:
            message = f"The file is larger than the {self._most} bytes that are allowed."
            raise ApiError(413, message, code="file_too_large", param="file", headers={"Connection": "close"})
        self.pieces += data[start:end]

    def _end_part(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._data.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True


def _bounded(data: bytes) -> bytes:
    if len(data) > _FIELD_BYTES:
        raise ApiError(
            400, f"A header or field of the form has more than {_FIELD_BYTES} bytes.", code="invalid_form"
        )
    return data
