"""The servers under measurement: started on a free port of 127.0.0.1, waited for, watched, and stopped by process id.

All of them serve the same model files with OpenAI's request and answer, vectors in base64. Each runs in its own
environment, at its defaults but for what its `setting` says.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psutil

from benchmarks.environments import ENVIRONMENTS
from benchmarks.worker import REPOSITORY, WorkerError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

EMBATCH = "embatch serve"
INFINITY = "infinity"
PLAIN = "plain server"
_READY_S = 180.0
_STOP_S = 40.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """One way to serve the model."""

    name: str
    """How results and tables call it."""
    environment: str | None
    """Of its own, below `.venv-bench`; None is the harness's."""
    arguments: tuple[str, ...]
    """After the interpreter; `{port}` is filled in."""
    path: str
    """Where it takes requests for embeddings."""
    ready: str
    """Answers 200 once the model is loaded."""
    packages: tuple[str, ...]
    setting: str
    """What a reader must know to repeat it."""
    variables: dict[str, str] = field(default_factory=dict)

    def problem(self) -> str | None:
        """Why it cannot run here, or None."""
        return None if self.environment is None else ENVIRONMENTS[self.environment].problem()

    def python(self) -> str:
        """The interpreter that runs it."""
        return sys.executable if self.environment is None else str(ENVIRONMENTS[self.environment].python)


def embatch(model: Path, state: Path, *options: str) -> ServerKind:
    """embatch's own server."""
    words = ("serve", "--host", "127.0.0.1", "--port", "{port}", "--model", f"minilm={model}")
    shown = " ".join(options) or "its defaults"
    return ServerKind(
        name=EMBATCH,
        environment=None,
        arguments=("-m", "embatch", *words, "--state", str(state), *options),
        path="/v1/embeddings",
        ready="/ready",
        packages=("embatch", "starlette", "uvicorn", "openvino", "tokenizers", "numpy"),
        setting=f"`embatch serve`, {shown}; what it learns of batches it learns in the warm-up",
        variables={"EMBATCH_CACHE": str(state / "learned")},
    )


def module(name: str, *arguments: str, setting: str) -> ServerKind:
    """embatch's server, put together by a module of the benchmarks."""
    return ServerKind(
        name=EMBATCH,
        environment=None,
        arguments=("-m", name, "--port", "{port}", *arguments),
        path="/v1/embeddings",
        ready="/ready",
        packages=("embatch", "starlette", "uvicorn", "openvino", "tokenizers", "numpy"),
        setting=setting,
    )


def infinity(model: Path) -> ServerKind:
    """infinity's own server: the same engine and settings as in process."""
    words = ("v2", "--model-id", str(model), "--served-model-name", "minilm", "--host", "127.0.0.1")
    how = ("--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--log-level", "error")
    return ServerKind(
        name=INFINITY,
        environment="infinity",
        arguments=("-c", "from infinity_emb.cli import cli; cli()", *words, *how, "--port", "{port}"),
        path="/embeddings",
        ready="/health",
        packages=("infinity-emb", "sentence-transformers", "transformers", "torch", "fastapi", "uvicorn"),
        setting="`infinity_emb v2`, PyTorch, fp32, batch 32: its defaults",
        variables={"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
    )


def plain(model: Path) -> ServerKind:
    """One route around `SentenceTransformer.encode`."""
    return ServerKind(
        name=PLAIN,
        environment="st",
        arguments=("-m", "benchmarks.serving.plain", str(model), "{port}"),
        path="/v1/embeddings",
        ready="/health",
        packages=("sentence-transformers", "transformers", "torch", "fastapi", "uvicorn"),
        setting="FastAPI and uvicorn around `SentenceTransformer.encode`, fp32, one request at a time",
    )


class Server:
    """A server that runs while the block does."""

    def __init__(self, kind: ServerKind, work: Path) -> None:
        self.kind = kind
        self._work = work
        self._log = work / f"{kind.name.replace(' ', '-')}.log"
        self.port = 0
        self.stopped_in_s = 0.0
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        self.port = free_port()
        words = [self.kind.python(), *(one.replace("{port}", str(self.port)) for one in self.kind.arguments)]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                words,
                cwd=self._work,  # some leave caches where they are started
                env={**os.environ, **offline, **self.kind.variables},
                stdout=output,
                stderr=output,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        began = time.perf_counter()
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.exit_code = self._process.wait()
        self.stopped_in_s = time.perf_counter() - began

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of one request outside any measurement."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300.0)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """Processor seconds of the process and its children so far."""
        return sum(one.user + one.system for one in (each.cpu_times() for each in self._tree()))

    def memory_mib(self) -> float:
        """Resident memory of the process and its children."""
        return sum(each.memory_info().rss for each in self._tree()) / _MIB

    def last_words(self) -> str:
        """The end of what it printed."""
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "no output"

    def log_has(self, words: str) -> int:
        """How many lines of its output have these words."""
        return sum(words in line for line in self._log.read_text("utf-8", "replace").splitlines())

    def _tree(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            if not self.alive:
                raise WorkerError(f"{self.kind.name} ended: {self.last_words()}")
            try:
                if self.ask("GET", self.kind.ready)[0] == http.client.OK:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise WorkerError(f"{self.kind.name} was not ready in {_READY_S:.0f} s: {self.last_words()}")


class MemoryWatch:
    """Resident memory of a server, read now and then while the block runs."""

    def __init__(self, server: Server, every_s: float = 0.1) -> None:
        self._server = server
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.readings: list[tuple[float, float]] = []
        """Moments of the monotonic clock, and MiB."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak_mib(self) -> float:
        """The highest reading."""
        return max((mib for _, mib in self.readings), default=0.0)

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self.readings.append((time.perf_counter(), self._server.memory_mib()))
            except psutil.Error:  # a child ended between its listing and its reading
                continue


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def versions_of(kind: ServerKind) -> dict[str, str]:
    """Versions of what a server runs on, read in its own environment."""
    code = (
        "import json, sys\n"
        "from importlib import metadata\n"
        "found = {'python': '.'.join(map(str, sys.version_info[:3]))}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError: pass\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [kind.python(), "-c", code, *kind.packages], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
