"""Rows of a ledger as the nouns of a run, and lists of values cut to what one statement takes.

`ledger` stands on this.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from embatch import errors
from embatch.errors import ItemError
from embatch.remote import JobRef, LedgerJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PAGE = 1000
"""Rows read or written by one statement."""
JOB_COLUMNS = "number, tag, items, tokens, intended, provider_id, input_file, accepted, done, state"


def pages(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values, `PAGE` at a time."""
    for start in range(0, len(values), PAGE):
        yield values[start : start + PAGE]


def item_error(text: str) -> ItemError:
    """An error as it was written down; a class that is not known any more is an `ItemError`."""
    name, message, hint = json.loads(text)
    kind: Callable[..., ItemError] = getattr(errors, name, ItemError)
    return kind(message, hint=hint)


def job_of(row: Sequence[Any]) -> LedgerJob:
    """The job in a row of `JOB_COLUMNS`."""
    number, tag, items, tokens, intended, provider_id, input_file, accepted, done, state = row
    ref = JobRef(id=provider_id, input_file=input_file) if provider_id is not None else None
    return LedgerJob(number, tag, items, tokens, intended, ref, accepted, bool(done), state)
