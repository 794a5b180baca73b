"""Doubles and helpers for a server's files and batch jobs: a model whose vectors tell which text they are of."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embatch.errors import EmbatchError, ItemBackendError, UnknownModelError
from embatch.frontends.server.jobs import Jobs
from embatch.frontends.server.settings import ServedModel, ServeSettings
from embatch.serving import Answer, Priority
from embatch.types import ItemFailure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from embatch.serving import Ask
    from embatch.storage.served_jobs import ServedJob

POISON = "POISON"
"""An ask with such an input fails as a whole, unless the double names failures singly."""
ENDPOINT = "/v1/embeddings"


def vector_of(text: object, dimensions: int = 4) -> np.ndarray[Any, Any]:
    """The double's vector of a text: another one for another text."""
    rng = np.random.default_rng(abs(hash(("vector", str(text)))) % 2**32)
    return rng.standard_normal(dimensions).astype(np.float32)


class FakeEmbedder:
    """Answers asks; counts how often each text was asked for.

    Attributes:
        troubles: errors that the next asks end with.
        gate: asks wait while it is closed.
        singly: names a poisoned input instead of failing the ask.
        fails: decides what becomes of an ask: an error, or None.
    """

    dimensions = 4

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.seen: Counter[str] = Counter()
        self.troubles: list[EmbatchError] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.singly = False
        self.alive = True
        self.fails: Callable[[Ask], EmbatchError | None] = lambda ask: None
        self.under_way = 0
        self.most_under_way = 0

    async def ask(self, ask: Ask) -> Answer:
        assert ask.priority is Priority.BATCH
        self.asks.append(ask)
        self.under_way += len(ask.inputs)
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way -= len(ask.inputs)
        error = self.troubles.pop(0) if self.troubles else self.fails(ask)
        bad = [place for place, each in enumerate(ask.inputs) if POISON in str(each)]
        if error is None and bad and not self.singly:
            error = ItemBackendError("poisoned")
        if error is not None:
            raise error
        self.seen.update(map(str, ask.inputs))
        dimensions = ask.dimensions or self.dimensions
        vectors = np.stack([vector_of(each, dimensions) for each in ask.inputs])
        vectors[bad] = np.nan
        failures = [ItemFailure(row=row, key=str(row), error=ItemBackendError("poisoned")) for row in bad]
        return Answer(vectors=vectors, tokens=sum(len(each) for each in ask.inputs), failures=failures)

    def snapshot(self) -> Any:
        return SimpleNamespace(alive=self.alive)


class FakePool:
    """One model, called `double`."""

    def __init__(self) -> None:
        self.embedder = FakeEmbedder()
        self.troubles: list[EmbatchError] = []

    @asynccontextmanager
    async def using(self, name: str | None = None) -> AsyncIterator[Any]:
        assert name == "double"
        if self.troubles:
            raise self.troubles.pop(0)
        yield self.embedder

    def name_of(self, name: str | None) -> str:
        if name != "double":
            raise UnknownModelError(f"no model {name!r}")
        return "double"

    def served(self, name: str | None) -> ServedModel:
        return ServedModel(name=self.name_of(name), model="hashing")


def line_of(custom_id: object, text: object, **body: object) -> bytes:
    """A line of an input file."""
    told = {"model": "double", "input": text, **body}
    line = {"custom_id": str(custom_id), "method": "POST", "url": ENDPOINT, "body": told}
    return json.dumps(line).encode() + b"\n"


def settings_of(folder: Path, **options: Any) -> ServeSettings:
    """A server's settings, its state in `folder`."""
    return ServeSettings(state=folder / "state", preload=False, **options)


class World:
    """Jobs with a double for a model, in a folder that outlives them."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.settings = settings_of(folder)
        self.pool = FakePool()
        self.now = 1_000_000.0
        self.options = options
        self.jobs = self._jobs()

    def _jobs(self) -> Jobs:
        return Jobs(self.settings, self.pool, clock=lambda: self.now, **self.options)

    async def again(self) -> None:
        """Stop, and start as a new process would."""
        await self.jobs.stop()
        await self.anew()

    async def anew(self) -> None:
        """Start as a new process would; what was before is dead."""
        self.jobs = self._jobs()
        await self.jobs.start()

    async def put(self, lines: Iterable[bytes], owner: str = "") -> str:
        """Keep a file."""
        served = await self.jobs.opened()
        with served.files.upload() as upload:
            upload.write(b"".join(lines))
            return upload.keep(
                owner=owner, purpose="batch", name="in.jsonl", created=self.now, expires=None
            ).id

    async def submit(self, lines: Iterable[bytes]) -> str:
        """Start a job over some lines."""
        name = await self.put(lines)
        job = await self.jobs.create(owner="", input_file=name, metadata=None, output_expires_s=None)
        return job.id

    async def look(self, name: str) -> ServedJob:
        """How a job stands."""
        served = await self.jobs.opened()
        job = served.jobs.find(name)
        assert job is not None
        return job

    async def wait(
        self, name: str, until: Callable[[ServedJob], bool] = lambda job: bool(job.ended)
    ) -> ServedJob:
        """Wait until a job stands so; until it has ended by default."""
        found: list[ServedJob] = []

        async def there() -> bool:
            found[:] = [await self.look(name)]
            return until(found[0])

        await wait_for(there)
        return found[0]

    async def outputs(self, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The lines of a job's output, and those of its errors."""
        job = await self.look(name)
        served = await self.jobs.opened()
        return (
            list(lines_in(served.folder.file(job.output_file))),
            list(lines_in(served.folder.file(job.error_file))),
        )


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so; it has 20 seconds."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  # what is waited for may be on disk, or in a log
            await asyncio.sleep(0.002)


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """As on a full disk: no file of this process grows beyond so many bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def lines_in(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file; none if there is no file."""
    if path.exists():
        yield from map(json.loads, path.read_bytes().splitlines())


def vectors_in(line: dict[str, Any]) -> list[Any]:
    """The vectors in a line of an output."""
    return [entry["embedding"] for entry in line["response"]["body"]["data"]]
