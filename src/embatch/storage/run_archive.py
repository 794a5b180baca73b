"""Reads records of runs: whole ones, those of killed runs, and damaged ones as far as they go."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from embatch.errors import SourceFormatError, SourceUnreadableError, UsageError
from embatch.storage.run_records import KINDS, SUFFIX, records_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embatch.seen_lanes import RunSeen

_SHOWN = 5  # known runs in a message
_CLOCK_S = 2.0  # by which the start of a process and that of its record may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRecord:
    """A record by its first line."""

    id: str
    path: Path
    head: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`embed`, `index`, `generate` or `serve`."""
        return str(self.head.get("kind", "?"))

    @property
    def start(self) -> float:
        """Seconds since the epoch."""
        return float(self.head.get("start", 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A whole record."""

    id: str
    head: Mapping[str, Any]
    foot: Mapping[str, Any] = field(default_factory=dict)
    """Empty if the run was killed, or still goes on."""
    events: tuple[tuple[RunSeen, int], ...] = ()
    """Each with how many of its kind it stands for."""
    state: str = "killed"
    """`done`, `interrupted`, `failed`, `running` or `killed`."""
    damaged: int = 0
    """Lines that could not be read."""


def known_records(folder: Path | None = None) -> list[KnownRecord]:
    """All records, newest first."""
    folder = folder or records_folder()
    found = []
    for path in folder.glob(f"*{SUFFIX}") if folder.is_dir() else ():
        head = _head(path)
        if head is not None:
            found.append(KnownRecord(id=path.name.removesuffix(SUFFIX), path=path, head=head))
    return sorted(found, key=lambda record: record.start, reverse=True)


def find_record(name: str = "last", folder: Path | None = None) -> KnownRecord:
    """The record that a name means.

    Args:
        name: a run's id or the beginning of one, the output of a run, or `last`.
        folder: where records lie; the user's own if None.

    Raises:
        UsageError: there is none, or several; the known ones are named.
    """
    known = known_records(folder)
    if not known:
        raise UsageError(
            "no run has been recorded yet",
            hint="Run `embatch embed`, `index`, `generate` or `serve` first, without --no-record.",
        )
    if name == "last":
        return known[0]
    exact = [record for record in known if record.id == name]
    begun = [record for record in known if name.strip() and record.id.startswith(name)]
    if found := exact or begun:
        if len(found) > 1:
            raise UsageError(
                f"several runs begin with {name!r}: {_named(found)}", hint="Give more of the id."
            )
        return found[0]
    made = [record for record in known if _is_output(name, record.head)]
    if made:
        return made[0]
    raise UsageError(
        f"no run {name!r} was recorded; known are {_named(known)}", hint="See `embatch report --list`."
    )


def read_record(known: KnownRecord) -> RunRecord:
    """All of a record that can be read.

    Raises:
        SourceError: the file cannot be read at all, or is no record.
    """
    head: Mapping[str, Any] | None = None
    foot: Mapping[str, Any] = {}
    events: list[tuple[RunSeen, int]] = []
    damaged = 0
    for line in _lines(known.path):
        if line is None:
            damaged += 1
        elif line[0] == "head" and len(line) == 2 and isinstance(line[1], dict):
            head = head or line[1]
        elif line[0] == "foot" and len(line) == 2 and isinstance(line[1], dict):
            foot = line[1]
        else:
            event = _event(line, (head or {}).get("fields", {}))
            if event is not None:
                events.append(event)
            elif line[0] in KINDS:
                damaged += 1
    if head is None:
        raise SourceFormatError(f"{known.path.name!r} is no record of a run", hint="Delete it.")
    state = str(foot.get("state") or ("running" if _alive(head) else "killed"))
    return RunRecord(id=known.id, head=head, foot=foot, events=tuple(events), state=state, damaged=damaged)


def _lines(path: Path) -> Iterator[list[Any] | None]:
    """The lines; None for one that is damaged."""
    try:
        with path.open("rb") as file:
            for raw in file:
                yield _parsed(raw)
    except OSError as error:
        raise SourceUnreadableError(f"the record {path.name!r} cannot be read: {error.strerror}") from error


def _parsed(raw: bytes) -> list[Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:  # of JSON and of UTF-8: cut off by a kill, or by a full disk
        return None
    return line if isinstance(line, list) and line else None


def _event(line: list[Any], names: Mapping[str, Any]) -> tuple[RunSeen, int] | None:
    """The event of a line, by the fields that its own record names; None if it is none that is known."""
    kind = KINDS.get(line[0]) if isinstance(line[0], str) else None
    told = names.get(line[0]) if kind is not None else None
    if kind is None or not isinstance(told, list) or len(line) != len(told) + 2:
        return None
    values = dict(zip(told, map(_value, line[2:]), strict=True))
    if not isinstance(line[1], int) or line[1] < 1:
        return None
    wanted = {}
    for each in fields(kind):
        if each.name in values:
            if not _fits(values[each.name], str(each.type)):
                return None
            wanted[each.name] = values[each.name]
    try:
        return kind(**wanted), line[1]
    except TypeError:  # a field that this version needs
        return None


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _fits(value: object, wanted: str) -> bool:
    """Whether a value can be that of a field, by its annotation."""
    if value is None:
        return "None" in wanted
    if wanted.startswith(("int", "float")):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted.startswith("tuple"):
        return isinstance(value, tuple) and all(isinstance(each, int) for each in value)
    return isinstance(value, bool) if wanted == "bool" else isinstance(value, str)


def _head(path: Path) -> Mapping[str, Any] | None:
    try:
        with path.open("rb") as file:
            line = json.loads(file.readline(1_000_000))
    except (OSError, ValueError):
        return None
    good = isinstance(line, list) and len(line) == 2 and line[0] == "head" and isinstance(line[1], dict)
    return line[1] if good and isinstance(line[1].get("start"), int | float) else None


def _alive(head: Mapping[str, Any]) -> bool:
    """Whether the process that wrote the record still runs here."""
    pid = head.get("pid")
    if head.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    if pid == os.getpid():
        return True
    try:
        return bool(psutil.Process(pid).create_time() <= float(head["start"]) + _CLOCK_S)
    except psutil.Error:
        return False


def _is_output(name: str, head: Mapping[str, Any]) -> bool:
    output = head.get("output")
    return bool(output) and (name == output or str(Path(name).absolute()) == output)


def _named(records: list[KnownRecord]) -> str:
    listed = [f"{record.id} ({record.kind})" for record in records[:_SHOWN]]
    more = len(records) - _SHOWN
    return ", ".join([*listed, f"and {more} more"] if more > 0 else listed)
