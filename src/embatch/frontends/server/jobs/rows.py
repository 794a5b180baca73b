"""Lines of batch files: what a row asks for, and those that tell what became of it, in OpenAI's formats. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from embatch.frontends.server.errors import ApiError
from embatch.frontends.server.wire import as_openai

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.frontends.server.settings import ServeSettings
    from embatch.frontends.server.wire import Asked
    from embatch.serving import Ask
    from embatch.types import FloatArray, Overlong

UNDONE = {
    "expired": "This request could not be executed before the completion window expired.",
    "cancelled": "This request could not be executed because the batch was cancelled.",
    "failed": "This request could not be executed because the batch failed.",
}
"""What the rows of a job are told that ended before their turn."""


class Wish(NamedTuple):
    """What inputs of one ask have in common."""

    task: str | None = None
    dimensions: int | None = None
    overlong: Overlong | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of an input file."""

    number: int
    """Of the line in its file, from 1."""
    custom_id: str
    asked: Asked | None = None
    problem: ApiError | None = None
    """Why it is refused; one of the two is there."""

    @property
    def inputs(self) -> Sequence[str | Sequence[int]]:
        """What it wants vectors of; nothing if it is refused."""
        return () if self.asked is None else self.asked.ask.inputs


class Settled(NamedTuple):
    """What became of one input."""

    vector: FloatArray | None
    tokens: int
    problem: ApiError | None = None


def as_row(raw: bytes, number: int, settings: ServeSettings) -> Row:
    """The row in a line that was found valid."""
    custom_id = ""
    try:
        line = orjson.loads(raw)
        custom_id = str(line["custom_id"])
        asked = as_openai(orjson.dumps(line["body"]), settings, None)
    except ApiError as error:
        return Row(number=number, custom_id=custom_id, problem=error)
    except (orjson.JSONDecodeError, KeyError, TypeError):  # the file is not what it was when it was validated
        problem = ApiError(400, "This line is no request.", code="invalid_json_line")
        return Row(number=number, custom_id=custom_id, problem=problem)
    return Row(number=number, custom_id=custom_id, asked=asked)


def wish_of(ask: Ask) -> Wish:
    """What must agree between rows that share an ask."""
    return Wish(ask.task, ask.dimensions, ask.overlong)


def size_of(inputs: Sequence[str | Sequence[int]]) -> int:
    """About how many bytes inputs take in memory."""
    return sum(len(each) if isinstance(each, str) else 8 * len(each) for each in inputs)


def shares(total: int, inputs: Sequence[str | Sequence[int]]) -> list[int]:
    """Tokens of each input, where only those of all are known: by length; together exactly `total`."""
    sizes = np.array([len(each) if isinstance(each, str) else 4 * len(each) for each in inputs], np.float64)
    ends = np.rint(np.cumsum(sizes) * (total / max(1.0, float(sizes.sum())))).astype(np.int64)
    return np.diff(ends, prepend=0).tolist()  # type: ignore[no-any-return]  # a list of int


# --- lines of results ------------------------------------------------------------------------------------------------


def result_line(row: Row, settled: Sequence[Settled], *, job: str, model: str) -> tuple[bool, bytes]:
    """Whether a row went well, and its line with the newline."""
    problem = row.problem or next((each.problem for each in settled if each.problem is not None), None)
    if problem is None:
        body = _vectors_body(row, settled, model)
        return True, _line(row, job, b'{"status_code":200,"request_id":"%b","body":%b}', body, b"null")
    answer = orjson.dumps(problem.body())
    shape = b'{"status_code":%d,"request_id":"%%b","body":%%b}' % problem.status
    return False, _line(row, job, shape, answer, b"null")


def undone_line(row: Row, *, job: str, ending: str) -> bytes:
    """The line of a row whose turn never came."""
    error = orjson.dumps({"code": f"batch_{ending}", "message": UNDONE[ending]})
    return b'{"id":"batch_req_%b","custom_id":%b,"response":null,"error":%b}\n' % (
        _request(row, job),
        orjson.dumps(row.custom_id),
        error,
    )


def _line(row: Row, job: str, response: bytes, body: bytes, error: bytes) -> bytes:
    name = _request(row, job)
    return b'{"id":"batch_req_%b","custom_id":%b,"response":%b,"error":%b}\n' % (
        name,
        orjson.dumps(row.custom_id),
        response % (b"req_" + name, body),
        error,
    )


def _request(row: Row, job: str) -> bytes:
    """Names a row for good: the same after a restart."""
    return b"%b%07x" % (job[6:22].encode(), row.number)


def _vectors_body(row: Row, settled: Sequence[Settled], model: str) -> bytes:
    asked = row.asked
    assert asked is not None
    tokens = sum(each.tokens for each in settled)
    entries = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (place, _numbers(each.vector, asked.base64))
        for place, each in enumerate(settled)
    )
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        entries,
        orjson.dumps(asked.model or model),
        tokens,
        tokens,
    )


def _numbers(vector: FloatArray | None, is_base64: bool) -> bytes:  # noqa: FBT001  # of this module only
    assert vector is not None
    if is_base64:
        return b'"%b"' % base64.b64encode(vector.astype("<f4", copy=False).tobytes())
    told: bytes = orjson.dumps(np.ascontiguousarray(vector), option=orjson.OPT_SERIALIZE_NUMPY)
    return told


def complaint(
    code: str, message: str, *, line: int | None = None, param: str | None = None
) -> dict[str, Any]:
    """An entry of a job's `errors`."""
    return {"code": code, "line": line, "message": message, "param": param}
