"""What has changed in the files of an index, told by their names, sizes and times alone.

First step of a sync: a walk, a stat a file, and a comparison with what the index knows. Nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embatch.storage.sources.listing import list_files
from embatch.storage.sources.skips import SkipLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.chunks import FileState
    from embatch.search.places import Place
    from embatch.storage.sources.listing import SourceFile

ADDED_INODE = 0
"""Of what a program added without a file: no walk finds it, and none drops it."""


@dataclass(slots=True, kw_only=True)
class Survey:
    """A walk held against an index. Files carry their key in the index."""

    to_read: list[SourceFile] = field(default_factory=list)
    """New ones, and those whose size, time or inode is not what the index knows."""
    gone: list[str] = field(default_factory=list)
    unchanged: int = 0
    listed: int = 0
    skipped: SkipLog = field(default_factory=SkipLog)

    @property
    def bytes_to_read(self) -> int:
        """Size of what is to be read."""
        return sum(file.size_bytes for file in self.to_read)


def survey(
    paths: Sequence[str], place: Place, known: Mapping[str, FileState], *, trust: bool = True
) -> Survey:
    """Walk files and folders, and compare them with `known`.

    Only what lies below `paths` can be gone; the rest of an index is left as it is. What lies below a folder that
    cannot be listed now is not gone either.

    Args:
        paths: files and folders.
        place: names the files.
        known: by key.
        trust: whether equal sizes and times are enough; else everything is read.

    Raises:
        SourceNotFoundError: a path does not exist.
        SourceUnreadableError: a path that was named cannot be looked at.
    """
    found = Survey()
    seen: set[str] = set()
    blocked: list[str] = []
    for file in list_files(paths, found.skipped):
        keyed = file._replace(key=place.key(file.path))
        if keyed.key in seen:
            continue
        seen.add(keyed.key)
        found.listed += 1
        if file.problem:
            blocked.append(f"{keyed.key}/")
        if trust and _same(keyed, known.get(keyed.key)):
            found.unchanged += 1
            if reason := known[keyed.key].skipped:
                found.skipped.add(keyed.key, reason)
        else:
            found.to_read.append(keyed)
    scopes = [place.key(path) for path in paths]
    found.gone = sorted(
        key
        for key, state in known.items()
        if key not in seen
        and state.inode != ADDED_INODE
        and any(_below(key, scope) for scope in scopes)
        and not key.startswith(tuple(blocked))
    )
    return found


def _same(file: SourceFile, state: FileState | None) -> bool:
    return (
        state is not None
        and not file.problem
        and not state.failed
        and (file.size_bytes, file.mtime_ns, file.inode[1]) == (state.size_bytes, state.mtime_ns, state.inode)
    )


def _below(key: str, scope: str) -> bool:
    if scope == ".":  # the root: all but what lies outside of it
        return not key.startswith("/")
    return key == scope or key.startswith(f"{scope.rstrip('/')}/")
