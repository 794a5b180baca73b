"""Whether an input file can be a batch: every line looked at, in memory that does not grow with its texts. Pure.

Of each row it keeps 8 bytes, by which two with the same `custom_id` are found.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from embatch.frontends.server.jobs.rows import complaint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from embatch.frontends.server.jobs.reading import Line

MOST_COMPLAINTS = 100
"""Lines that are named; how many more there are is said in one entry."""


class Verdict(NamedTuple):
    """What is known of an input file."""

    total: int
    """Rows in it."""
    model: str | None
    errors: list[dict[str, Any]]
    """Nothing if it is valid."""


class Checker:
    """Looks at the lines of one input file.

    Args:
        endpoint: what each line must name as its `url`.
        knows: whether a model of this name is served.
        most_rows: more make the file invalid.
    """

    def __init__(self, endpoint: str, *, knows: Callable[[str], bool], most_rows: int) -> None:
        self._endpoint = endpoint
        self._knows = knows
        self._most_rows = most_rows
        self._hashes = array("q")
        self._model: str | None = None
        self._total = 0
        self._errors: list[dict[str, Any]] = []
        self._wrong = 0

    def feed(self, lines: Iterable[Line]) -> bool:
        """Look at the next lines, in their order; False if there are too many rows, so that no more are needed."""
        for line in lines:
            self._total += 1
            found = self._complaint(line)
            if found is not None:
                self._wrong += 1
                if len(self._errors) < MOST_COMPLAINTS:
                    self._errors.append(found)
        return self._total <= self._most_rows

    def doubles(self) -> set[int]:
        """Hashes of `custom_id`s that came more than once, by `hash`. Usually none: then nothing is left to do."""
        hashes = np.frombuffer(self._hashes, np.int64) if self._hashes else np.empty(0, np.int64)
        found, counts = np.unique(hashes, return_counts=True)
        return set(found[counts > 1].tolist())

    def feed_again(self, lines: Iterable[Line], doubles: set[int], seen: set[str]) -> bool:
        """Look at the lines a second time, for those that share a `custom_id`; False if enough were found.

        Args:
            lines: as before.
            doubles: what `doubles` found.
            seen: the `custom_id`s among these that came already; empty to begin with.
        """
        for line in lines:
            custom_id = _custom_id(line)
            if custom_id is None or hash(custom_id) not in doubles:
                continue
            if custom_id in seen:
                self._wrong += 1
                message = "The custom_id for this request is a duplicate of another request in the batch."
                if len(self._errors) >= MOST_COMPLAINTS:
                    return False
                self._errors.append(
                    complaint("duplicate_custom_id", message, line=line.number, param="custom_id")
                )
            seen.add(custom_id)
        return True

    def verdict(self) -> Verdict:
        """What was found."""
        errors = sorted(self._errors, key=lambda each: each["line"])
        if not self._total:
            errors.append(complaint("empty_file", "The batch input file is empty."))
        if self._total > self._most_rows:
            message = f"The batch input file has more than {self._most_rows:,} requests."
            errors.append(complaint("too_many_tasks", message))
        if self._wrong > len(self._errors):
            message = f"At least {self._wrong - len(self._errors):,} more lines are invalid."
            errors.append(complaint("more_errors", message))
        return Verdict(self._total, self._model, errors)

    def _complaint(self, line: Line) -> dict[str, Any] | None:
        """What is wrong with a line; None and it is taken."""
        if line.raw is None:
            return complaint("line_too_long", "This line is longer than a request may be.", line=line.number)
        try:
            fields = orjson.loads(line.raw)
        except orjson.JSONDecodeError:
            message = "This line is not parseable as valid JSON."
            return complaint("invalid_json_line", message, line=line.number)
        if type(fields) is not dict:
            return complaint("invalid_json_line", "This line is no JSON object.", line=line.number)
        custom_id = fields.get("custom_id")
        if type(custom_id) is not str or not custom_id:
            return _missing("custom_id", line)
        self._hashes.append(hash(custom_id))
        return self._wrong_request(fields, line)

    def _wrong_request(self, fields: dict[str, Any], line: Line) -> dict[str, Any] | None:
        if fields.get("method") != "POST":
            message = "The HTTP method for this request is not supported: use 'POST'."
            return complaint("invalid_method", message, line=line.number, param="method")
        if fields.get("url") != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            return complaint("invalid_url", message, line=line.number, param="url")
        body = fields.get("body")
        return _missing("body", line) if type(body) is not dict else self._wrong_model(body, line)

    def _wrong_model(self, body: dict[str, Any], line: Line) -> dict[str, Any] | None:
        model = body.get("model")
        if type(model) is not str:
            return _missing("body.model", line)
        if self._model is None and not self._knows(model):
            message = f"The provided model {model[:200]!r} is not served here."
            return complaint("model_not_found", message, line=line.number, param="body.model")
        self._model = self._model or model
        if model != self._model:
            message = "All requests in a batch must use the same model."
            return complaint("mismatched_model", message, line=line.number, param="body.model")
        return None


def _missing(param: str, line: Line) -> dict[str, Any]:
    message = f"Missing required parameter: '{param}'."
    return complaint("missing_required_parameter", message, line=line.number, param=param)


def _custom_id(line: Line) -> str | None:
    try:
        fields = orjson.loads(line.raw or b"")
    except orjson.JSONDecodeError:
        return None
    custom_id = fields.get("custom_id") if type(fields) is dict else None
    return custom_id if type(custom_id) is str else None
