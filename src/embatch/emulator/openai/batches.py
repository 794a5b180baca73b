"""OpenAI's asynchronous jobs: `/v1/batches`, its checks of an input file, and the objects that it shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import Answer, Refused, as_json
from embatch.emulator.catalog import find_model
from embatch.emulator.jobs import Job
from embatch.emulator.openai import errors, results
from embatch.emulator.openai.chat import prompt_of
from embatch.emulator.openai.embedding import check_fields, payload, pieces_of
from embatch.emulator.openai.files import find, listed
from embatch.emulator.rows import Problem, Row

if TYPE_CHECKING:
    from pathlib import Path

    from embatch.emulator.answers import Call
    from embatch.emulator.catalog import Verb

_ENDPOINTS: dict[str, Verb] = {"/v1/embeddings": "embed", "/v1/chat/completions": "generate"}
_FIELDS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"})
_MOST_PAIRS, _MOST_NAME, _MOST_VALUE = 16, 64, 512
_MOST_LINES = _MOST_INPUTS = 50_000
_HOUR = 3600.0
_COMPLAINTS = {
    "duplicate_custom_id": (
        "The custom_id for this request is a duplicate of another request in the batch.",
        "custom_id",
    ),
    "invalid_method": ("The HTTP method for this request is not supported: use 'POST'.", "method"),
    "invalid_url": ("The URL provided for this request does not match the batch endpoint.", "url"),
    "model_not_found": ("The provided model is not supported by the Batch API.", "body.model"),
    "mismatched_model": ("All requests in a batch must use the same model.", "body.model"),
}
_WORDS = {"waiting": "in_progress", "running": "in_progress", "succeeded": "completed"}


def create(call: Call) -> Answer:
    """`POST /v1/batches`."""
    body = payload(call)
    check_fields(body, _FIELDS)
    endpoint = body.get("endpoint")
    if endpoint not in _ENDPOINTS:
        raise errors.bad(
            f"Invalid value: '{endpoint}'. Supported values are: {sorted(_ENDPOINTS)}.", "endpoint"
        )
    if body.get("completion_window") != "24h":
        raise errors.bad("Invalid value for 'completion_window': expected '24h'.", "completion_window")
    metadata = _metadata(body.get("metadata"))
    file = find(call, str(body.get("input_file_id")))
    if file.purpose != "batch":
        raise errors.bad(f"File '{file.id}' must have been uploaded with purpose 'batch'.", "input_file_id")
    core = call.core
    job = Job(
        id=f"batch_{core.new_id('job', 32)}",
        provider="openai",
        verb=_ENDPOINTS[endpoint],
        model="",
        created=call.now,
        updated=call.now,
        expires=call.now,
        tag="\n".join((metadata or {}).values()),
        metadata=metadata,
        source=file.id,
        endpoint=endpoint,
        quirks=call.quirks(),
    )
    content = f"{job.id}.rows"
    core.store.link(file.id, content)
    lines, complaints = _lines(core.store.path(content), endpoint)
    job.model = next((line["body"]["model"] for line in lines), "")
    rows = read_rows(job, core.store.path(content)) if not complaints else []
    with core.lock:
        _check(call, job, rows, complaints)
        core.create_job(job, rows, call.now)
    return as_json(batch(call, job), seconds=core.control_s())


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise errors.bad(
            "Invalid type for 'metadata': expected a map of strings.", "metadata", "invalid_type"
        )
    if len(value) > _MOST_PAIRS:
        raise errors.bad(f"Invalid 'metadata': too many properties, at most {_MOST_PAIRS}.", "metadata")
    if any(len(name) > _MOST_NAME or len(text) > _MOST_VALUE for name, text in value.items()):
        raise errors.bad("Invalid 'metadata': a name or value is too long.", "metadata")
    return value


def _lines(path: Path, endpoint: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A file's lines, and what is wrong with it as a whole."""
    lines: list[dict[str, Any]] = []
    complaints: list[dict[str, Any]] = []
    keys: set[str] = set()
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            complaint = _complaint(raw, endpoint, keys, lines)
            if complaint is not None:
                code, message, param = complaint
                complaints.append({"code": code, "line": number, "message": message, "param": param})
    if not lines and not complaints:
        complaints.append(_whole("empty_file", "The batch input file is empty."))
    if len(lines) > _MOST_LINES:
        complaints.append(
            _whole("too_many_tasks", f"The batch input file has more than {_MOST_LINES:,} requests.")
        )
    inputs = sum(_count(line["body"].get("input")) for line in lines) if endpoint == "/v1/embeddings" else 0
    if inputs > _MOST_INPUTS:
        message = f"The batch input file has {inputs:,} embedding inputs, more than {_MOST_INPUTS:,}."
        complaints.append(_whole("too_many_embedding_inputs", message))
    return lines, complaints


def _whole(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "line": None, "message": message, "param": None}


def _complaint(
    raw: bytes, endpoint: str, keys: set[str], lines: list[dict[str, Any]]
) -> tuple[str, str, str | None] | None:
    """What is wrong with a line, as code, message and field; None and the line is taken."""
    try:
        line = json.loads(raw)
    except ValueError:
        return "invalid_json_line", "This line is not parseable as valid JSON.", None
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
        return "missing_required_parameter", "Missing required parameter: 'custom_id'.", "custom_id"
    sent = line.get("body")
    body: dict[str, Any] = sent if isinstance(sent, dict) else {}
    model = find_model(str(body.get("model")))
    first = lines[0]["body"]["model"] if lines else body.get("model")
    wrong = {
        "duplicate_custom_id": line["custom_id"] in keys,
        "invalid_method": line.get("method") != "POST",
        "invalid_url": line.get("url") != endpoint,
        "model_not_found": model is None or model.provider != "openai",
        "mismatched_model": body.get("model") != first,
    }
    for code, is_wrong in wrong.items():
        if is_wrong:
            return code, *_COMPLAINTS[code]
    keys.add(line["custom_id"])
    lines.append(line)
    return None


def _count(value: object) -> int:
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return len(value)
    return 1


def _check(call: Call, job: Job, rows: list[Row], complaints: list[dict[str, Any]]) -> None:
    """What makes the job fail, which it does only once it is validated; or refuse to create it at all."""
    quotas = call.core.quotas
    if quotas.jobs_hour is not None and call.core.jobs_since(call.now - _HOUR) >= quotas.jobs_hour:
        message = f"Rate limit reached for batches: {quotas.jobs_hour} per hour."
        raise errors.refused(429, message, "requests", "rate_limit_exceeded")
    enqueued = sum(other.tokens for other in call.core.under_way(call.now, job.model))
    limit = quotas.enqueued_tokens
    is_full = limit is not None and enqueued + sum(row.tokens for row in rows) > limit
    if not complaints and (is_full or "enqueued_late" in job.quirks):
        complaints = [_whole("token_limit_exceeded", errors.queue_full(job.model, limit or 3_000_000))]
    if not complaints and "job_fails" in job.quirks:
        complaints = [_whole("server_error", "The batch could not be processed.")]
    if complaints:
        job.reason = {"object": "list", "data": complaints}


def read_rows(job: Job, path: Path) -> list[Row]:
    """A job's rows, from lines that were found to be in order."""
    with path.open("rb") as stream:
        return [_row(json.loads(raw), job) for raw in stream if raw.strip()]


def _row(line: dict[str, Any], job: Job) -> Row:
    key, body = line["custom_id"], line["body"]
    model = find_model(job.model)
    assert model is not None
    try:
        if model.verb != job.verb:
            raise errors.no_model(job.model)
        if job.verb == "generate":
            return Row(key, prompt=prompt_of(body, model))
        pieces = tuple(pieces_of(body, model))
        return Row(key, pieces=pieces, base64=body.get("encoding_format") == "base64")
    except Refused as refused:
        text = refused.answer.body
        assert isinstance(text, bytes)
        error = json.loads(text)["error"]
        return Row(
            key, problem=Problem(refused.answer.status, error["message"], error["code"], error["param"])
        )


# --- what there is ---------------------------------------------------------------------------------------------------


def poll(call: Call) -> Answer:
    """`GET /v1/batches/{id}`."""
    return as_json(batch(call, _job(call)), seconds=call.core.control_s())


def list_all(call: Call) -> Answer:
    """`GET /v1/batches`, newest first."""
    found = call.core.jobs(call.now, hidden=False)[::-1]
    return as_json(
        listed(call, found, lambda job: job.id, lambda job: batch(call, job), usual=20),
        seconds=call.core.control_s(),
    )


def cancel(call: Call) -> Answer:
    """`POST /v1/batches/{id}/cancel`."""
    job = _job(call)
    if job.ended:
        word = _WORDS.get(job.state, job.state)
        raise errors.refused(409, f"Cannot cancel a batch with status '{word}'.")
    job.quirks.update(call.quirks())
    call.core.cancel(job, call.now)
    return as_json(batch(call, job), seconds=call.core.control_s())


def _job(call: Call) -> Job:
    job = call.core.job(call.path["job"], call.now)
    if job is None:
        raise errors.refused(404, f"No batch found with id '{call.path['job']}'.")
    return job


def batch(call: Call, job: Job) -> dict[str, Any]:
    """A job as a batch object."""

    def unix(moment: float | None) -> int | None:
        return None if moment is None else int(call.core.unix(moment))

    failed = job.state == "failed"
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "model": job.model or None,
        "errors": job.reason if failed else None,
        "input_file_id": job.source,
        "completion_window": job.window,
        "status": _WORDS.get(job.state, job.state),
        "output_file_id": job.output or None,
        "error_file_id": job.errors or None,
        "created_at": unix(job.created),
        "in_progress_at": unix(job.running_at),
        "expires_at": unix(job.expires),
        "finalizing_at": unix(job.finalizing_at),
        "completed_at": unix(job.ended_at) if job.state == "succeeded" else None,
        "failed_at": unix(job.ended_at) if failed else None,
        "expired_at": unix(job.ended_at) if job.state == "expired" else None,
        "cancelling_at": unix(job.cancelling_at),
        "cancelled_at": unix(job.ended_at) if job.state == "cancelled" else None,
        "request_counts": _counts(job),
        "usage": _usage(job),
        "metadata": job.metadata,
    }


def _counts(job: Job) -> dict[str, int]:
    if job.state == "failed":
        return {"total": 0, "completed": 0, "failed": 0}
    good, bad = (job.good, job.bad) if job.ended else (job.completed, 0)
    total = 0 if job.state == "validating" else job.rows
    return {"total": total, "completed": good, "failed": bad}


def _usage(job: Job) -> dict[str, Any]:
    return {
        "input_tokens": job.used_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": job.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": job.used_tokens + job.output_tokens,
    }


def content(call: Call) -> Answer:
    """`GET /v1/files/{id}/content`."""
    file = find(call)
    seconds = call.core.control_s()
    if not file.job:
        data = call.core.store.path(file.id).read_bytes()
        return Answer(body=data, media="application/octet-stream", seconds=seconds)
    job = next(job for job in call.core.jobs(call.now) if job.id == file.job)
    body = results.content(call.core, job, file.role)
    return Answer(body=body, media="application/octet-stream", seconds=seconds)
