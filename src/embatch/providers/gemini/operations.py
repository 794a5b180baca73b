"""Gemini's long-running operations, read without trust: how a job stands, and where its results are.

An operation says the same things in several places that need not agree: `done`, `error` and `response` are its own,
`metadata` may be older. Sans I/O: JSON in, values out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from embatch.providers.gemini.errors import gemini_refusal, http_status
from embatch.providers.jsonl import count_of, table
from embatch.remote import JobState, JobView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The words after BATCH_STATE_ or JOB_STATE_: both are seen on the wire.
_STATES = {
    "PENDING": JobState.QUEUED,
    "QUEUED": JobState.QUEUED,
    "PAUSED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "UPDATING": JobState.RUNNING,
    "CANCELLING": JobState.CANCELLING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "PARTIALLY_SUCCEEDED": JobState.PARTIAL,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "EXPIRED": JobState.EXPIRED,
}
_CANCELLED = 499


class Outputs(NamedTuple):
    """Where a job's results are: in a file, in the operation itself, or nowhere."""

    file: str | None
    inlined: Sequence[Mapping[str, Any]]


def job_view(operation: Mapping[str, Any], who: str) -> JobView:
    """How a job stands.

    An `error` beats whatever state stands beside it; `done` beats a state that has not ended.
    """
    metadata = table(operation.get("metadata"))
    stats = table(metadata.get("batchStats")) or table(operation.get("batchStats"))
    good = count_of(stats.get("successfulRequestCount"))
    failed = count_of(stats.get("failedRequestCount"))
    completed = None if good is None and failed is None else (good or 0) + (failed or 0)
    error = table(operation.get("error"))
    state = _state(operation, metadata, error)
    return JobView(
        state=state,
        total=count_of(stats.get("requestCount")),
        completed=completed,
        failed=failed,
        error=gemini_refusal(error, f"{who}: the job failed", creating_job=True) if error else None,
    )


def _state(operation: Mapping[str, Any], metadata: Mapping[str, Any], error: Mapping[str, Any]) -> JobState:
    word = str(metadata.get("state") or operation.get("state") or "")
    state = _STATES.get(word.removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_"), JobState.UNKNOWN)
    if not word:
        state = JobState.SUBMITTED
    if error:
        if state in {JobState.CANCELLED, JobState.EXPIRED}:
            return state
        return JobState.CANCELLED if http_status(error) == _CANCELLED else JobState.FAILED
    if operation.get("done") is True and not state.terminal:
        return JobState.SUCCEEDED
    return state


def outputs(operation: Mapping[str, Any]) -> Outputs:
    """Where an operation says that results are; a good job may well have none."""
    metadata = table(operation.get("metadata"))
    for said in (operation.get("response"), metadata.get("output"), operation.get("output")):
        place = table(table(said).get("output")) or table(said)
        if isinstance(file := place.get("responsesFile"), str) and file:
            return Outputs(file, ())
        for name in ("inlinedResponses", "inlinedEmbedContentResponses"):
            inlined = place.get(name)
            inlined = inlined.get("inlinedResponses") if isinstance(inlined, dict) else inlined
            if isinstance(inlined, list) and inlined:
                return Outputs(None, [table(row) for row in inlined])
    return Outputs(None, ())


def input_file(operation: Mapping[str, Any]) -> str | None:
    """The file that a job was made from, where the operation says it."""
    config = table(table(operation.get("metadata")).get("inputConfig"))
    name = config.get("fileName") or config.get("file_name")
    return name if isinstance(name, str) and name else None


def display_name(operation: Mapping[str, Any]) -> str | None:
    """The tag that a job was given."""
    metadata = table(operation.get("metadata"))
    name = metadata.get("displayName") or metadata.get("display_name") or operation.get("displayName")
    return name if isinstance(name, str) else None


def created(operation: Mapping[str, Any]) -> str:
    """When a job was made, in a form that sorts by time; empty if it is not said."""
    return str(table(operation.get("metadata")).get("createTime") or "")
