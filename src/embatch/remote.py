"""The nouns of providers and lanes, as frozen data: what `types` is for models on this machine.

A *provider* is a model behind an API. Items reach it through two lanes: `individual` (synchronous calls, each packed
with as many texts as pays) and `batch` (the provider's asynchronous job). Money is in US dollars, time in seconds,
tokens are estimates until the provider has counted them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from embatch.errors import ProviderError
    from embatch.types import FloatArray

Lane = Literal["individual", "batch"]
"""One way through a provider."""

StrategyName = Literal["auto", "individual", "batch", "hybrid"]
"""Which lanes a run may use. `hybrid`: an urgent head by calls, the tail as jobs. `auto`: embatch decides."""

STRATEGIES: tuple[StrategyName, ...] = ("auto", "individual", "batch", "hybrid")


class ErrorKind(StrEnum):
    """What a provider's refusal means for the one who asked."""

    RATE_MINUTE = "rate_minute"  # a minute's quota is used up: wait
    RATE_DAY = "rate_day"  # a day's quota is used up: stop
    QUOTA_MONEY = "quota_money"  # no credit, or a spend cap: stop
    ENQUEUED_FULL = "enqueued_full"  # the queue of batch jobs is full: defer the job
    OVERLOADED = "overloaded"  # 5xx, "model is overloaded": wait and try again
    TIMEOUT = "timeout"  # no answer in time; it may have been processed
    CONNECTION = "connection"  # no connection, or one that broke; it may have been processed
    TOO_MANY_ITEMS = "too_many_items"  # more texts than one call or job takes: split, and remember
    TOO_MANY_TOKENS = (
        "too_many_tokens"  # more tokens or bytes than one call or job takes: split, and remember
    )
    INPUT_TOO_LONG = "input_too_long"  # one text is longer than the model takes
    BAD_INPUT = "bad_input"  # something in the request is refused: split until it stands alone
    AUTH = "auth"  # the key is missing, wrong, or may not do this: stop
    NOT_FOUND = "not_found"  # no such model, file or job
    PROTOCOL = "protocol"  # an answer that makes no sense: wrong count, cut off, no JSON

    @property
    def stops(self) -> bool:
        """Whether nothing sent in this run can succeed any more."""
        return self in {ErrorKind.RATE_DAY, ErrorKind.QUOTA_MONEY, ErrorKind.AUTH}

    @property
    def splits(self) -> bool:
        """Whether the same request must never be repeated unchanged."""
        return self in {
            ErrorKind.TOO_MANY_ITEMS,
            ErrorKind.TOO_MANY_TOKENS,
            ErrorKind.BAD_INPUT,
            ErrorKind.INPUT_TOO_LONG,
        }

    @property
    def waits(self) -> bool:
        """Whether the same request may succeed later."""
        return self in {
            ErrorKind.RATE_MINUTE,
            ErrorKind.ENQUEUED_FULL,
            ErrorKind.OVERLOADED,
            ErrorKind.TIMEOUT,
            ErrorKind.CONNECTION,
            ErrorKind.PROTOCOL,
        }

    @property
    def may_have_happened(self) -> bool:
        """Whether the provider may have carried the request out, and billed it, all the same."""
        return self in {ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.PROTOCOL}


class JobState(StrEnum):
    """Where a provider's asynchronous job stands, in one set of words for all providers."""

    SUBMITTED = "submitted"  # accepted, nothing more is known
    QUEUED = "queued"  # being validated, or waiting
    RUNNING = "running"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"  # says nothing about its rows
    PARTIAL = "partial"  # ended, and says itself that rows are missing
    FAILED = "failed"
    CANCELLED = "cancelled"  # may have partial results
    EXPIRED = "expired"  # may have partial results
    UNKNOWN = "unknown"  # a word that this version does not know: asked again later

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self in {
            JobState.SUCCEEDED,
            JobState.PARTIAL,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.EXPIRED,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """What one synchronous call takes. `None` is no limit, or none that is known."""

    items: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    """Of the request's body."""
    item_tokens: int = 8192
    """Longest text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What one asynchronous job, and all jobs together, may hold. `None` is no limit, or none that is known."""

    items: int | None = None
    bytes: int | None = None
    """Of the uploaded file."""
    concurrent: int | None = None
    """Jobs that may be under way at once."""
    enqueued_tokens: int | None = None
    """Tokens of all jobs under way together."""
    window_s: float = 86_400.0
    """What the provider aims at."""
    expires_s: float = 86_400.0
    """After which a job is given up."""
    partial: bool = False
    """Whether a job that expired or was cancelled keeps the results it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Quotas of a minute. `None`: not known; it is then learned from refusals."""

    requests: int | None = None
    items: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars per million tokens, as of a day."""

    individual: float
    batch: float
    output_individual: float = 0.0
    """Of generated tokens; embeddings have none."""
    output_batch: float = 0.0
    as_of: str = ""
    """ISO 8601 date of the price list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a provider's model: dated data, which a user may override."""

    provider: str
    """`gemini`, `openai` or `compatible`."""
    model: str
    """As the provider calls it."""
    dimensions: int
    """Of a full vector; 0 for a model that generates, or one whose vectors must be looked at to know."""
    min_dimensions: int | None = None
    """Fewest that may be asked for; None if the model knows one size only."""
    unit_length: bool = True
    """Whether vectors of full size come normalised."""
    unit_length_when_cut: bool = True
    """Whether vectors of fewer dimensions do; else embatch normalises them."""
    tasks: tuple[str, ...] = ()
    """Task types that the API takes as an argument."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Task → text put before each item, for models that want their task in the text."""
    truncates: bool = False
    """Whether the provider cuts texts that are too long, in silence; else it refuses them."""
    chars_per_token: float = 4.0
    """To begin with; corrected by what the provider counts."""
    output_tokens: int | None = None
    """Of the longest answer, for a model that generates; None: not known."""
    call: CallLimits = field(default_factory=CallLimits)
    job: JobLimits | None = None
    """None: this model has no asynchronous jobs."""
    rates: RateLimits = field(default_factory=RateLimits)
    prices: Prices | None = None
    """None: not known, so that no bill can be estimated."""
    as_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedWork:
    """What is asked for each text of a run: a vector."""

    model: str
    dimensions: int | None = None
    """None: as many as the model has."""
    task: str | None = None
    """The provider's own word, such as `RETRIEVAL_DOCUMENT`; None: not sent."""
    title: str | None = None
    prompt: str = ""
    """Put before each text, verbatim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateWork:
    """What is asked for each text of a run: an answer in text."""

    model: str
    system: str | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None


Work = EmbedWork | GenerateWork


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHints:
    """What an answer's headers say about quotas. `None`: not said."""

    requests_limit: int | None = None
    requests_remaining: int | None = None
    requests_reset_s: float | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    tokens_reset_s: float | None = None


class Generated(NamedTuple):
    """One generated answer."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """What a synchronous call gave back. Entry `i` of `results` belongs to text `i`."""

    results: Sequence[FloatArray | Generated | ProviderError]
    """A vector `(dim,)` float32 as the provider sent it, an answer, or why this one text has neither."""
    tokens: int | None = None
    """Input tokens that the provider counted; None if it does not say."""
    hints: LimitHints | None = None


class JobRow(NamedTuple):
    """One line of a job's results."""

    key: str | None
    """As it came back: it may be missing, unknown or there twice."""
    result: FloatArray | Generated | ProviderError
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRef:
    """What finds a job again: kept in the ledger."""

    id: str
    """The provider's own name for it."""
    input_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as the provider shows it."""

    state: JobState
    total: int | None = None
    completed: int | None = None
    """Rows done, failed ones included."""
    failed: int | None = None
    error: ProviderError | None = None
    """Why it failed, where the provider says so."""
    tokens: int | None = None
    """Billed, where the provider says so."""


URGENT = 5
"""Items of a hybrid run that go by calls at least, unless said otherwise: somebody waits for them."""

HURRY, NO_HURRY = 0.10, 0.01
"""Dollars an hour: of whoever sets a deadline, and of whoever sets no goal. At the second, some dozens of ordinary
texts are the border between calls and a job, and large piles go at the price of jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a run is for."""

    deadline_s: float | None = None
    """Seconds from the run's start within which everything should be done."""
    budget: float | None = None
    """Dollars that the run must not go over: hard."""
    hour_worth: float = -math.inf
    """Dollars that an hour of waiting for the run is worth; not given: `HURRY` with a deadline, else `NO_HURRY`."""
    probability: float = 0.9
    """With which the deadline is to be met."""

    def __post_init__(self) -> None:
        if self.hour_worth == -math.inf:
            object.__setattr__(self, "hour_worth", NO_HURRY if self.deadline_s is None else HURRY)


class Unit(NamedTuple):
    """One distinct text on its way through the lanes."""

    id: int
    digest: bytes
    text: str
    tokens: int
    """Estimated, as the facts say; not corrected."""
    size: int
    """Bytes in UTF-8."""
    attempts: int = 0
    """Fruitless ones that may have been this text's own fault."""

    @property
    def key(self) -> str:
        """What names it in a job: its content's digest, so that no answer can be taken for another text's."""
        return self.digest.hex()


class Waiting(NamedTuple):
    """How much waits to be sent."""

    items: int
    tokens: int


class LedgerJob(NamedTuple):
    """One job of a run, as the ledger knows it."""

    number: int
    tag: str
    items: int
    tokens: int
    intended: float
    """When the intent was written, in seconds that all processes share."""
    ref: JobRef | None = None
    """None: intended; whether the provider has it is not known."""
    accepted: float | None = None
    done: bool = False
    """Whether its results are in, or it will never have any."""
    state: str = "intended"


@runtime_checkable
class Provider(Protocol):
    """A model behind an API. Blocking; every method may be called from several threads at once.

    Every method raises `ProviderError`, and nothing else, when the provider refuses or cannot be reached. None
    retries: the engine does. None sends a key or token anywhere but to the provider.
    """

    name: str
    """`gemini`, `openai`, or `compatible`."""
    account: str
    """8 hex digits that stand for base URL, project and key: runs with the same share quotas."""
    facts: ModelFacts

    def call(self, texts: Sequence[str], work: Work, *, timeout_s: float) -> CallAnswer:
        """One synchronous request for all texts. Results are checked for count only."""
        ...

    def stream(self, text: str, work: GenerateWork, *, timeout_s: float) -> Iterator[str]:
        """Pieces of one generated answer as they come."""
        ...

    def submit(self, items: Iterable[tuple[str, str]], work: Work, *, tag: str) -> JobRef:
        """Start a job over (key, text) pairs. `tag` is at most 60 characters of [a-z0-9-], and finds it again.

        The items are read once, and need not fit into memory.

        Raises:
            ProviderError: with `may_have_happened`, the job may exist all the same: ask `find`.
        """
        ...

    def poll(self, job: JobRef) -> JobView:
        """How the job stands."""
        ...

    def results(self, job: JobRef) -> Iterator[JobRow]:
        """All rows that the job has, good and bad, in any order; nothing for a job without results."""
        ...

    def cancel(self, job: JobRef) -> None:
        """Ask for the job's end. A job that has ended already is no error."""
        ...

    def find(self, tag: str) -> JobRef | None:
        """The job with this tag, newest first if there are several; None if the provider has none."""
        ...

    def clean_up(self, job: JobRef) -> None:
        """Delete the files that the job used, where they can be. Never raises."""
        ...

    def close(self) -> None:
        """Give back connections. Closing twice is allowed."""
        ...
