"""The results of a Gemini job, line by line, in an order of their own; written anew each time they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embatch.emulator.answers import dumps
from embatch.emulator.catalog import find_model
from embatch.emulator.gemini import errors
from embatch.emulator.gemini.embedding import values_of
from embatch.emulator.gemini.generation import response_of
from embatch.emulator.rows import Outcome, in_pieces, order, runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.emulator.core import Core
    from embatch.emulator.jobs import Job
    from embatch.emulator.rows import Row

_DETAIL = {"@type": "type.googleapis.com/google.rpc.DebugInfo", "detail": "scripted"}


def content(core: Core, job: Job) -> Iterator[bytes]:
    """The file that holds a job's results, in pieces."""
    return in_pieces(lines(core, job), is_cut="truncated_jsonl" in job.quirks)


def lines(core: Core, job: Job) -> Iterator[bytes]:
    """One JSON object a row: with `key` for a file, with `metadata.key` for rows that came inline."""
    rows, found = core.rows(job), core.outcomes(job)
    places = order(job, len(rows), core.options.shuffle_from, core.options.seed)
    for group in runs(places, rows):
        good = [place for place in group if found[place] is Outcome.GOOD]
        responses = dict(zip(good, _responses(job, [rows[place] for place in good], good), strict=True))
        for place in group:
            yield _line(job, rows[place], place, found[place], responses.get(place))


def _responses(job: Job, rows: list[Row], places: list[int]) -> list[bytes]:
    model = find_model(job.model)
    assert model is not None
    if job.verb == "generate":
        return [dumps(response_of(model, row.prompt)) for row in rows if row.prompt is not None]
    values = values_of(model, [row.pieces[0] for row in rows])
    if 0 in places:
        first = places.index(0)
        if "row_nan" in job.quirks:
            values[first] = b"NaN," + values[first].partition(b",")[2]
        if "row_dimension" in job.quirks:
            values[first] = values[first].rpartition(b",")[0]
    return [
        b'{"embedding":{"values":[%b]},"tokenCount":"%d"}' % (inside, row.tokens)
        for inside, row in zip(values, rows, strict=True)
    ]


def _line(job: Job, row: Row, place: int, outcome: Outcome, response: bytes | None) -> bytes:
    key = None if "null_keys" in job.quirks else row.key
    head = dumps({"key": key} if job.source else {"metadata": {} if key is None else {"key": key}})[:-1]
    if response is not None:
        return b'%b,"response":%b}' % (head, response)
    error = dumps(_error(job, row, outcome))
    # Both forms of an error occur in the wild.
    is_nested = bool(job.source) and outcome is Outcome.TRANSIENT and place % 2 == 1
    return (b'%b,"response":{"error":%b}}' if is_nested else b'%b,"error":%b}') % (head, error)


def _error(job: Job, row: Row, outcome: Outcome) -> dict[str, Any]:
    error: dict[str, Any]
    if row.problem is not None and outcome is Outcome.REFUSED:
        error = {"code": 3, "message": row.problem.message}
    elif outcome is Outcome.TRANSIENT:
        error = {"code": 14, "message": errors.OVERLOADED}
    else:
        error = {"code": 13, "message": errors.INTERNAL}
    return error | ({"details": [_DETAIL]} if "error_details" in job.quirks else {})
