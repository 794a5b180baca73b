"""From what the user typed to the files that will be read, in a fixed order.

First step of source → items: paths, folders and patterns become `SourceFile`s with sizes and times. Nothing is opened
here but folders and their `.gitignore`; what the files hold is `reading`'s matter. The list lives in memory: some
500 bytes a file, whatever the files' sizes.
"""

# ruff: noqa: PTH112, PTH116, PTH118, PTH207 # plain strings: a walk makes three paths an entry, and there can be millions

from __future__ import annotations

import glob
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from embatch.errors import SourceNotFoundError, SourceUnreadableError
from embatch.storage.sources.gitignore import rules_above, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embatch.storage.sources.gitignore import IgnoreRules
    from embatch.storage.sources.skips import SkipLog

STDIN = "-"
"""The argument that means standard input."""


class SourceFile(NamedTuple):
    """One file to read, as it was when it was listed."""

    path: str
    """What the operating system opens."""
    key: str
    """The path as typed, with `/` between its parts; bytes that are no UTF-8 are written as `\\xNN`."""
    size_bytes: int = 0
    mtime_ns: int = 0
    inode: tuple[int, int] = (0, 0)
    """Device and inode: tells whether two paths lead to one file."""
    problem: str = ""
    """Why it could not be looked at, if so: it is reported when its turn comes."""
    named: bool = False
    """Whether the user typed this very path, rather than a folder or pattern that holds it."""


def list_files(paths: Sequence[str], skips: SkipLog) -> list[SourceFile]:
    """Every file behind `paths`, each once, in the order typed and sorted by name within a folder or pattern.

    Args:
        paths: files, folders, patterns; `-` for standard input becomes a file of the key `stdin`.
        skips: gets what was passed over.

    Raises:
        SourceNotFoundError: a path does not exist, or a pattern matches nothing.
        SourceUnreadableError: a path that was typed is neither a file nor a folder, or cannot be looked at.
    """
    seen: dict[tuple[int, int], list[str]] = {}  # (device, inode) -> paths
    return [file for typed in paths for file in _behind(typed, skips) if _first_time(file, seen, skips)]


def to_key(path: str) -> str:
    """A path as a key: `/` between parts, and always text that encodes as UTF-8."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if os.sep == "/" else text.replace(os.sep, "/")


def _behind(typed: str, skips: SkipLog) -> Iterator[SourceFile]:
    if typed == STDIN:
        yield SourceFile(STDIN, "stdin", named=True)
    elif os.path.lexists(typed):
        yield from _typed_path(typed, skips, named=True)
    elif glob.has_magic(typed):
        yield from _pattern(typed, skips)
    else:
        raise SourceNotFoundError(f"No such file or folder: {typed!r}.")


def _pattern(pattern: str, skips: SkipLog) -> Iterator[SourceFile]:
    """What a shell would match. A pattern is explicit: `.gitignore` does not narrow it."""
    recursive = "**" in pattern  # then folders are matched for their files' sake, and these match too
    found = sorted(glob.iglob(pattern, recursive=True), key=os.fsencode)
    matches = [path for path in found if not (recursive and os.path.isdir(path))]
    if not matches:
        raise SourceNotFoundError(f"The pattern {pattern!r} matches no file.")
    for path in matches:
        yield from _typed_path(path, skips, named=False)


def _typed_path(path: str, skips: SkipLog, *, named: bool) -> Iterator[SourceFile]:
    tidy = os.path.normpath(path) if path.startswith(os.curdir + os.sep) else path
    try:
        info = os.stat(path)
    except OSError as error:
        problem = f"Cannot read {to_key(path)!r}: {_reason(error)}."
        if named:
            raise SourceUnreadableError(problem) from error
        yield SourceFile(path, to_key(tidy), problem=problem)
        return
    if stat.S_ISDIR(info.st_mode):
        yield from _folder(path, skips)
    elif stat.S_ISREG(info.st_mode):
        yield SourceFile(
            path, to_key(tidy), info.st_size, info.st_mtime_ns, (info.st_dev, info.st_ino), named=named
        )
    elif named:
        raise SourceUnreadableError(
            f"{to_key(path)!r} is neither a file nor a folder.",
            hint="Pipe it in and pass `-`: `command | embatch embed - --to FILE`.",
        )
    else:
        skips.add(to_key(tidy), "not a regular file")


class _Folder(NamedTuple):
    """A folder that the walk has come to."""

    path: str
    shown: str  # the path that keys begin with: empty for the current folder
    absolute: str  # without links, as the rules need it
    rules: IgnoreRules | None  # what holds inside


def _folder(top: str, skips: SkipLog) -> Iterator[SourceFile]:
    """The files below a folder, depth first, by name. A stack, not recursion: trees can be deep."""
    shown = os.path.normpath(top)
    absolute = os.path.realpath(top)
    rules = rules_of(absolute, rules_above(absolute))
    root = _Folder(top, "" if shown == os.curdir else shown, absolute, rules)
    stack = [_entries(root, skips)]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
        elif isinstance(found, _Folder):
            stack.append(_entries(found, skips))
        else:
            yield found


def _entries(folder: _Folder, skips: SkipLog) -> Iterator[SourceFile | _Folder]:
    """A folder's files and folders by name, without what is hidden or ignored."""
    try:
        with os.scandir(folder.path) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        key = to_key(folder.shown or os.curdir)
        yield SourceFile(folder.path, key, problem=f"Cannot list the folder {key!r}: {_reason(error)}.")
        return
    for entry in entries:
        path = os.path.join(folder.path, entry.name)
        shown = os.path.join(folder.shown, entry.name)
        absolute = os.path.join(folder.absolute, entry.name)
        inner = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            skips.add(to_key(shown), "hidden")
        elif folder.rules is not None and folder.rules.ignores(absolute, folder=inner):
            skips.add(to_key(shown), "ignored by .gitignore")
        elif inner:
            yield _Folder(path, shown, absolute, rules_of(absolute, folder.rules))
        else:
            yield from _entry(path, shown, entry, skips)


def _entry(path: str, shown: str, entry: os.DirEntry[str], skips: SkipLog) -> Iterator[SourceFile]:
    key = to_key(shown)
    try:
        info = entry.stat()
    except OSError as error:
        yield SourceFile(path, key, problem=f"Cannot read {key!r}: {_reason(error)}.")
        return
    if stat.S_ISREG(info.st_mode):
        yield SourceFile(path, key, info.st_size, info.st_mtime_ns, (info.st_dev, info.st_ino))
    elif stat.S_ISDIR(info.st_mode):
        # Followed, a link to `/` would read the whole machine, and a link upwards would never end.
        skips.add(key, "link to a folder")
    else:
        skips.add(key, "not a regular file")


def _first_time(file: SourceFile, seen: dict[tuple[int, int], list[str]], skips: SkipLog) -> bool:
    """False for a file that was listed before under another argument or through a link."""
    if file.inode == (0, 0):  # standard input, or a file that could not be looked at
        return True
    others = seen.setdefault(file.inode, [])
    # Hard links share an inode too, but each is a file of its own to the user.
    if others and os.path.realpath(file.path) in map(os.path.realpath, others):
        skips.add(file.key, "listed twice")
        return False
    others.append(file.path)
    return True


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
