"""The nouns of embatch, as frozen data.

Everything that flows *source → items → plan → batches → backend → sink* is one of these. This module holds no
behaviour beyond what a value can say about itself, and imports nothing of the package but its errors.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from embatch.errors import EmbatchError

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int32]

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
"""What the model computes in. `auto`: the fastest that keeps cosine ≥ 0.9999 to fp32 on this processor."""

Output = Literal["float32", "float16", "int8", "binary"]
"""What one number of a finished vector is stored as. `binary`: one bit per dimension, eight to a byte."""

Overlong = Literal["truncate", "pool", "error"]
"""What happens to a text longer than the model takes: cut it, average its windows by tokens, or refuse it."""

OnError = Literal["raise", "collect"]
"""Whether the first failed item ends the call, or failures are handed back beside the vectors."""

Role = Literal["document", "query"]
"""Which of a model's two prompts a text gets, where the model tells them apart."""


class CostRule(StrEnum):
    """How a backend's cost of one batch follows from its items' token counts."""

    PADDED = "padded"  # longest item × number of items: every row is padded to the longest
    PACKED = "packed"  # sum of the items: nothing is padded


class Item(NamedTuple):
    """One text to embed. A NamedTuple, not a dataclass: a run makes millions, and these cost a third."""

    key: str
    """Names the item in every output and error. Unique within a run unless the user's own ids are not."""
    text: str
    source: str = ""
    """Where it came from, for people: a path, `path:line`, or empty."""


class BadItem(NamedTuple):
    """A row of a source that has no usable text, and why. It flows with the items and keeps its place."""

    key: str
    error: EmbatchError
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call of a backend can take. `None` is no limit."""

    items: int | None = None
    """Most items in one call."""
    tokens: int | None = None
    """Most tokens in one call, counted by `cost`."""
    cost: CostRule = CostRule.PADDED
    budgets: tuple[int, int] = (64, 32_768)
    """Smallest and largest token budget that is worth trying on this device."""
    first_budget: int = 1024
    """Where tuning starts: the token budget that is usually best on this kind of device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything that changes a vector. Two specs with different fingerprints never mix in one index."""

    model: str
    """Canonical name, such as `sentence-transformers/all-MiniLM-L6-v2`, or a folder's name."""
    revision: str
    """What pins the weights: the first 16 hex digits of the SHA-256 of the weight file, or a version."""
    dimensions: int
    max_tokens: int
    """Longest text in tokens, special tokens included."""
    pooling: str = "mean"
    normalize: bool = True
    precision: str = "fp32"
    prompt: str = ""
    """What is put before each text, verbatim."""
    overlong: Overlong = "truncate"

    @property
    def fingerprint(self) -> str:
        """32 hex digits over every field: part of every cache key and of every stored table."""
        canonical = json.dumps(asdict(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """The spec as one line of JSON, fingerprint included, for a file's metadata."""
        return json.dumps({**asdict(self), "fingerprint": self.fingerprint}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The spec that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields.pop("fingerprint", None)
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Texts made ready for a backend, in the order they were given."""

    payloads: Sequence[object]
    """One entry a text, opaque outside the backend that made it; already cut to the model's limit."""
    lengths: IntArray
    """`(n,)`: tokens that will be computed for each text, special tokens included."""
    truncated: npt.NDArray[np.bool_]
    """`(n,)`: whether the text was longer than the model takes."""


@runtime_checkable
class Backend(Protocol):
    """A model on this machine. Thread-safe: up to `streams` calls of `embed` may run at once."""

    spec: ModelSpec
    """With an empty prompt and the model's own dimensions: the engine derives the rest."""
    limits: Limits
    streams: int
    """How many `embed` calls run side by side at full speed."""
    device: str
    """The device in words, part of the key of a tuning profile: `cpu AMD EPYC 9B45, 2 streams x 1 thread`."""
    prompts: Mapping[str, str]
    """The model's own prompts by name: `query`, `document`, and whatever else its configuration has."""

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """Tokens of each text, `prompt` put before it verbatim, cut to the model's limit.

        Args:
            texts: any number of non-empty strings that encode as UTF-8.
            prompt: put before each text before it is tokenised.
        """
        ...

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """Consecutive pieces of `text`, each within the model's limit with `prompt`; joined: the text."""
        ...

    def embed(self, payloads: Sequence[object]) -> FloatArray:
        """Vectors of one batch, `(n, dim)` float32 in the order given; `(0, dim)` for an empty batch.

        Raises:
            OutOfMemoryError: the batch does not fit; a smaller one may.
            BackendError: anything else that the engine under it reported.
        """
        ...

    def memory_used(self) -> float:
        """Share of the device's own memory in use, 0 to 1; 0.0 where the device has none of its own."""
        ...

    def close(self) -> None:
        """Give back what the model holds. Further calls of `embed` raise. Closing twice is allowed."""
        ...


@runtime_checkable
class TakesTokens(Protocol):
    """What a backend with a tokeniser can do as well."""

    def take_tokens(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """Token ids of the backend's own tokeniser as payloads: special tokens added where they lack, cut to the limit.

        Args:
            ids: any number of lists of ids.

        Raises:
            BadTokensError: a list is empty, or has an id that is not in the vocabulary.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailure:
    """One item that has no vector, and why."""

    row: int
    """Position in the input, from 0."""
    key: str
    error: EmbatchError
    source: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of the input, finished. Row `i` of `vectors` belongs to `items[i]`."""

    first_row: int
    items: Sequence[Item]
    vectors: FloatArray
    """`(len(items), dim)` float32; a failed item's row is NaN."""
    failures: Sequence[ItemFailure] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """What one batch did on a backend: what tuning learns from and reports show."""

    budget: int
    """Token budget that it was formed under."""
    items: int
    longest: int
    """Tokens of its longest item."""
    tokens: int
    """Tokens of all its items, padding not counted."""
    seconds: float
    out_of_memory: bool = False
    fresh: bool = True
    """False for a retry or a levelled rest: it says nothing about the budget."""


@dataclass(slots=True, kw_only=True)
class LaneReport:
    """Counts of a run over a provider. Grows while it runs."""

    strategy: str = "auto"
    run_id: str = ""
    """Names the run for `embatch runs`."""
    calls: int = 0
    """Synchronous requests sent."""
    calls_refused: int = 0
    """Of these, refused for a quota."""
    calls_failed: int = 0
    """Of these, failed in another way."""
    call_items: int = 0
    """Items that have their result from a call."""
    call_tokens: int = 0
    """Billed for calls."""
    call_dollars: float = 0.0
    jobs: int = 0
    """Asynchronous jobs submitted in this run."""
    jobs_attached: int = 0
    """Jobs of an interrupted run that were found again."""
    jobs_cancelled: int = 0
    job_items: int = 0
    """Items that have their result from a job."""
    job_tokens: int = 0
    """Billed for jobs."""
    job_dollars: float = 0.0
    estimated_tokens: int = 0
    """Of all billed tokens, those that the provider did not count."""
    earlier_dollars: float = 0.0
    """What the run had spent before it was interrupted; calls that were under way then count at their most."""
    priced: bool = True
    """Whether prices are known; else all dollars are 0."""
    isolated: int = 0
    """Calls split because something in them was refused."""
    cut: int = 0
    """Times that a text was cut because the provider refused it as too long, against the estimate of its tokens."""
    retried: int = 0
    """Items sent again after a fruitless attempt."""
    seconds: float = 0.0
    """Of driving, without reading and writing."""
    expected_seconds: float | None = None
    """Median of what was to be expected when the run began; None for a single text."""
    expected_dollars: float | None = None
    """The same of the price; None also where prices are not known."""
    saved_seconds: float | None = None
    """Against sending everything as jobs; None until the run has ended."""
    saved_dollars: float | None = None
    """Against sending everything by calls; None until the run has ended."""
    decisions: list[str] = field(default_factory=list)
    """What was decided and why, newest last, at most 100."""

    @property
    def dollars(self) -> float:
        """Spent on both lanes."""
        return self.call_dollars + self.job_dollars

    def decided(self, text: str) -> None:
        """Remember a decision."""
        self.decisions.append(text)
        del self.decisions[:-100]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for `--json` and logs."""
        numbers = {name: getattr(self, name) for name in self.__slots__}
        return {**numbers, "dollars": round(self.dollars, 8)}


@dataclass(slots=True, kw_only=True)
class Report:
    """What a run did. Grows while it runs; complete when it has ended."""

    items: int = 0
    """Rows read, failed ones included."""
    embedded: int = 0
    """Rows whose vector the backend computed in this run."""
    duplicates: int = 0
    """Rows that took the vector of an equal text seen earlier in the run."""
    cached: int = 0
    """Rows whose vector was already stored, by a cache or by an interrupted run."""
    truncated: int = 0
    """Rows whose text was longer than the model takes and was cut."""
    pooled: int = 0
    """Rows whose text was longer than the model takes and was averaged over windows."""
    failed: int = 0
    skipped: int = 0
    """Sources (files) that were passed over on purpose: binary, empty, ignored."""
    tokens: int = 0
    """Tokens computed, padding not counted."""
    padded_tokens: int = 0
    """Tokens computed, padding counted."""
    batches: int = 0
    splits: int = 0
    """Batches halved because they did not fit into memory."""
    seconds: float = 0.0
    """Wall time from the first item asked for to the last row handed over."""
    device_seconds: float = 0.0
    """Time inside the backend, summed over its streams."""
    budget: int = 0
    """Token budget in use at the end."""
    failures: list[ItemFailure] = field(default_factory=list)
    """The first failures, at most 1,000; `failed` counts all."""
    lanes: LaneReport | None = None
    """What was sent to a provider and what it cost; None for a model on this machine."""

    @property
    def padding(self) -> float:
        """Share of the computed tokens that was padding, 0 to 1."""
        return 1.0 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0

    @property
    def texts_per_s(self) -> float:
        """Rows per second of wall time."""
        return self.items / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Computed tokens per second of wall time."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The numbers, for `--json` and logs; failures as `{row, key, error, message}`."""
        numbers = {
            name: round(value, 6) if isinstance(value, float) else value
            for name in self.__slots__
            if name not in {"failures", "lanes"} and (value := getattr(self, name)) is not None
        }
        derived = {
            "padding": round(self.padding, 4),
            "texts_per_s": round(self.texts_per_s, 1),
            "tokens_per_s": round(self.tokens_per_s, 1),
        }
        failures = [
            {"row": f.row, "key": f.key, "error": type(f.error).__name__, "message": str(f.error)}
            for f in self.failures
        ]
        lanes = {} if self.lanes is None else {"lanes": self.lanes.to_dict()}
        return {**numbers, **derived, **lanes, "failures": failures}


class Sink(Protocol):
    """Where finished rows go. Nothing is visible under the target's name before `commit`."""

    def write(self, block: Block) -> None:
        """Append a block's rows that have a vector; failed rows are left to the error file."""
        ...

    def commit(self) -> None:
        """Make the output appear, whole, under its name: flush, sync, rename."""
        ...

    def abort(self) -> None:
        """Drop what was written. Never raises; after `commit` it does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort unless committed."""
        ...


class VectorStore(Protocol):
    """Vectors by content: what makes a repeated or resumed text free. Used from one thread at a time."""

    def get(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The stored vectors among those asked for, each `(dim,)` float32."""
        ...

    def put(self, digests: Sequence[bytes], vectors: FloatArray) -> None:
        """Store vectors `(n, dim)` under their digests, in one transaction; known digests are kept."""
        ...

    def close(self) -> None:
        """Release the store. Closing twice is allowed."""
        ...
