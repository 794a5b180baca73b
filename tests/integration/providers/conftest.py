"""A server that answers as told and remembers what it was asked, for what the emulator does not speak."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Seen(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Scripted:
    """Replies in the order given, the last one for ever: (status, body, headers)."""

    url: str = ""
    replies: list[tuple[int, object, dict[str, str]]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def reply(self, status: int, body: object, **headers: str) -> None:
        """One more reply: text and bytes as they are, anything else as JSON; `_` in a header's name is `-`."""
        self.replies.append((status, body, {name.replace("_", "-"): v for name, v in headers.items()}))

    def next(self, request: Seen) -> tuple[int, object, dict[str, str]]:
        self.seen.append(request)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server on loopback for one test."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                body = raw
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, sent, more = script.next(Seen(self.command, self.path, headers, body))
            text = sent if isinstance(sent, (str, bytes)) else json.dumps(sent)
            content = text.encode() if isinstance(text, str) else text
            self.send_response(status)
            for name, value in {"content-type": "application/json", **more}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815  # the names that the library looks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    script.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield script
    http.shutdown()
    http.server_close()
    thread.join(5)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "GOOGLE_GEMINI_BASE_URL",
        "GOOGLE_GENAI_USE_VERTEXAI",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "EMBATCH_API_KEY",
        "EMBATCH_PROVIDER_FACTS",
    ):
        monkeypatch.delenv(name, raising=False)
