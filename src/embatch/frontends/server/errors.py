"""What goes wrong, in the body format of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`.

Routes raise `ApiError`, or let an error of the tree through; `as_api_error` is the one table from the tree to statuses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from embatch.errors import (
    BackendError,
    EmbatchError,
    ExpiredError,
    GoalError,
    IndexNotFoundError,
    ItemBackendError,
    ItemError,
    ItemsFailedError,
    ModelError,
    NotSentError,
    OutOfMemoryError,
    OutputError,
    OverloadedError,
    ProviderError,
    SearchIndexError,
    UnknownModelError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class ApiError(Exception):
    """A refusal with its HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002  # the wire's own word
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What the client reads."""
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


# The most specific class wins: an error's own class, then its parents.
_TABLE: Mapping[type[EmbatchError], tuple[int, str, str]] = {
    UsageError: (400, "invalid_request_error", "invalid_value"),
    ItemError: (400, "invalid_request_error", "invalid_input"),
    ItemBackendError: (500, "server_error", "input_failed"),
    NotSentError: (503, "server_error", "not_sent"),
    ItemsFailedError: (400, "invalid_request_error", "invalid_input"),
    UnknownModelError: (404, "invalid_request_error", "model_not_found"),
    ModelError: (503, "server_error", "model_unavailable"),
    OverloadedError: (429, "rate_limit_error", "queue_full"),
    ExpiredError: (504, "server_error", "timed_out"),
    OutOfMemoryError: (503, "server_error", "out_of_memory"),
    BackendError: (503, "server_error", "engine_failed"),
    ProviderError: (502, "server_error", "provider_failed"),
    GoalError: (429, "insufficient_quota", "insufficient_quota"),
    IndexNotFoundError: (404, "invalid_request_error", "index_not_found"),
    SearchIndexError: (503, "server_error", "index_unavailable"),
    OutputError: (507, "server_error", "storage_failed"),
    EmbatchError: (500, "server_error", "failed"),
}


def as_api_error(error: EmbatchError, *, param: str | None = None) -> ApiError:
    """The refusal that stands for an error of the tree."""
    kind = next(kind for kind in type(error).__mro__ if kind in _TABLE)
    status, type_, code = _TABLE[kind]
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if status in {429, 503} and code != "insufficient_quota":
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s or 1.0)))
    message = str(error)
    if (
        status == 400 and error.hint and error.hint != error.default_hint
    ):  # the default speaks of the command line
        message = f"{message.rstrip('.')}. {error.hint}"
    return ApiError(status, message, type=type_, code=code, param=param, headers=headers)
