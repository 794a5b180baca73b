"""A provider in memory that can fail: vectors depend on the text, and everything asked of it is counted."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embatch.errors import ProviderError
from embatch.remote import (
    CallAnswer,
    CallLimits,
    EmbedWork,
    ErrorKind,
    Generated,
    JobLimits,
    JobRef,
    JobRow,
    JobState,
    JobView,
    ModelFacts,
    Prices,
    RateLimits,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from embatch.remote import GenerateWork, Work
    from embatch.types import FloatArray

DIMENSIONS = 8


def vector(text: str) -> FloatArray:
    """What this provider answers for a text: unit length, and another one for every text."""
    digest = hashlib.blake2b(text.encode(), digest_size=2 * DIMENSIONS).digest()
    raw = np.frombuffer(digest, np.uint16).astype(np.float32) - np.float32(32_767.5)
    unit: FloatArray = raw / np.linalg.norm(raw)
    return unit


def facts(**changes: object) -> ModelFacts:
    """Facts of the fake model."""
    plain: dict[str, object] = {
        "provider": "gemini",
        "model": "fake",
        "dimensions": DIMENSIONS,
        "call": CallLimits(items=10, item_tokens=100),
        "job": JobLimits(items=1000, partial=True),
        "rates": RateLimits(),
        "prices": Prices(individual=2.0, batch=1.0),
    }
    return ModelFacts(**(plain | changes))  # type: ignore[arg-type]  # the fields above


@dataclass
class FakeJob:
    """A job as this provider knows it."""

    tag: str
    rows: list[tuple[str, str]]
    polls: int = 0
    downloads: int = 0
    cancelled: bool = False

    @property
    def texts(self) -> list[str]:
        """Of its rows."""
        return [text for _, text in self.rows]


@dataclass
class FakeProvider:
    """See the module.

    Args:
        before_call: sees the texts of a call before it is answered, and may raise.
        answer: sees the texts of a call and its good answer, and gives back what is answered instead.
        before_submit: may raise instead of a job being made.
        after_submit: may raise although the job was made: the reply that is lost.
        before_poll: sees the job that is asked for, and may raise.
        before_find: may raise.
        before_cancel: may raise.
        while_downloading: sees the job and how many of its rows were handed out, and may raise.
        spoil: sees each good row of a job and gives back what is handed out instead: any number of rows.
        polls_until_done: how often a job is looked at before it has ended.
        end_state: how jobs end.
        end_error: what a job that has ended says of it.
        without_results: jobs end without any row.
        after_cancel: the share of its rows that a cancelled job has.
    """

    facts: ModelFacts = field(default_factory=facts)
    before_call: Callable[[Sequence[str]], None] | None = None
    answer: Callable[[Sequence[str], CallAnswer], CallAnswer] | None = None
    before_submit: Callable[[], None] | None = None
    after_submit: Callable[[], None] | None = None
    before_poll: Callable[[FakeJob], None] | None = None
    before_find: Callable[[], None] | None = None
    before_cancel: Callable[[], None] | None = None
    while_downloading: Callable[[FakeJob, int], None] | None = None
    spoil: Callable[[JobRow], list[JobRow]] | None = None
    polls_until_done: int = 2
    end_state: JobState = JobState.SUCCEEDED
    end_error: ProviderError | None = None
    without_results: bool = False
    after_cancel: float = 0.0
    name: str = "gemini"
    account: str = "00000000"
    calls: list[list[str]] = field(default_factory=list)
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    cleaned: list[str] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def billed(self) -> Counter[str]:
        """How often each text was paid for."""
        counts = Counter(text for call in self.calls for text in call)
        for job in self.jobs.values():
            counts.update(text for _, text in job.rows)
        return counts

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One synchronous request."""
        if self.before_call is not None:
            self.before_call(texts)
        with self._lock:
            self.calls.append(list(texts))
        if isinstance(work, EmbedWork):
            answer = CallAnswer(results=[vector(work.prompt + text) for text in texts])
            return answer if self.answer is None else self.answer(texts, answer)
        return CallAnswer(results=[Generated(f"answer to {texts[0]}", 3, 5)])

    def stream(self, text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        """Pieces of an answer."""
        yield from f"answer to {text}".split()

    def submit(self, items: Iterable[tuple[str, str]], work: Work, *, tag: str) -> JobRef:
        """Start a job."""
        rows = list(items)
        if self.before_submit is not None:
            self.before_submit()
        with self._lock:
            name = f"jobs/{len(self.jobs) + 1}"
            self.jobs[name] = FakeJob(tag, rows)
        if self.after_submit is not None:
            self.after_submit()
        return JobRef(id=name)

    def poll(self, job: JobRef) -> JobView:
        """How it stands."""
        known = self._job(job)
        known.polls += 1
        if self.before_poll is not None:
            self.before_poll(known)
        if known.cancelled:
            return JobView(state=JobState.CANCELLED, total=len(known.rows))
        if known.polls > self.polls_until_done:
            count = len(known.rows)
            return JobView(state=self.end_state, total=count, completed=count, error=self.end_error)
        return JobView(state=JobState.RUNNING, total=len(known.rows), completed=0)

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """All rows."""
        known = self._job(job)
        known.downloads += 1
        if self.without_results:
            return
        count = int(len(known.rows) * self.after_cancel) if known.cancelled else len(known.rows)
        for number, (key, text) in enumerate(known.rows[:count]):
            if self.while_downloading is not None:
                self.while_downloading(known, number)
            row = JobRow(key, vector(text), 2)
            yield from [row] if self.spoil is None else self.spoil(row)

    def cancel(self, job: JobRef) -> None:
        """End it."""
        if self.before_cancel is not None:
            self.before_cancel()
        self._job(job).cancelled = True

    def find(self, tag: str) -> JobRef | None:
        """By its tag."""
        if self.before_find is not None:
            self.before_find()
        return next((JobRef(id=name) for name, job in self.jobs.items() if job.tag == tag), None)

    def clean_up(self, job: JobRef) -> None:
        """Delete its files."""
        self.cleaned.append(job.id)

    def close(self) -> None:
        """The end."""
        self.closed = True

    def _job(self, ref: JobRef) -> FakeJob:
        if ref.id not in self.jobs:
            raise ProviderError(f"no job {ref.id}", kind=ErrorKind.NOT_FOUND)
        return self.jobs[ref.id]
