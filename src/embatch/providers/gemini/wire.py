"""Raw requests of the Gemini Developer API, for what google-genai drops or breaks: vectors, jobs, files, results.

As of 3.4, the SDK has no limit for the time of a whole answer, loses a call of 100 vectors to one bad number, hides why
a job failed, cannot read jobs with failed rows, and waits and repeats inside an upload. These requests go through the
HTTP client of the very SDK client that was opened or brought, so proxies, certificates and headers are the same; each
with a time limit, and never twice.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from embatch.providers.gemini.errors import gemini_error, gemini_refusal
from embatch.providers.jsonl import disk_errors, table
from embatch.providers.refusals import in_our_words, refusal
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embatch.errors import ProviderError

CONNECT_S = 10.0
CONTROL_S = 60.0
"""For one small request: creating, polling, listing, cancelling, deleting."""
STALL_S = 60.0
"""Between two pieces of a file on its way."""
TRANSFER_S = 3600.0
"""For a whole file."""
_CHUNK_BYTES = 8 * 1024 * 1024
_MOST_ANSWER_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One request."""

    method: str
    url: str
    who: str
    """What is done, for messages."""
    content: bytes | None = None
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    with_key: bool = True
    items: int = 1
    """Texts in it."""
    creates_job: bool = False
    timeout_s: float = STALL_S
    """To wait for the next piece of the answer."""


class Wire:
    """The Developer API as paths and JSON.

    Args:
        client: a `google.genai.Client`; its owner closes it.
        secrets: what no message may tell.
    """

    def __init__(self, client: Any, *, secrets: Sequence[str]) -> None:
        # The client tells its address, key and HTTP client in no public way.
        api = client._api_client  # noqa: SLF001  # reason above
        options = api._http_options  # noqa: SLF001  # reason above
        self._http: Any = api._httpx_client  # noqa: SLF001  # reason above
        self._base = str(options.base_url).rstrip("/")
        self._version = str(options.api_version)
        self._headers = {str(name): str(value) for name, value in (options.headers or {}).items()}
        self._secrets = secrets

    def ask(
        self,
        method: str,
        path: str,
        who: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        items: int = 1,
        timeout_s: float = CONTROL_S,
    ) -> Mapping[str, Any]:
        """One request of JSON; the object that is its answer.

        Args:
            method: of HTTP.
            path: below the version, such as `batches/abc`.
            who: what is done, for messages.
            body: JSON to send.
            params: of the query.
            items: texts in the request.
            timeout_s: for the answer's beginning, and again for all of it.

        Raises:
            ProviderError: refused, unreachable, too slow, or no JSON object.
        """
        asked = _Asked(
            method=method,
            url=self._url(path),
            who=who,
            content=None if body is None else json.dumps(body).encode(),
            params=params,
            items=items,
            creates_job="batch" in (body or ()),
            timeout_s=timeout_s,
        )
        with self._answer(asked) as response:
            return self._object(response, who, timeout_s)

    def download(self, name: str, who: str, to: IO[bytes]) -> None:
        """Write a whole file to `to`, which is at its start afterwards."""
        ends = time.monotonic() + TRANSFER_S
        url = f"{self._url(name)}:download"
        asked = _Asked(method="GET", url=url, who=who, params={"alt": "media"})
        with self._answer(asked) as response:
            for piece in response.iter_bytes():
                with disk_errors():
                    to.write(piece)
                _in_time(ends, who)
        with disk_errors():
            to.seek(0)

    def upload(self, file: IO[bytes], tag: str, who: str) -> str:
        """Upload a file by the resumable protocol; its name, such as `files/abc`.

        The key goes with the first leg only: the second goes where the first one's answer says.
        """
        size_bytes = file.seek(0, 2)
        file.seek(0)
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size_bytes),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        about = {"file": {"display_name": tag, "mime_type": "jsonl", "size_bytes": size_bytes}}
        url = f"{self._base}/upload/{self._version}/files"
        asked = _Asked(method="POST", url=url, who=who, content=json.dumps(about).encode(), headers=headers)
        with self._answer(asked) as response:
            target = response.headers.get("x-goog-upload-url")
            response.read()
        if not target:
            raise refusal(who, "no address to upload to", kind=ErrorKind.PROTOCOL)
        name = table(self._send_chunks(file, size_bytes, target, who).get("file")).get("name")
        if not isinstance(name, str) or not name:
            raise refusal(who, "an uploaded file without a name", kind=ErrorKind.PROTOCOL)
        return name

    def _send_chunks(self, file: IO[bytes], size_bytes: int, target: str, who: str) -> Mapping[str, Any]:
        offset = 0
        ends = time.monotonic() + TRANSFER_S
        while True:
            chunk = file.read(_CHUNK_BYTES)
            last = offset + len(chunk) >= size_bytes
            headers = {
                "X-Goog-Upload-Command": "upload, finalize" if last else "upload",
                "X-Goog-Upload-Offset": str(offset),
            }
            asked = _Asked(method="POST", url=target, who=who, content=chunk, headers=headers, with_key=False)
            with self._answer(asked) as response:
                status = response.headers.get("x-goog-upload-status")
                if last and status == "final":
                    return self._object(response, who, CONTROL_S)
                response.read()
            if last or status != "active":
                raise refusal(who, f"the upload ended as {status or 'nothing'}", kind=ErrorKind.PROTOCOL)
            offset += len(chunk)
            _in_time(ends, who)

    def _url(self, path: str) -> str:
        return f"{self._base}/{self._version}/{quote(path, safe='/:')}"

    @contextmanager
    def _answer(self, asked: _Asked) -> Iterator[Any]:
        """A good answer, its body still to be read within; anything else is raised as a `ProviderError`."""

        def mapped(error: Exception) -> ProviderError:
            return gemini_error(
                error, asked.who, items=asked.items, creating_job=asked.creates_job, secrets=self._secrets
            )

        with in_our_words(mapped, self._secrets), ExitStack() as opened:
            connect_s = min(CONNECT_S, asked.timeout_s)
            request = self._http.build_request(
                asked.method,
                asked.url,
                content=asked.content,
                params=asked.params,
                headers={**(self._headers if asked.with_key else {}), **asked.headers},
                timeout=(connect_s, asked.timeout_s, asked.timeout_s, connect_s),
            )
            response = self._http.send(request, stream=True)
            opened.callback(response.close)
            if response.status_code != 200:
                raise self._refused(response, asked)
            yield response

    def _refused(self, response: Any, asked: _Asked) -> ProviderError:
        response.read()
        try:
            body = json.loads(response.content)
        except ValueError:
            body = response.text
        return gemini_refusal(
            body,
            asked.who,
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            items=asked.items,
            creating_job=asked.creates_job,
            secrets=self._secrets,
        )

    def _object(self, response: Any, who: str, timeout_s: float) -> Mapping[str, Any]:
        ends = time.monotonic() + timeout_s
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            _in_time(ends, who)
            if len(body) > _MOST_ANSWER_BYTES:
                raise refusal(who, "an answer without an end", kind=ErrorKind.PROTOCOL)
        try:
            value = json.loads(body or b"{}")
        except ValueError as error:
            words = bytes(body[:400]).decode("utf-8", "replace")
            raise refusal(who, f"no JSON: {words}", kind=ErrorKind.PROTOCOL, secrets=self._secrets) from error
        if not isinstance(value, dict):
            raise refusal(who, "an answer that is no JSON object", kind=ErrorKind.PROTOCOL)
        return value


def _in_time(ends: float, who: str) -> None:
    if time.monotonic() > ends:
        raise refusal(who, "the answer does not come to an end", kind=ErrorKind.TIMEOUT)
