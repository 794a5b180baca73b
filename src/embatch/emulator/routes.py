"""Which handler answers which request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.emulator.answers import Answer, Call
    from embatch.emulator.faults import Operation


class Route:
    """One way in.

    Args:
        method: HTTP method.
        pattern: regular expression of the whole path; its groups are the handler's `path`.
        operation: what it is counted as, and what faults name it.
        handler: answers, or raises `Refused`.
    """

    def __init__(
        self, method: str, pattern: str, operation: Operation, handler: Callable[[Call], Answer]
    ) -> None:
        self.method = method
        self.operation = operation
        self.handler = handler
        self._pattern = re.compile(pattern)

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The path's groups; None if the request is not for this route."""
        if method != self.method or (found := self._pattern.fullmatch(path)) is None:
            return None
        return {name: value or "" for name, value in found.groupdict().items()}
