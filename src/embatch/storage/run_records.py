"""Records of runs: what `embatch report` shows of a run of `embed`, `index`, `generate` or `serve` that is over.

A record is a bounded file of JSON lines in the user's folder, written while the run goes, so that a killed run leaves
one as well. It holds keys, paths and figures, and neither a text nor a secret. Whatever goes wrong with it never
touches the run. A run is recorded like this, and tells the record as its observer:

    from embatch.storage.run_records import open_record

    with open_record("serve", command=sys.argv[1:], model="minilm", device=device, settings={...}) as record:
        serve(observer=record)          # record.see(BatchSeen(...)), record.see(AskSeen(...)): from any thread
        record.end(requests=..., seconds=...)   # optional: what the run wants to have said at its end

Leaving the block writes how the run ended: done, interrupted or failed. What was recorded is read by `run_archive`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

from embatch._version import __version__
from embatch.errors import InterruptedRunError
from embatch.seen import AskSeen, BatchSeen
from embatch.seen_lanes import (
    BlockSeen,
    CallSeen,
    DecisionSeen,
    FailureSeen,
    JobSeen,
    LaneSeen,
    OutlookSeen,
    PauseSeen,
    TunerSeen,
    WindowSeen,
)
from embatch.storage.folders import user_folder
from embatch.storage.scrubbing import scrubbed, scrubbed_command, scrubbed_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    from embatch.seen_lanes import RunSeen

FORMAT = 1
SUFFIX = ".jsonl"
KEPT_RECORDS = 100
KEPT_FAILURES = 1000
SWITCH = "EMBATCH_RECORD"
"""Environment: 0 records nothing."""
_FLUSH_S = 0.5
_MOST_QUEUED = 100_000  # if the disk stalls, the oldest are lost, not the memory
_DENSE_ROUNDS, _DENSE, _SPARSE = 6, 1000, 100  # events kept at each step of thinning; see `Thinner`
_MOST_ROUNDS = 30
_LIBRARIES = ("numpy", "openvino", "torch", "transformers", "tokenizers", "openai", "google-genai", "pylance")
_log = logging.getLogger(__name__)

KINDS: dict[str, type[RunSeen]] = {
    kind.__name__: kind
    for kind in (
        BatchSeen,
        AskSeen,
        WindowSeen,
        BlockSeen,
        TunerSeen,
        FailureSeen,
        LaneSeen,
        OutlookSeen,
        CallSeen,
        JobSeen,
        PauseSeen,
        DecisionSeen,
    )
}
"""Every kind of event that a record may hold, by name."""
_FIELDS = {name: tuple(field.name for field in fields(kind)) for name, kind in KINDS.items()}


class Thinner:
    """Keeps a bounded number of any number of events: all at first, then every second, fourth, and so on.

    1,000 events are kept at each of the first steps and 100 at each later one, so that at most about 9,000 are kept of
    a billion, and the last half of a run has at least 100.
    """

    def __init__(self) -> None:
        self._round, self._kept, self._since = 0, 0, 0

    @property
    def step(self) -> int:
        """One of so many is kept now."""
        return 1 << self._round

    def take(self) -> int:
        """0 to leave the next event out, or how many it stands for, itself included."""
        self._since += 1
        if self._since < self.step:
            return 0
        stands, self._since = self._since, 0
        self._kept += 1
        if self._kept >= (_DENSE if self._round < _DENSE_ROUNDS else _SPARSE) and self._round < _MOST_ROUNDS:
            self._round, self._kept = self._round + 1, 0
        return stands


class RecordObserver:
    """The record of one run: an observer, and a context manager around the run.

    Nothing is written before it is entered; told before that or after its end, it forgets.

    Args:
        kind: `embed`, `index`, `generate` or `serve`.
        head: what is known when the run begins.
        folder: where records lie.
        enabled: whether anything is recorded at all.
    """

    def __init__(self, kind: str, head: Mapping[str, Any], folder: Path, *, enabled: bool = True) -> None:
        self.id = secrets.token_hex(4)
        """Names the record: for runs over a provider, their own id as soon as it is known."""
        self._folder = folder
        self._head = {"format": FORMAT, "kind": kind, **head}
        self._enabled = enabled
        self._queue: deque[RunSeen] = deque(maxlen=_MOST_QUEUED)
        self._thinners: dict[str, Thinner] = {}
        self._failures = 0
        self._foot: dict[str, Any] = {}
        self._file: IO[str] | None = None
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write_on, name="embatch-record", daemon=True)

    @property
    def path(self) -> Path:
        """The record's file; it may not be there."""
        return self._folder / f"{self.id}{SUFFIX}"

    def see(self, seen: RunSeen) -> None:
        """Keep an event for the writer. Costs an append to a queue; never raises."""
        if self._file is not None:
            self._queue.append(seen)

    def begin_with(self, **head: Any) -> None:
        """More of what is known when the run begins; before the block is entered."""
        self._head.update(head)

    def end(self, **foot: Any) -> None:
        """What the run did in all, such as its report as a dict; more than one call adds up, newest first."""
        self._foot.update(foot)

    # --- around the run ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._enabled:
            try:
                self._open()
            except OSError as error:
                self._give_up(error)
            else:
                self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._writer.is_alive():
            return
        self._stop.set()
        self._writer.join()
        with suppress(OSError, ValueError):  # recording has stopped, and said so
            if self._file is not None:
                self._file.write(_line({**self._foot, **_ending(error), "end": time.time()}, "foot"))
                self._file.close()
        self._file = None

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("x", encoding="utf-8")
        head = {
            **self._head,
            "id": self.id,
            "start": time.time(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "versions": _versions(),
            "fields": _FIELDS,
        }
        self._file.write(_line(head, "head"))
        self._file.flush()

    def _give_up(self, error: Exception) -> None:
        """Stop recording; the run goes on."""
        _log.debug("this run is recorded no further: %s", error)
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what could not be written fails again here
                file.close()
        self._queue.clear()

    # --- the writer's thread ----------------------------------------------------------------------------------

    def _write_on(self) -> None:
        try:
            prune(self._folder)
            while not self._stop.wait(_FLUSH_S):
                self._flush()
            self._flush()
        except (OSError, ValueError, TypeError) as error:
            self._give_up(error)

    def _flush(self) -> None:
        lines = []
        for _ in range(len(self._queue)):
            seen = self._queue.popleft()
            if isinstance(seen, LaneSeen) and seen.run_id and seen.run_id != self.id:
                self._rename(seen.run_id)
            lines.append(self._line_of(seen))
        text = "".join(line for line in lines if line)
        if text and self._file is not None:
            self._file.write(text)
            self._file.flush()

    def _line_of(self, seen: RunSeen) -> str:
        name = type(seen).__name__
        stands = 1
        if isinstance(seen, FailureSeen):
            self._failures += 1
            stands = 1 if self._failures <= KEPT_FAILURES else 0
        elif not isinstance(seen, LaneSeen | OutlookSeen):
            stands = self._thinners.setdefault(name, Thinner()).take()
        if not stands or name not in _FIELDS:
            return ""
        values = [_short(getattr(seen, field)) for field in _FIELDS[name]]
        return json.dumps([name, stands, *values], separators=(",", ":"), default=str) + "\n"

    def _rename(self, run_id: str) -> None:
        """Take the id of a run over a provider, so that its other commands know it by the same."""
        old, was, file = self.path, self.id, self._file
        if file is None or not run_id.isalnum():
            return
        try:
            make_room(self._folder, run_id)
            file.close()  # some systems rename no open file
            self.id = run_id
            old.rename(self.path)
        except OSError as error:
            _log.debug("the record keeps the name %s: %s", was, error)
            self.id = was
        self._file = self.path.open("a", encoding="utf-8")


def open_record(
    kind: str,
    *,
    command: Sequence[str] = (),
    folder: Path | None = None,
    enabled: bool = True,
    settings: Mapping[str, Any] | None = None,
    **about: Any,
) -> RecordObserver:
    """A record for a run, to be entered when the run begins.

    Args:
        kind: `embed`, `index`, `generate` or `serve`.
        command: the arguments of the command; what may be a secret or a text in them is left out.
        folder: where records lie; the user's own if None.
        enabled: False, or `EMBATCH_RECORD=0` in the environment, records nothing.
        settings: by name; the same is left out of them.
        **about: anything else that is worth a line in a report: `model`, `device`, `spec` (a dict), `sources`,
            `output`.
    """
    head: dict[str, Any] = {
        "command": scrubbed_command(command),
        "settings": scrubbed_settings(settings or {}),
        **about,
    }
    wanted = enabled and os.environ.get(SWITCH, "").strip().lower() not in {"0", "no", "off", "false"}
    return RecordObserver(kind, head, folder or records_folder(), enabled=wanted)


def records_folder() -> Path:
    """Where the user's records lie. It may not exist yet."""
    return user_folder() / "records"


def make_room(folder: Path, run_id: str) -> None:
    """Give the record of an earlier part of a run another name, `ID.1`, `ID.2` and so on."""
    path = folder / f"{run_id}{SUFFIX}"
    if not path.exists():
        return
    number = 1
    while (aside := folder / f"{run_id}.{number}{SUFFIX}").exists():
        number += 1
    path.rename(aside)


def prune(folder: Path, keep: int = KEPT_RECORDS) -> None:
    """Keep the newest records only."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):  # somebody else has dropped it
            found.append((path.stat().st_mtime, path))
    for _, path in sorted(found, reverse=True)[keep:]:
        with suppress(OSError):
            path.unlink()


def _line(values: Mapping[str, Any], name: str) -> str:
    return json.dumps([name, values], separators=(",", ":"), default=_plain) + "\n"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, set | frozenset | tuple) else str(value)


def _short(value: object) -> object:
    """Times to the microsecond, small amounts to six digits."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if abs(value) >= 1 else float(f"{value:.6g}")


def _ending(error: BaseException | None) -> dict[str, str]:
    if error is None:
        return {"state": "done"}
    if isinstance(error, KeyboardInterrupt | InterruptedRunError):
        return {"state": "interrupted", "message": scrubbed(str(error))}
    return {"state": "failed", "error": type(error).__name__, "message": scrubbed(str(error)[:500])}


def _versions(names: Iterable[str] = _LIBRARIES) -> dict[str, str]:
    """Of ourselves, Python, the system and the libraries that are loaded."""
    from importlib.metadata import PackageNotFoundError, version

    found = {
        "embatch": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    modules = {"google-genai": "google.genai", "pylance": "lance"}
    for name in names:
        if modules.get(name, name) in sys.modules:
            with suppress(PackageNotFoundError):
                found[name] = version(name)
    return found
