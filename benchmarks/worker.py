"""The harness's side of a worker: a process of another interpreter that answers one command at a time."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from types import TracebackType

REPOSITORY = Path(__file__).parent.parent
_PATIENCE_S = 900  # a peer that hangs is ended, and reported


class WorkerError(Exception):
    """The worker could not do what it was told, or died."""


class Worker:
    """A warm process around one system.

    Args:
        python: the interpreter of the system's environment.
        module: the worker's module, such as `benchmarks.workers.fastembed`.
        log: where the worker's own output goes, so that a failure can be read.
    """

    def __init__(self, python: Path, module: str, log: Path) -> None:
        self._log = log
        # Libraries that look for a hub would wait for a network that may not be there.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [python, "-m", module],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._usage = psutil.Process(self._process.pid)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            WorkerError: the worker answered with an error, or ended.
        """
        to, back = _pipe(self._process.stdin), _pipe(self._process.stdout)
        watchdog = threading.Timer(_PATIENCE_S, self._process.kill)
        watchdog.start()
        try:
            to.write(json.dumps({"do": do, **arguments}) + "\n")
            to.flush()
            line = back.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watchdog.cancel()
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def cpu_s(self) -> float:
        """Processor seconds that the worker has used so far."""
        times = self._usage.cpu_times()
        return times.user + times.system

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process; a worker that does not quit by itself is killed."""
        try:
            _pipe(self._process.stdin).write('{"do": "quit"}\n')
            _pipe(self._process.stdin).close()
            self._process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            _pipe(self._process.stdout).close()

    def _last_words(self) -> str:
        self._process.wait()
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return f"ended with code {self._process.returncode}: {lines[-1] if lines else 'no output'}"


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
