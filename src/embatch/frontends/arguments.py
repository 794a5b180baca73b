"""What callers hand over, checked: the same words for the same mistakes everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.engine.window import check_text
from embatch.errors import ItemsFailedError, UsageError
from embatch.types import BadItem, Item, ItemFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def as_rows(texts: Iterable[str | Item | BadItem]) -> Iterator[Item | BadItem]:
    """Texts as rows, named by their position; what is a row already stays as it is."""
    for row, text in enumerate(texts):
        yield text if isinstance(text, Item | BadItem) else Item(str(row), text)


def raise_bad_texts(rows: list[Item | BadItem]) -> None:
    """Refuse rows without usable text before anything is computed.

    Raises:
        ItemsFailedError: naming all of them.
    """
    failures = []
    for row, item in enumerate(rows):
        error = item.error if isinstance(item, BadItem) else check_text(item.text)
        if error is not None:
            failures.append(ItemFailure(row=row, key=item.key, error=error, source=item.source))
    if failures:
        raise items_failed(failures, len(rows))


def items_failed(failures: list[ItemFailure], total: int) -> ItemsFailedError:
    """The error of a call of which some texts have no vector."""
    first = failures[0]
    return ItemsFailedError(
        f"{len(failures)} of {total} texts have no vector; the first is number {first.row} "
        f"(key {first.key!r}): {first.error}",
        failures,
    )


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """The value.

    Raises:
        UsageError: it is not among those allowed.
    """
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def positive(**numbers: int | None) -> None:
    """Refuse numbers below 1.

    Raises:
        UsageError: naming the first.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1, not {number}")
