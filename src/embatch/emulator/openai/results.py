"""The output and error files of an OpenAI batch, line by line, in an order of their own; written when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import dumps
from embatch.emulator.catalog import find_model
from embatch.emulator.openai import errors
from embatch.emulator.openai.chat import completion
from embatch.emulator.openai.embedding import body_of, plain_entries, shortened, values_of, with_first
from embatch.emulator.rows import Outcome, in_pieces, order, runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.emulator.core import Core
    from embatch.emulator.files import Role
    from embatch.emulator.jobs import Job
    from embatch.emulator.rows import Row

_UNDONE = {
    "expired": "This request could not be executed before the completion window expired.",
    "cancelled": "This request could not be executed because the batch was cancelled.",
}


def content(core: Core, job: Job, role: Role) -> Iterator[bytes]:
    """The file with a job's good rows, or the one with the others, in pieces."""
    made = _good(core, job) if role == "output" else _bad(core, job)
    return in_pieces(made, is_cut="truncated_jsonl" in job.quirks)


def _good(core: Core, job: Job) -> Iterator[bytes]:
    rows, found = core.rows(job), core.outcomes(job)
    places = order(job, len(rows), core.options.shuffle_from, core.options.seed)
    created = int(core.unix(job.ended_at or job.created))
    for group in runs((place for place in places if found[place] is Outcome.GOOD), rows):
        bodies = _bodies(job, [rows[place] for place in group], group, created)
        for place, body in zip(group, bodies, strict=True):
            yield _line(job, rows[place], place, 200, body)


def _bad(core: Core, job: Job) -> Iterator[bytes]:
    rows, found = core.rows(job), core.outcomes(job)
    for place in order(job, len(rows), core.options.shuffle_from, core.options.seed):
        row, outcome = rows[place], found[place]
        if outcome is Outcome.UNDONE:
            error = {"code": f"batch_{job.state}", "message": _UNDONE[job.state]}
            yield dumps(_head(job, row, place) | {"response": None, "error": error})
        elif outcome is not Outcome.GOOD:
            status, body = _failure(row, outcome)
            yield _line(job, row, place, status, dumps(body))


def _failure(row: Row, outcome: Outcome) -> tuple[int, dict[str, Any]]:
    if outcome is Outcome.REFUSED and row.problem is not None:
        problem = row.problem
        return problem.status, errors.body(problem.message, code=problem.code, param=problem.param)
    if outcome is Outcome.TRANSIENT:
        return 503, errors.body(errors.OVERLOADED, "service_unavailable")
    return 500, errors.body(errors.SERVER_ERROR, "server_error")


def _bodies(job: Job, rows: list[Row], places: list[int], created: int) -> list[bytes]:
    """The replies to a group of rows."""
    model = find_model(job.model)
    assert model is not None
    if job.verb == "generate":
        return [
            dumps(completion(model, row.prompt, f"chatcmpl-{job.id}-{place}", created))
            for row, place in zip(rows, places, strict=True)
            if row.prompt is not None
        ]
    bodies = []
    pieces = [piece for row in rows for piece in row.pieces]
    is_binary = rows[0].base64
    values = iter(values_of(model, pieces, is_binary=is_binary))
    for row, place in zip(rows, places, strict=True):
        mine = [next(values) for _ in row.pieces]
        if place == 0 and "row_nan" in job.quirks:
            mine[0] = with_first(mine[0], b"NaN", is_binary=is_binary)
        if place == 0 and "row_dimension" in job.quirks:
            mine[0] = shortened(mine[0], is_binary=is_binary)
        bodies.append(body_of(model, plain_entries(mine), row.tokens))
    return bodies


def _head(job: Job, row: Row, place: int) -> dict[str, Any]:
    key = None if "null_keys" in job.quirks else row.key
    return {"id": f"batch_req_{job.id[6:20]}{place:06d}", "custom_id": key}


def _line(job: Job, row: Row, place: int, status: int, body: bytes) -> bytes:
    head = dumps(_head(job, row, place))[:-1]
    return b'%b,"response":{"status_code":%d,"request_id":"req_%b%06d","body":%b},"error":null}' % (
        head,
        status,
        job.id[6:20].encode(),
        place,
        body,
    )
