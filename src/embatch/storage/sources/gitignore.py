"""Which entries of a folder git would leave out.

The walk in `listing` asks here for each entry. Rules come from the `.gitignore` of every folder between the top of
the repository and the entry, and from `.git/info/exclude`; the deepest file that has an opinion decides. The user's
global excludes are left out: what is embedded should not depend on a home folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

if TYPE_CHECKING:
    from collections.abc import Sequence


class IgnoreRules:
    """The rules of one folder, and through `parent` those of the folders above it. Immutable."""

    __slots__ = ("base", "parent", "spec")

    def __init__(self, base: str, lines: Sequence[str], parent: IgnoreRules | None) -> None:
        self.base = base
        self.spec = _compile(lines)
        self.parent = parent

    def ignores(self, path: str, *, folder: bool) -> bool:
        """Whether git leaves out this entry.

        Args:
            path: absolute, below the folder of these rules, written with the same prefix.
            folder: whether it is one: a pattern such as `build/` matches folders only.
        """
        rules: IgnoreRules | None = self
        while rules is not None:
            relative = path[len(rules.base) :].replace(os.sep, "/").lstrip("/")
            verdict = rules.spec.check_file(relative + "/" if folder else relative).include
            if verdict is not None:
                return verdict
            rules = rules.parent
        return False


def rules_above(folder: str) -> IgnoreRules | None:
    """The rules that hold inside `folder` because of the folders above it, up to the top of its repository.

    `None` if it lies in no repository, or if these rules leave out the folder itself: who names an ignored folder
    wants what is in it.
    """
    top = _repository(Path(folder))
    if top is None or top == Path(folder):
        return _exclude_file(folder)
    rules = _exclude_file(str(top))
    for part in [top, *reversed([p for p in Path(folder).parents if top in p.parents])]:
        rules = rules_of(str(part), rules)
    if rules is not None and _leaves_out(rules, top, Path(folder)):
        return None
    return rules


def rules_of(folder: str, parent: IgnoreRules | None) -> IgnoreRules | None:
    """The rules inside `folder`: its own `.gitignore` before those of `parent`."""
    lines = _lines(Path(folder, ".gitignore"))
    return IgnoreRules(folder, lines, parent) if lines else parent


def _leaves_out(rules: IgnoreRules, top: Path, folder: Path) -> bool:
    between = [p for p in (folder, *folder.parents) if top in p.parents]
    return any(rules.ignores(str(path), folder=True) for path in between)


def _repository(folder: Path) -> Path | None:
    """The nearest folder, from `folder` upwards, that holds `.git` (a folder, or a file in a worktree)."""
    return next((p for p in (folder, *folder.parents) if (p / ".git").exists()), None)


def _exclude_file(top: str) -> IgnoreRules | None:
    lines = _lines(Path(top, ".git", "info", "exclude"))
    return IgnoreRules(top, lines, None) if lines else None


def _lines(path: Path) -> list[str]:
    """The lines of a rules file; none if there is no such file or it cannot be read, as git has it."""
    try:
        raw = path.read_bytes()
    except OSError:
        return []
    return os.fsdecode(raw.removeprefix(b"\xef\xbb\xbf")).splitlines()


def _compile(lines: Sequence[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:  # one bad pattern: git passes over that line and keeps the rest
        return GitIgnoreSpec.from_lines([line for line in lines if _valid(line)])


def _valid(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
