"""The record of a file at a provider: uploaded, or the output of a job, which is written when it is asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

Role = Literal["input", "output", "errors"]


@dataclass(slots=True, kw_only=True)
class File:
    """One file. Times are virtual seconds."""

    id: str
    """Without the `files/` that Gemini puts in front."""
    name: str = ""
    """Display name, or file name."""
    mime: str = ""
    size: int | None = None
    """Bytes; None for an output that nobody has asked for yet."""
    sha256: str = ""
    created: float = 0.0
    expires: float | None = None
    purpose: str = ""
    role: Role = "input"
    job: str = ""
    """Whose output it is."""
    is_whole: bool = True
    """False while it is being uploaded."""
    announced: int | None = None
    """Bytes that the upload said it has."""

    def to_record(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Back from plain data."""
        return cls(**record)
