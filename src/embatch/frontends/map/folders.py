"""Which folders of a tree are worth a colour of their own: few, and none with most of everything in it.

Pure. Again and again, the largest folder that is no group yet becomes one, beside the rest of the folder that it lies
in, for as long as there are colours left.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 10
"""Groups with a colour; the rest is `other`."""
OTHER = "other"
ALL = "(no folders)"
_LEAST = 0.02  # of everything: a smaller folder is nothing to look for


def folders_of(paths: Sequence[str], *, most: int = MOST) -> list[str]:
    """The group of each path, at most `most` beside `other`.

    A group is a folder as `src/web/`, or `src/ (rest)` without those below it that are groups; what lies in none of
    them is `other`.
    """
    counts = Counter(paths)
    folders: set[str] = set()
    while more := _next(counts, folders, most, len(paths)):
        folders.add(more)
    groups = {path: _group(path, folders) for path in counts}
    inner = {folder for folder in folders if any(f != folder and f.startswith(folder) for f in folders)}
    names = {folder: f"{folder} (rest)" if folder in inner else folder for folder in folders}
    names[""] = OTHER if folders else ALL
    return [names[groups[path]] for path in paths]


def ranked(groups: Sequence[str], *, most: int = MOST) -> list[str]:
    """The names of the groups by size, the largest first, at most `most`, and `other` nowhere."""
    counts = Counter(groups)
    counts.pop(OTHER, None)
    return [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))][:most]


def limited(groups: Sequence[str], *, most: int = MOST) -> list[str]:
    """The groups, with small ones beyond `most` called `other`."""
    kept = set(ranked(groups, most=most))
    return [group if group in kept else OTHER for group in groups]


def _next(counts: Counter[str], folders: set[str], most: int, total: int) -> str:
    """The folder that becomes a group next; empty if none should."""
    sizes: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for path, count in counts.items():
        group = _group(path, folders)
        sizes[group] += count
        name, inside, _ = path[len(group) :].partition("/")
        if inside:
            below[f"{group}{name}/"] += count
    room = len(sizes.keys() - {""}) < most
    for folder in sorted(below, key=lambda folder: (-below[folder], folder)):
        whole = below[folder] == sizes[_parent(folder)]  # takes the place of the folder above it
        if (room and below[folder] >= _LEAST * total) or (whole and _parent(folder)):
            return folder
    return ""


def _parent(folder: str) -> str:
    return folder[: folder[:-1].rfind("/") + 1]


def _group(path: str, folders: set[str]) -> str:
    """The deepest of the folders that holds it."""
    folder = _parent(path + "/")
    while folder and folder not in folders:
        folder = _parent(folder)
    return folder
