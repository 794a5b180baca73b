"""A backend that can fail: vectors derived from the text, calls counted, faults scripted.

It stands where a real backend stands, at the end of *source → items → plan → batches → backend*, and is
held to the same contract suite. It leaves out everything that a model is: a token is a word, and a vector is
a hash of the words kept.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embatch.errors import BackendClosedError, BackendError, OutOfMemoryError, UsageError
from embatch.types import CostRule, Limits, ModelSpec, Tokenized

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from embatch.types import FloatArray

SPECIAL_TOKENS = 2
"""Every text gets a beginning and an end, as with a BERT tokenizer."""


class FakePayload(NamedTuple):
    """One text as the double computes it: the words that were kept, and how many tokens they are."""

    text: str
    tokens: int


@dataclass(kw_only=True)
class Faults:
    """What goes wrong, and when. Texts are matched as substrings of the text with its prompt."""

    oom_above_tokens: int | None = None
    """A batch that costs more than this under the cost rule raises OutOfMemoryError."""
    nan_for: Collection[str] = ()
    """Texts that hold one of these get a vector of NaN."""
    raise_for: Collection[str] = ()
    """A batch that holds one of these raises BackendError: the whole batch, as an engine does."""
    fail_calls: Collection[int] = ()
    """Calls of `embed`, counted from 1, that raise BackendError whatever they hold."""
    rows_off: int = 0
    """Rows too many (positive) or too few (negative) in every answer."""
    columns_off: int = 0
    """Columns too many or too few in every answer."""
    delay_s: float = 0.0
    """How long every call takes at least."""
    before_embed: Callable[[list[str]], None] | None = None
    """Called with the batch's texts before anything else: may wait on an event, record, or raise."""


class Gate:
    """For `Faults.before_embed`: holds every call until it is opened, and says when one is held."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.open = threading.Event()

    def __call__(self, _: list[str]) -> None:
        self.held.set()
        assert self.open.wait(20), "nobody opened the gate"


@dataclass(kw_only=True)
class FakeBackend:
    """Implements `embatch.types.Backend` without a model; `batches` and `tokenized` say what it was asked."""

    dim: int = 8
    max_tokens: int = 64
    streams: int = 1
    cost: CostRule = CostRule.PADDED
    max_items: int | None = None
    max_batch_tokens: int | None = None
    budgets: tuple[int, int] = (16, 4096)
    first_budget: int = 256
    prompts: Mapping[str, str] = field(default_factory=lambda: {"query": "query: ", "document": ""})
    faults: Faults = field(default_factory=Faults)
    memory: float = 0.0
    """What `memory_used` answers; set it while a run goes on to put pressure on it."""
    device: str = "fake"
    batches: list[list[str]] = field(default_factory=list)
    """Texts of every batch that reached `embed`, failed ones included."""
    tokenized: list[str] = field(default_factory=list)
    """Every text that was tokenised, without its prompt."""
    most_at_once: int = 0
    """Most calls of `embed` that ran side by side."""
    closed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.spec = ModelSpec(
            model="fake", revision="1", dimensions=self.dim, max_tokens=self.max_tokens, precision="fp32"
        )
        self.limits = Limits(
            items=self.max_items,
            tokens=self.max_batch_tokens,
            cost=self.cost,
            budgets=self.budgets,
            first_budget=self.first_budget,
        )

    @property
    def calls(self) -> int:
        """How often `embed` was called."""
        return len(self.batches)

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        room = self.max_tokens - SPECIAL_TOKENS
        words = [(prompt + text).split() for text in texts]
        payloads = [FakePayload(" ".join(w[:room]), len(w[:room]) + SPECIAL_TOKENS) for w in words]
        with self._lock:
            self.tokenized.extend(texts)
        return Tokenized(
            payloads,
            np.array([p.tokens for p in payloads], np.int32),
            np.array([len(w) > room for w in words], np.bool_),
        )

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        room = self.max_tokens - SPECIAL_TOKENS - len(prompt.split())
        if room < 1:
            raise UsageError(f"the prompt leaves no room for text within {self.max_tokens} tokens")
        words = re.findall(r"\s*\S+(?:\s+$)?", text) or [text]
        return ["".join(words[at : at + room]) for at in range(0, len(words), room)]

    def embed(self, payloads: Sequence[object]) -> FloatArray:
        batch = [payload for payload in payloads if isinstance(payload, FakePayload)]
        assert len(batch) == len(payloads), "payloads of another backend"
        with self._lock:
            if self.closed:
                raise BackendClosedError("the fake backend is closed")
            self.batches.append([payload.text for payload in batch])
            call = len(self.batches)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            self._fail(call, batch)
            return self._answer(batch)
        finally:
            with self._lock:
                self._running -= 1

    def memory_used(self) -> float:
        return self.memory

    def close(self) -> None:
        self.closed = True

    def vector(self, text: str, *, prompt: str = "") -> FloatArray:
        """The `(dim,)` vector that `text` must come back with, whatever batch it was in."""
        payload = self.tokenize([text], prompt=prompt).payloads[0]
        assert isinstance(payload, FakePayload)
        with self._lock:
            self.tokenized.pop()
        return self._vector(payload.text)

    def _fail(self, call: int, batch: list[FakePayload]) -> None:
        faults = self.faults
        if faults.before_embed is not None:
            faults.before_embed([payload.text for payload in batch])
        if faults.delay_s:
            threading.Event().wait(faults.delay_s)
        if call in faults.fail_calls:
            raise BackendError(f"scripted failure of call {call}")
        for payload in batch:
            if any(part in payload.text for part in faults.raise_for):
                raise BackendError(f"scripted failure on {payload.text!r}")
        tokens = self._cost(batch)
        if faults.oom_above_tokens is not None and tokens > faults.oom_above_tokens:
            raise OutOfMemoryError(f"scripted: {tokens} tokens are more than {faults.oom_above_tokens}")

    def _cost(self, batch: list[FakePayload]) -> int:
        lengths = [payload.tokens for payload in batch]
        if self.cost is CostRule.PADDED:
            return max(lengths, default=0) * len(lengths)
        return sum(lengths)

    def _answer(self, batch: list[FakePayload]) -> FloatArray:
        vectors = np.empty((len(batch), self.dim), np.float32)
        for row, payload in enumerate(batch):
            poisoned = any(part in payload.text for part in self.faults.nan_for)
            vectors[row] = np.nan if poisoned else self._vector(payload.text)
        if not (self.faults.rows_off or self.faults.columns_off):
            return vectors
        shape = (max(len(batch) + self.faults.rows_off, 0), max(self.dim + self.faults.columns_off, 0))
        return np.resize(vectors, shape)

    def _vector(self, text: str) -> FloatArray:
        digest = hashlib.shake_256(text.encode()).digest(4 * self.dim)
        raw = np.frombuffer(digest, "<i4").astype(np.float32)
        vector: FloatArray = raw / np.linalg.norm(raw)
        return vector
