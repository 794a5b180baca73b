"""Keeping the table of the Lance store fast and small: its index of words, its fragments, its old versions.

What the writer does before readers may see a new state. Each step costs in proportion to what has changed, not to the
table. The index of vectors is `lance_vectors`'s matter.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

TEXT_INDEX = "words"
_FRAGMENT_ROWS = 4096
_MOST_FRAGMENTS = 64
"""Small fragments that are left as they are: each costs a file to open."""
_TAIL = 512
"""Rows that may stay outside an index: a query reads them one by one, in a millisecond or two."""
_MOST_PARTS = 8
"""Parts of an index: each is searched on its own."""
_RETAINED = 8
_RETAINED_S = 600.0
"""How long and how many versions that were published stay for those who still read them."""


def compact(dataset: Any) -> None:
    """Join small fragments once there are many."""
    small = sum(fragment.count_rows() < _FRAGMENT_ROWS for fragment in dataset.get_fragments())
    if small > _MOST_FRAGMENTS:
        dataset.optimize.compact_files(target_rows_per_fragment=_FRAGMENT_ROWS)


def keep_text_index(dataset: Any) -> None:
    """Make the index of words, or let it grow with the table."""
    if not dataset.count_rows():
        return
    if TEXT_INDEX not in indexes(dataset):
        dataset.create_scalar_index(  # words were cut and cleaned before, by `matching`
            "words",
            "INVERTED",
            name=TEXT_INDEX,
            base_tokenizer="whitespace",
            lower_case=False,
            stem=False,
            remove_stop_words=False,
            ascii_folding=False,
            max_token_length=None,
            with_position=False,
        )
        return
    grow(dataset, TEXT_INDEX)


def clean(dataset: Any, *, kept: Iterable[int]) -> None:
    """Delete all versions but these, and whatever files no version has."""
    kept = {*kept, dataset.version}
    old = [entry["version"] for entry in dataset.versions() if entry["version"] not in kept]
    if old:
        # There is one writer, and it is this: what looks like the rest of a failed write is one.
        dataset.cleanup_old_versions(versions=old, delete_unverified=True, error_if_tagged_old_versions=False)


def retained(earlier: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Of versions and when they were replaced, oldest first, those that may still be read."""
    now = time.time()
    return tuple((version, when) for version, when in earlier if now - when < _RETAINED_S)[-_RETAINED:]


def indexes(dataset: Any) -> set[str]:
    """The names of the indexes that there are."""
    return {index.name for index in dataset.describe_indices()}


def grow(dataset: Any, name: str) -> None:
    """Take new rows into an index: as a part of their own, the small parts joined once there are many."""
    stats = dataset.stats.index_stats(name)
    if stats["num_unindexed_rows"] < _TAIL:
        return
    sizes = stats["num_indexed_rows_per_delta"]
    join = 0
    if len(sizes) >= _MOST_PARTS:  # all but the oldest, which is the large one, until the others outweigh it
        join = len(sizes) if sum(sizes) > 2 * sizes[0] else len(sizes) - 1
    dataset.optimize.optimize_indices(num_indices_to_merge=join, index_names=[name])
