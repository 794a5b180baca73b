"""A task in words: the text that stands for it, and what makes a task one that cannot be embedded.

Stands before the embedder. It knows the three keys that carry text and passes over all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from embatch.errors import EmptyTextError, ItemError, NotTextError
from embatch.types import BadItem, Item

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN_TASK = "UNKNOWN_TASK"
"""The text of a task that says nothing."""
TEXT_KEYS = ("title", "description", "files_touched")

Task = Mapping[str, Any]
"""`title`, `description` (strings or None), `files_touched` (strings, or None); other keys mean nothing here."""


def build_input_text(
    title: str | None = None,
    description: str | None = None,
    files_touched: Iterable[str] | None = None,
) -> str:
    """The text of a task: title, description, and `Files touched: a, b`, sorted and each once, a line each.

    Returns:
        `UNKNOWN_TASK` if all are empty.

    Raises:
        NotTextError: something is neither text nor None.
    """
    files = clean_files(files_touched)
    parts = [_clean("title", title), _clean("description", description)]
    if files:
        parts.append(f"Files touched: {', '.join(sorted(set(files)))}")
    return "\n".join(part for part in parts if part) or UNKNOWN_TASK


def plain_text(
    title: str | None = None,
    description: str | None = None,
    files_touched: Iterable[str] | None = None,
) -> str:
    """The same without the words `Files touched:`, for what counts words: they would be common to all tasks.

    Raises:
        NotTextError: something is neither text nor None.
    """
    files = sorted(set(clean_files(files_touched)))
    parts = [_clean("title", title), _clean("description", description), " ".join(files)]
    return "\n".join(part for part in parts if part) or UNKNOWN_TASK


def clean_files(files: object) -> list[str]:
    """File names as given, stripped, without empty ones. A single string is names parted by commas.

    Raises:
        NotTextError: no list of strings.
    """
    if files is None:
        return []
    listed = files.split(",") if isinstance(files, str) else files
    if not isinstance(listed, Iterable) or isinstance(listed, bytes | Mapping):
        raise NotTextError(f"files_touched must be a list of strings, not {type(files).__name__}")
    names = list(listed)
    for name in names:
        if not isinstance(name, str):
            raise NotTextError(f"files_touched must be a list of strings, and holds {type(name).__name__}")
    return [name.strip() for name in names if name.strip()]


def task_items(tasks: Sequence[Task], *, plain: bool) -> list[Item | BadItem]:
    """Tasks as rows to embed, named by their `task_id` or position; bad ones with their error.

    Args:
        tasks: any number.
        plain: leave out the words `Files touched:`.
    """
    return [_item(row, task, plain=plain) for row, task in enumerate(tasks)]


def has_text(task: Task) -> bool:
    """Whether a task says anything about itself."""
    return any(task.get(key) for key in TEXT_KEYS)


def _item(row: int, task: object, *, plain: bool) -> Item | BadItem:
    if not isinstance(task, Mapping):
        return BadItem(
            str(row),
            NotTextError(
                f"a task must be a mapping with {', '.join(TEXT_KEYS)}, not {type(task).__name__}",
                hint="Pass dicts such as {'title': …, 'description': …, 'files_touched': […]}.",
            ),
        )
    key = str(task.get("task_id") or row)
    build = plain_text if plain else build_input_text
    try:
        text = build(*(task.get(name) for name in TEXT_KEYS))
    except ItemError as error:
        return BadItem(key, error)
    return BadItem(key, _silent()) if text == UNKNOWN_TASK else Item(key, text)


def _silent() -> EmptyTextError:
    return EmptyTextError(
        "the task has no title, no description and no files",
        hint="Give at least one of the three: a vector of nothing would match anything.",
    )


def _clean(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotTextError(f"{name} must be text, not {type(value).__name__}")
    return value.strip()
