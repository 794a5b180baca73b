"""Gemini's asynchronous jobs: `asyncBatchEmbedContent`, `batchGenerateContent`, and `batches/…` as operations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, Refused, as_json, dumps
from embatch.emulator.catalog import find_model
from embatch.emulator.gemini import errors, fields, results
from embatch.emulator.gemini.embedding import model_of, payload, piece_of
from embatch.emulator.gemini.files import find, when
from embatch.emulator.gemini.generation import prompt_of
from embatch.emulator.jobs import Job
from embatch.emulator.paging import page
from embatch.emulator.rows import Problem, Row

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import EmulatedModel, Verb

_WIRE = "type.googleapis.com/google.ai.generativelanguage.v1main."
_BATCH = {"embed": "EmbedContentBatch", "generate": "GenerateContentBatch"}
_WORDS = {
    "validating": "PENDING",
    "waiting": "PENDING",
    "running": "RUNNING",
    "finalizing": "RUNNING",
    "cancelling": "RUNNING",
    "succeeded": "SUCCEEDED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
    "expired": "EXPIRED",
}
_FAILED = {"code": 13, "message": "Internal error: the batch could not be processed."}
_FULL = {"code": 8, "message": "Resource has been exhausted (e.g. check quota)."}


def create_embed(call: Call) -> Answer:
    """`asyncBatchEmbedContent`."""
    return _create(call, "embed", fields.EMBED_BATCH)


def create_generate(call: Call) -> Answer:
    """`batchGenerateContent`."""
    return _create(call, "generate", fields.GENERATE_BATCH)


def _create(call: Call, verb: Verb, schema: Any) -> Answer:
    core = call.core
    model = model_of(call, verb)
    batch = payload(call, schema).get("batch") or {}
    config = batch.get("inputConfig") or {}
    name = config.get("fileName", "").removeprefix("files/")
    inline = (config.get("requests") or {}).get("requests") or []
    if bool(name) == bool(inline):
        raise errors.bad("batch.input_config: exactly one of `requests` and `file_name` must be set")
    job = Job(
        id=core.new_id("job", 32),
        provider="gemini",
        verb=verb,
        model=model.name,
        created=call.now,
        updated=call.now,
        expires=call.now,
        tag=batch.get("displayName", ""),
        source=name,
        priority=batch.get("priority", 0),
        quirks=call.quirks(),
    )
    content = f"{job.id}.rows"
    if name:
        source = find(_at(call, name))
        core.store.link(source.id, content)
    else:
        core.store.write(content, b"\n".join(dumps(_line(each)) for each in inline))
    rows = read_rows(job, core.store.path(content))
    _check(job, rows)
    with core.lock:
        _check_room(call, model, sum(row.tokens for row in rows))
        core.create_job(job, rows, call.now)
    return as_json(operation(call, job), seconds=core.control_s())


def _line(inline: dict[str, Any]) -> dict[str, Any]:
    """An inline request as a line of a file."""
    key = (inline.get("metadata") or {}).get("key")
    return {"request": inline.get("request") or {}} | ({} if key is None else {"key": key})


def _at(call: Call, name: str) -> Call:
    """The same call, with a file in its path."""
    call.path = {**call.path, "file": name}
    return call


def _check(job: Job, rows: list[Row]) -> None:
    """What is wrong with the whole job, or was scripted to be, is found only when it runs."""
    broken = [
        place for place, row in enumerate(rows, 1) if row.problem is not None and row.problem.status == 0
    ]
    if not rows:
        job.reason = {"code": 3, "message": "The input file has no requests."}
    elif broken:
        job.reason = {"code": 3, "message": f"Failed to parse line {broken[0]} of the input file as JSON."}
    elif job.quirks.keys() & {"job_fails", "stale_succeeded"}:
        job.reason = _FAILED
    elif "enqueued_late" in job.quirks:
        job.reason = _FULL


def _check_room(call: Call, model: EmulatedModel, tokens: int) -> None:
    """Refuse a job for which there is no room, as the API does: without saying which limit it is."""
    quotas = call.core.quotas
    if quotas.concurrent_jobs is not None and len(call.core.under_way(call.now)) >= quotas.concurrent_jobs:
        raise errors.queue_full()
    enqueued = sum(job.tokens for job in call.core.under_way(call.now, model.name))
    if quotas.enqueued_tokens is not None and enqueued + tokens > quotas.enqueued_tokens:
        raise errors.queue_full()


def read_rows(job: Job, path: Path) -> list[Row]:
    """A job's rows, from its lines. A line that is no JSON has a problem with status 0."""
    model = find_model(job.model)
    assert model is not None
    with path.open("rb") as stream:
        return [_row(line, job, model) for line in stream if line.strip()]


def _row(line: bytes, job: Job, model: EmulatedModel) -> Row:
    try:
        value = json.loads(line)
    except ValueError:
        return Row(None, problem=Problem(0, "no JSON"))
    key = value.get("key") if isinstance(value, dict) else None
    try:
        is_embed = job.verb == "embed"
        request = (
            fields.read(value, fields.EMBED_LINE if is_embed else fields.GENERATE_LINE).get("request") or {}
        )
        if request.get("model", job.model).removeprefix("models/") != job.model:
            raise errors.bad("request.model: model must match the model of the batch")
        if is_embed:
            return Row(key, pieces=(piece_of(request, model, "EmbedContentRequest"),))
        return Row(key, prompt=prompt_of(request, model, "GenerateContentRequest"))
    except Refused as refused:
        body = refused.answer.body
        assert isinstance(body, bytes)
        return Row(key, problem=Problem(refused.answer.status, json.loads(body)["error"]["message"]))


# --- what there is ---------------------------------------------------------------------------------------------------


def poll(call: Call) -> Answer:
    """One job."""
    return as_json(operation(call, _job(call)), seconds=call.core.control_s())


def list_all(call: Call) -> Answer:
    """Jobs, newest first, by pages."""
    found = call.core.jobs(call.now, hidden=False)[::-1]
    part, token = page(found, call.query.get("pageSize"), call.query.get("pageToken"), usual=50)
    body = {"operations": [operation(call, job, full=False) for job in part], "nextPageToken": token}
    return as_json({name: value for name, value in body.items() if value}, seconds=call.core.control_s())


def cancel(call: Call) -> Answer:
    """Ask for a job's end."""
    job = _job(call)
    if job.ended:
        raise errors.refused(
            400, f"Batch batches/{job.id} has ended and cannot be cancelled.", "FAILED_PRECONDITION"
        )
    job.quirks.update(call.quirks())
    call.core.cancel(job, call.now)
    return as_json({}, seconds=call.core.control_s())


def delete(call: Call) -> Answer:
    """Forget a job; it goes on all the same if it has not ended."""
    call.core.delete_job(_job(call))
    return as_json({}, seconds=call.core.control_s())


def _job(call: Call) -> Job:
    job = call.core.job(call.path["job"], call.now)
    if job is None:
        raise errors.refused(404, f"Requested entity was not found: batches/{call.path['job']}.")
    return job


def operation(call: Call, job: Job, *, full: bool = True) -> dict[str, Any]:
    """A job as a long-running operation. Lists leave out inline results."""
    state = f"BATCH_STATE_{_WORDS[job.state]}"
    done = job.ended
    output = _output(call, job) if job.state == "succeeded" and full else None
    if done and "stale_running" in job.quirks:
        state = "BATCH_STATE_RUNNING"
    if job.state == "failed" and "stale_succeeded" in job.quirks:
        state = "BATCH_STATE_SUCCEEDED"
    found: dict[str, Any] = {"name": f"batches/{job.id}", "metadata": _metadata(call, job), "done": done}
    (found if "state_on_top" in job.quirks else found["metadata"])["state"] = state
    if output is not None:
        found["metadata"]["output"] = output
        found["response"] = {"@type": f"{_WIRE}{_BATCH[job.verb]}Output", **output}
    if job.state == "failed":
        found["error"] = job.reason
    return found


def _metadata(call: Call, job: Job) -> dict[str, Any]:
    unix = call.core.unix
    moments = (job.created, job.running_at, job.finalizing_at, job.cancelling_at, job.ended_at)
    updated = max(moment for moment in moments if moment is not None)
    found: dict[str, Any] = {
        "@type": f"{_WIRE}{_BATCH[job.verb]}",
        "name": f"batches/{job.id}",
        "model": f"models/{job.model}",
        "displayName": job.tag,
        "createTime": when(unix(job.created)),
        "updateTime": when(unix(updated)),
        "batchStats": _stats(job),
    }
    if job.source:
        found["inputConfig"] = {"fileName": f"files/{job.source}"}
    if job.priority:
        found["priority"] = str(job.priority)
    if job.ended_at is not None:
        found["endTime"] = when(unix(job.ended_at))
    return found


def _stats(job: Job) -> dict[str, str]:
    good, bad = (job.good, job.bad) if job.ended else (job.completed, 0)
    return {
        "requestCount": str(job.rows),
        "successfulRequestCount": str(good),
        "failedRequestCount": str(bad),
        "pendingRequestCount": str(job.rows - good - bad),
    }


def _output(call: Call, job: Job) -> dict[str, Any] | None:
    if "no_output" in job.quirks:
        return None
    if job.output:
        return {"responsesFile": f"files/{job.output}"}
    inlined = [json.loads(line) for line in results.lines(call.core, job)]
    return {"inlinedResponses": {"inlinedResponses": inlined}}


def download(call: Call) -> Answer:
    """The results of a job that took its rows from a file."""
    file = find(call)
    job = next((job for job in call.core.jobs(call.now) if job.id == file.job), None)
    if job is None:
        raise errors.refused(400, "Only generated files can be downloaded.", "FAILED_PRECONDITION")
    return Answer(
        body=results.content(call.core, job), media="application/octet-stream", seconds=call.core.control_s()
    )
