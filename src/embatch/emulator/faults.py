"""What can go wrong on the wire, by name, and the script that says when it does.

`FAULTS` names every kind with the operations it applies to, so that a test can run each of them, alone and in pairs.
How a kind looks on the wire is the business of the two providers' rooms and of `transmit`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from embatch.emulator.catalog import ProviderName

Operation = Literal[
    "embed",
    "generate",
    "stream",
    "create_job",
    "poll_job",
    "list_jobs",
    "cancel",
    "delete_job",
    "upload",
    "download",
    "get_file",
    "list_files",
    "delete_file",
]
Stage = Literal["refuse", "answer", "transport", "job", "cancel"]
"""Before anything is done; in the content of the answer; on its way; in the job that is created; in its cancelling."""

CALLS: tuple[Operation, ...] = ("embed", "generate", "stream")
ALL: tuple[Operation, ...] = (
    *CALLS,
    "create_job",
    "poll_job",
    "list_jobs",
    "cancel",
    "delete_job",
    "upload",
    "download",
    "get_file",
    "list_files",
    "delete_file",
)
BOTH: tuple[ProviderName, ...] = ("gemini", "openai")
_ONLY: dict[str, tuple[ProviderName, ...]] = {"gemini": ("gemini",), "openai": ("openai",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """One way to go wrong."""

    name: str
    stage: Stage
    operations: tuple[Operation, ...]
    says: str
    """What the client sees."""
    providers: tuple[ProviderName, ...] = BOTH
    delay: float | None = None
    """Virtual seconds that `Fault.delay` stands at unless it is said; None: it has no meaning here."""


def _kinds(stage: Stage, operations: tuple[Operation, ...], **says: str) -> list[FaultKind]:
    """Several kinds of one stage, described alike: `[gemini]` or `[openai]` in front, `[30 s]` as usual delay."""
    kinds: list[FaultKind] = []
    for name, text in says.items():
        provider: tuple[ProviderName, ...] = BOTH
        delay = None
        while text.startswith("["):
            mark, _, text = text[1:].partition("] ")  # noqa: PLW2901  # marks are taken off the text
            if mark in _ONLY:
                provider = _ONLY[mark]
            else:
                delay = float(mark.removesuffix(" s"))
        kinds.append(
            FaultKind(
                name=name, stage=stage, operations=operations, says=text, providers=provider, delay=delay
            )
        )
    return kinds


FAULTS: dict[str, FaultKind] = {
    kind.name: kind
    for kind in [
        *_kinds(
            "refuse",
            ALL,
            rate_limit="[30 s] 429 that says how long to wait",
            rate_limit_bare="429 that does not say how long to wait",
            rate_limit_day="429: the quota of the day is used up",
            rate_limit_date="[20 s] 429 with Retry-After as a date",
            rate_limit_long="[600 s] 429 that asks to wait for more than two minutes",
            overloaded="503: the model is overloaded",
            internal="500",
            bad_gateway="502 with a page of HTML",
            gateway_timeout="504",
            request_timeout="408",
            unauthenticated="401",
            forbidden="403",
            not_found="404",
            status="the status that the fault names, with a plain error body",
            insufficient_quota="[openai] 429 that no waiting helps: no credit left",
            billing="[gemini] 400 FAILED_PRECONDITION: billing is not set up",
            reset_before="the connection is reset before anything is done",
        ),
        *_kinds("refuse", ("create_job",), enqueued_full="the queue of jobs is full, so that no job is made"),
        *_kinds(
            "answer",
            ("embed",),
            short_list="one vector is missing, at the end",
            long_list="one vector too many, at the end",
            empty_data="no vectors at all",
            shuffled="[openai] vectors out of order, with right indices",
            same_index="[openai] every vector has index 0",
            nan="one number of the first vector is NaN",
            null_value="one number of the first vector is null",
            wrong_dimension="the first vector is one number short",
            no_usage="no token counts",
        ),
        *_kinds("answer", ("generate", "stream"), empty_answer="an answer without any text"),
        *_kinds("answer", ("stream",), stream_error="an error in the middle of the stream"),
        *_kinds(
            "transport",
            ALL,
            reset_after="all is done and billed, but the reply is lost",
            stall="[600 s] the reply begins late",
            slow_body="[20 s] the body comes in pieces",
            cut_body="the body breaks off in the middle",
            wrong_content_type="the right body, declared to be HTML",
        ),
        *_kinds("transport", ("create_job",), create_lost="the job is made, but the reply is lost"),
        *_kinds(
            "job",
            ("create_job",),
            enqueued_late="the job is made, and fails since the queue is full",
            job_fails="the job as a whole fails",
            job_expires="[86400 s] the job stops half way and expires",
            job_stuck="the job waits until it expires",
            all_rows_bad="the job succeeds, and every row of it is an error",
            no_output="the job succeeds, and there is no output",
            row_transient="some rows fail with 503",
            row_nan="the first row's vector holds NaN",
            row_dimension="the first row's vector is one number short",
            rows_missing="some rows are not in the output",
            null_keys="the keys of all rows are null",
            duplicate_keys="one row is there twice, another not at all",
            truncated_jsonl="the output breaks off in the middle of a line",
            stale_running="[gemini] done is true, but the metadata say RUNNING",
            stale_succeeded="[gemini] the job failed with an error, but the metadata say SUCCEEDED",
            state_on_top="[gemini] the state stands at the top level, not in the metadata",
            error_details="[gemini] errors of rows carry details as objects",
            list_lag="[600 s] the new job is missing from lists for a while",
        ),
        *_kinds("cancel", ("cancel",), cancel_race="cancelling is accepted, but the job completes"),
    ]
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of the script: where, what, how often.

    Raises:
        ValueError: no such kind, or not one that `where` can have.
    """

    kind: str
    """A name of `FAULTS`."""
    where: Operation | None = None
    """None: whichever of its operations comes first."""
    times: int | None = None
    """How often in all. None: once, or for ever if `every` or `probability` is given."""
    every: int | None = None
    """Only each so-many-th request that fits."""
    probability: float | None = None
    """Only with this probability."""
    match: str | None = None
    """Only requests in which this text occurs: in a text to embed, a tag, a key, a name in the path."""
    status: int | None = None
    """HTTP status, for `status` and other refusals."""
    delay: float | None = None
    """Virtual seconds: to wait, to stall, to expire."""

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"there is no fault {self.kind!r}; there are {', '.join(sorted(FAULTS))}")
        operations = FAULTS[self.kind].operations
        if self.where is not None and self.where not in operations:
            raise ValueError(f"{self.kind!r} is nothing that {self.where!r} can have, but {operations!r}")
        for name, least in (("times", 1), ("every", 1), ("delay", 0), ("probability", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")

    @property
    def delay_s(self) -> float:
        """Virtual seconds, as said or as usual."""
        return (FAULTS[self.kind].delay or 0.0) if self.delay is None else self.delay


@dataclass(slots=True, eq=False)
class _Line:
    """A fault, and how often it came about."""

    fault: Fault
    seen: int = 0
    left: float = 0.0


class Script:
    """The faults to come.

    Args:
        provider: whose wire it is.
        seed: of the draws for `probability`.
    """

    def __init__(self, provider: ProviderName, seed: int) -> None:
        self._provider = provider
        self._draw = random.Random(f"{seed}:faults")  # noqa: S311  # a simulation
        self._lines: list[_Line] = []

    def add(self, fault: Fault) -> None:
        """Put one at the end.

        Raises:
            ValueError: this provider never does that.
        """
        if self._provider not in FAULTS[fault.kind].providers:
            raise ValueError(f"{fault.kind!r} is nothing that {self._provider} does")
        often = fault.every is not None or fault.probability is not None
        times = float("inf") if fault.times is None and often else float(fault.times or 1)
        self._lines.append(_Line(fault, left=times))

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._lines.clear()

    def take(self, operation: Operation, words: Callable[[], Iterable[str]]) -> list[Fault]:
        """The faults that this request meets, in the script's order; each counts as having come about.

        At most one refuses it, and at most one happens to the answer on its way; the others of these stay for later.

        Args:
            operation: what is asked for.
            words: texts of the request, for `match`; called only if they are needed.
        """
        refusals = [line for line in self._lines if FAULTS[line.fault.kind].stage == "refuse"]
        for line in refusals:
            if self._fits(line, operation, words):
                return [self._use(line)]
        taken: list[Fault] = []
        for line in [line for line in self._lines if line not in refusals]:
            is_transport = FAULTS[line.fault.kind].stage == "transport"
            if is_transport and any(FAULTS[fault.kind].stage == "transport" for fault in taken):
                continue
            if self._fits(line, operation, words):
                taken.append(self._use(line))
        return taken

    def _use(self, line: _Line) -> Fault:
        line.left -= 1
        if line.left <= 0:
            self._lines.remove(line)
        return line.fault

    def _fits(self, line: _Line, operation: Operation, words: Callable[[], Iterable[str]]) -> bool:
        fault = line.fault
        if operation not in ((fault.where,) if fault.where else FAULTS[fault.kind].operations):
            return False
        if fault.match is not None and not any(fault.match in word for word in words()):
            return False
        line.seen += 1
        if fault.every is not None and line.seen % fault.every:
            return False
        return fault.probability is None or self._draw.random() < fault.probability
