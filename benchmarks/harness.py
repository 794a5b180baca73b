"""Keeps workers warm, interleaves their rounds, and checks that who waits does not work.

A round lets each system do each job once. The order of the systems rotates from round to round, so that no system
always runs after the same neighbour, and a pause after each turn lets spinning threads come to rest.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from benchmarks import texts
from benchmarks.worker import Worker, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from benchmarks.systems import System

_REST_S = 0.2  # longer than the spin loops of OpenMP and of ONNX Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every suite is told."""

    rounds: int
    quick: bool
    """A smoke run: small sets, few rounds, figures that mean nothing."""
    model: Path
    """Folder of the default model's files."""
    work: Path
    """Scratch folder of this run."""
    results: Path
    """Folder that results are recorded in."""
    machine: str | None = None
    """What this machine is called there, if its results are to stand beside those of another."""

    def scaled(self, count: int, quick: int) -> int:
        """How many texts or repetitions to use."""
        return quick if self.quick else count


class Stage:
    """The workers of a suite, opened together and ended together.

    Args:
        systems: who takes part. Those that cannot run here are kept in `problems`, by name.
        work: folder for text sets, vectors and logs.
    """

    def __init__(self, systems: Sequence[System], work: Path) -> None:
        self.systems = {system.name: system for system in systems}
        self.problems: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.load_s: dict[str, float] = {}
        self.idle_s: dict[str, float] = {}
        """Processor seconds that each worker used while another had its turn."""
        self._work = work
        self._workers: dict[str, Worker] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for name, system in self.systems.items():
            try:
                self._open(name, system)
            except WorkerError as error:
                self._drop(name, str(error))
        self.idle_s = dict.fromkeys(self._workers, 0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def names(self) -> list[str]:
        """Who can run."""
        return list(self._workers)

    def give(self, name: str, rows: list[str]) -> None:
        """Hand a set of texts to every worker."""
        path = self._work / f"{name}.json"
        path.write_text(json.dumps(rows), "utf-8")
        for system in self.names:
            self.attempt(system, lambda one: self.ask(one, "read", name=name, path=str(path)))

    def ask(self, system: str, do: str, **arguments: Any) -> dict[str, Any]:
        """One command to one worker; the others' processor time meanwhile is added to `idle_s`.

        Raises:
            WorkerError: the worker could not do it.
        """
        others = [name for name in self.names if name != system]
        before = {name: self._workers[name].cpu_s() for name in others}
        answer = self._workers[system].ask(do, **arguments)
        for name in others:
            self.idle_s[name] = self.idle_s.get(name, 0.0) + self._workers[name].cpu_s() - before[name]
        return answer

    def out(self, system: str, name: str) -> Path:
        """Where a system writes the vectors of a set."""
        return self._work / f"{system.replace(' ', '-')}.{name}.parquet"

    def embed(self, system: str, name: str, **arguments: Any) -> dict[str, Any]:
        """One timed pass of a system over a set."""
        answer = self.ask(system, "embed", name=name, out=str(self.out(system, name)), **arguments)
        time.sleep(_REST_S)
        return answer

    def attempt(self, system: str, job: Callable[[str], object]) -> None:
        """Do a job with a system if it is still there; if it fails, it leaves the stage, with its reason."""
        if system not in self._workers:
            return
        try:
            job(system)
        except WorkerError as error:
            self._drop(system, str(error))

    def _open(self, name: str, system: System) -> None:
        if (problem := system.problem()) is not None:
            self.problems[name] = problem
            return
        log = self._work / f"{name.replace(' ', '-')}.log"
        worker = Worker(system.python, f"benchmarks.workers.{system.worker}", log)
        self._workers[name] = self._stack.enter_context(worker)
        answer = worker.ask("load", options=system.options)
        self.load_s[name] = answer["seconds"]
        self.versions[name] = answer["versions"]

    def _drop(self, name: str, reason: str) -> None:
        self.problems[name] = reason
        self._workers.pop(name, None)
        print(f"  without {name}: {reason}", flush=True)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names, starting `turn` places later.

    >>> rotated(["a", "b", "c"], 1)
    ['b', 'c', 'a']
    """
    start = turn % len(names) if names else 0
    return [*names[start:], *names[:start]]


def turns(names: Sequence[str], jobs: Sequence[str], rounds: int) -> Iterator[tuple[int, str, str]]:
    """(round, job, system) for each turn: within a round and job the systems follow each other closely."""
    for number in range(rounds):
        for place, job in enumerate(jobs):
            for system in rotated(names, number + place):
                yield number, job, system


def make_sets(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """The sets of texts by name, each of the size asked for."""
    return {name: texts.SETS[name](size) for name, size in sizes.items()}
