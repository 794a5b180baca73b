"""Processes that embed over a provider whose memory is a file, and die where they are told to.

`python -m tests.acceptance.lanes_child` reads one order a line (JSON) and answers each with a line: it forks, so that a
process starts in milliseconds, and every order is a process of its own that SIGKILL ends. The provider writes down all
that is asked of it before it answers, in a SQLite file that outlives everyone: it is the judge.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import json
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fake_provider import facts, vector

from embatch.engine.lanes.clock import Clock
from embatch.engine.window import text_digest
from embatch.errors import GoalError, ProviderError
from embatch.frontends.embedder import Embedder
from embatch.frontends.jobs import EmbedJob
from embatch.frontends.remote import LaneSettings, RemoteModel
from embatch.remote import (
    CallAnswer,
    CallLimits,
    ErrorKind,
    Goal,
    JobLimits,
    JobRef,
    JobRow,
    JobState,
    JobView,
)
from embatch.storage.journal import RunJournal
from embatch.storage.ledger import Ledger
from embatch.storage.sinks.jsonl import JsonlSink
from embatch.storage.sources import open_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from embatch.remote import GenerateWork, ModelFacts, Work

CALL_ITEMS, JOB_ITEMS, PARALLEL = 4, 15, 2
POISON, SHY = "poison", "shy"
"""Texts that begin so are refused always, or have no row in the first job that they are in."""
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY, passed INTEGER);
    CREATE TABLE IF NOT EXISTS called (run INTEGER, call INTEGER, text TEXT);
    CREATE TABLE IF NOT EXISTS kept (run INTEGER, digest TEXT);
    CREATE TABLE IF NOT EXISTS jobs (
        number INTEGER PRIMARY KEY, run INTEGER, tag TEXT UNIQUE, polls INTEGER DEFAULT 0, cleaned INTEGER DEFAULT 0
    );
    CREATE TABLE IF NOT EXISTS job_rows (job INTEGER, key TEXT, text TEXT, gives INTEGER);
"""
PRICE = 2e-6
"""Dollars of a token by calls; half of it in jobs."""
BROKE = GoalError.exit_code
"""How a run ends whose budget is used up."""
_LIMIT_S = 30.0
_PRELOADED = ("pyarrow.compute", "embatch.frontends.remote_host")
"""What a run imports on its way: once, before the forks."""


def tokens_of(text: str) -> int:
    """What this provider bills for a text: now and then more than anybody would expect."""
    return 2 + (len(text) + text.encode()[-1]) % 2


class Judge:
    """What happened, in a file that a killed process cannot take back."""

    def __init__(self, folder: Path) -> None:
        self.lock = threading.RLock()
        self.connection = sqlite3.connect(
            folder / "judge.sqlite", isolation_level=None, check_same_thread=False, timeout=10
        )
        self.connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;" + _SCHEMA)
        self.connection.execute("INSERT INTO runs DEFAULT VALUES")
        (self.run,) = self.connection.execute("SELECT max(number) FROM runs").fetchone()

    def write(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """One transaction."""
        with self.lock:
            self.connection.execute("BEGIN")
            self.connection.executemany(statement, rows)
            self.connection.execute("COMMIT")

    def one(self, question: str, *values: object) -> Any:
        """The first column of the first row; None if there is none."""
        with self.lock:
            row = self.connection.execute(question, values).fetchone()
        return None if row is None else row[0]


class DurableProvider:
    """A provider that lives in a judge's file, and is not quite reliable."""

    name = "gemini"
    account = "00000000"

    def __init__(self, judge: Judge, boundary: Callable[[], None]) -> None:
        self.facts: ModelFacts = facts(
            call=CallLimits(items=CALL_ITEMS, item_tokens=100),
            job=JobLimits(items=JOB_ITEMS, partial=True),
        )
        self._judge = judge
        self._boundary = boundary
        self._asked = 0

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One synchronous request: billed before it is answered."""
        with self._judge.lock:
            self._asked += 1
            asked = self._asked
        if asked % 6 == 0:
            raise ProviderError("busy", kind=ErrorKind.OVERLOADED)
        if any(text.startswith(POISON) for text in texts):
            raise ProviderError("not these", kind=ErrorKind.BAD_INPUT)
        run = self._judge.run
        self._judge.write("INSERT INTO called VALUES (?, ?, ?)", [(run, asked, text) for text in texts])
        return CallAnswer(results=[vector(text) for text in texts], tokens=sum(map(tokens_of, texts)))

    def stream(self, text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        """It does not generate."""
        raise NotImplementedError

    def submit(self, items: Iterable[tuple[str, str]], work: Work, *, tag: str) -> JobRef:
        """A job; every second reply is lost."""
        rows = list(items)
        judge = self._judge
        with judge.lock:
            number = (judge.one("SELECT max(number) FROM jobs") or 0) + 1
            known = "SELECT 1 FROM job_rows WHERE key = ?"
            gives = [
                0 if text.startswith(POISON) or (text.startswith(SHY) and not judge.one(known, key)) else 1
                for key, text in rows
            ]
            judge.connection.execute("BEGIN")
            judge.connection.execute(
                "INSERT INTO jobs (number, run, tag) VALUES (?, ?, ?)", (number, judge.run, tag)
            )
            judge.connection.executemany(
                "INSERT INTO job_rows VALUES (?, ?, ?, ?)",
                [(number, key, text, gave) for (key, text), gave in zip(rows, gives, strict=True)],
            )
            judge.connection.execute("COMMIT")
        if number % 2 == 0:
            raise ProviderError("the reply was lost", kind=ErrorKind.CONNECTION)
        return JobRef(id=str(number), input_file="file")

    def poll(self, job: JobRef) -> JobView:
        """Done after the second look."""
        self._judge.write("UPDATE jobs SET polls = polls + 1 WHERE number = ?", [(int(job.id),)])
        polls = self._judge.one("SELECT polls FROM jobs WHERE number = ?", int(job.id))
        if polls is None:
            raise ProviderError(f"no job {job.id}", kind=ErrorKind.NOT_FOUND)
        return JobView(state=JobState.SUCCEEDED if polls > 2 else JobState.RUNNING)

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """The rows that this job gives, and an error for poison."""
        question = "SELECT key, text, gives FROM job_rows WHERE job = ?"
        with self._judge.lock:
            rows = self._judge.connection.execute(question, (int(job.id),)).fetchall()
        for number, (key, text, gives) in enumerate(rows):
            if number == JOB_ITEMS // 2:
                self._boundary()
            if gives:
                yield JobRow(key, vector(text), tokens_of(text))
            elif text.startswith(POISON):
                yield JobRow(key, ProviderError("not this", kind=ErrorKind.BAD_INPUT))

    def cancel(self, job: JobRef) -> None:
        """Nothing here is cancelled."""

    def find(self, tag: str) -> JobRef | None:
        """By its tag."""
        number = self._judge.one("SELECT number FROM jobs WHERE tag = ?", tag)
        return None if number is None else JobRef(id=str(number))

    def clean_up(self, job: JobRef) -> None:
        """Its files."""
        self._judge.write("UPDATE jobs SET cleaned = 1 WHERE number = ?", [(int(job.id),)])

    def close(self) -> None:
        """Nothing is open."""


class Killer:
    """Ends this process, as hard as can be, at the n-th boundary that any thread passes; 0: never."""

    def __init__(self, at: int) -> None:
        self.passed = 0
        self._at = at
        self._lock = threading.Lock()

    def boundary(self) -> None:
        """Here is one."""
        with self._lock:
            self.passed += 1
            if self.passed == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(10)  # the signal is on its way

    def guard(self, owner: type, *names: str) -> None:
        """Put a boundary before and after each of these methods."""
        for name in names:
            setattr(owner, name, self._guarded(getattr(owner, name)))

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def guarded(*args: Any, **options: Any) -> Any:
            self.boundary()
            result = method(*args, **options)
            self.boundary()
            return result

        return guarded


def settings(strategy: str, budget: float | None = None) -> LaneSettings:
    """What a run may use. In `auto`, time costs so little that jobs are worth it."""
    hour_worth = 1e-6 if strategy == "auto" else 0.1
    return LaneSettings(
        strategy=strategy,  # type: ignore[arg-type]  # a name, from an order
        goal=Goal(hour_worth=hour_worth, budget=budget),
        parallel=PARALLEL,
        head=12 if strategy == "hybrid" else 0,
        max_job_items=JOB_ITEMS,
    )


def embed(folder: Path, strategy: str, kill_at: int, budget: float | None) -> None:
    """What `embatch embed` does, over this provider."""
    os.environ["EMBATCH_CACHE"] = str(folder / "cache")
    judge, killer = Judge(folder), Killer(kill_at)
    put = RunJournal.put

    def put_and_tell(journal: RunJournal, digests: Sequence[bytes], vectors: Any) -> None:
        put(journal, digests, vectors)
        judge.write("INSERT INTO kept VALUES (?, ?)", [(judge.run, digest.hex()) for digest in digests])

    setattr(RunJournal, put.__name__, put_and_tell)  # this process is made for it
    killer.guard(RunJournal, "put", "finish", "close")
    killer.guard(JsonlSink, "write", "commit")
    killer.guard(DurableProvider, "call", "submit", "poll", "find", "clean_up")
    killer.guard(
        Ledger, "add", "take_call", "back", "done", "fail", "intend_job", "accept_job", "drop_job", "pend", "settle",
        "bill", "finish",
    )  # fmt: skip
    model = RemoteModel(
        DurableProvider(judge, killer.boundary), settings=settings(strategy, budget), clock=Clock(1000)
    )
    with Embedder(backend=model) as embedder:
        sources = open_sources([str(folder / "texts.jsonl")])
        EmbedJob(embedder, sources, folder / "out.jsonl").run()
        killer.boundary()  # all is told, and the process is about to end
    judge.write("UPDATE runs SET passed = ? WHERE number = ?", [(killer.passed, judge.run)])


def expected_key(text: str) -> str:
    """The key under which a job holds a text, and the journal its vector."""
    return text_digest(text).hex()


def _child(order: dict[str, Any]) -> None:
    folder = Path(order["folder"])
    code = 1
    stacks = (folder / "stacks.txt").open("w", encoding="utf-8")
    faulthandler.dump_traceback_later(_LIMIT_S - 5, file=stacks)  # a run that hangs shows where
    try:
        embed(folder, order["strategy"], order.get("kill_at", 0), order.get("budget"))
        code = 0
    except GoalError:
        code = BROKE
    except BaseException:  # noqa: BLE001  # whatever it is, the one who ordered reads it
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code)


def _attend(pid: int, kill_after_s: float | None) -> int:
    """Wait for a child, or kill it when its time has come; how it ended, negative for a signal."""
    started = time.monotonic()
    limit_s = _LIMIT_S if kill_after_s is None else kill_after_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - started > limit_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -signal.SIGKILL if kill_after_s is not None else -signal.SIGALRM
        time.sleep(0.0005)


def serve() -> None:
    """Carry out orders until there are no more."""
    for module in _PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        order = json.loads(line)
        started = time.monotonic()
        pid = os.fork()
        if not pid:
            _child(order)
        code = _attend(pid, order.get("kill_after_s"))
        print(json.dumps({"code": code, "seconds": time.monotonic() - started}), flush=True)  # noqa: T201  # the answer


if __name__ == "__main__":
    serve()
