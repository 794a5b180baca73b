"""The emulated provider itself: models, quotas, files, jobs and the ledger behind one lock, without any HTTP.

Sans-IO but for its store: `now` is an argument everywhere. The two providers' rooms say how it looks on the wire.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from typing import TYPE_CHECKING

from embatch.emulator import timing
from embatch.emulator.catalog import find_model
from embatch.emulator.faults import Script
from embatch.emulator.files import File
from embatch.emulator.jobs import ENDED, Job, advance, cancel, plan
from embatch.emulator.ledger import bill, billing, digest
from embatch.emulator.options import MIDNIGHT_PACIFIC, quotas_of
from embatch.emulator.quotas import DAY, Meter
from embatch.emulator.requests import Accepted, Requests
from embatch.emulator.rows import Outcome, charges, outcomes
from embatch.emulator.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from embatch.emulator.catalog import EmulatedModel, ProviderName
    from embatch.emulator.faults import Operation
    from embatch.emulator.ledger import Billing, Charge
    from embatch.emulator.options import EmulatorOptions, Quotas, RegimeName
    from embatch.emulator.quotas import Exceeded
    from embatch.emulator.rows import Row

Event = tuple[float, "Callable[[], None]"]
"""Virtual second, what to do."""

_HOUR = 3600.0
_KEPT_ROWS = 400_000  # of jobs lately read; beyond it, they are read again from their files


class Core:
    """One emulated provider.

    Args:
        provider: whose protocol is spoken.
        options: settings; quotas and regimes may change later.
        read_rows: reads a job's rows from its content.
    """

    def __init__(
        self,
        provider: ProviderName,
        options: EmulatorOptions,
        *,
        read_rows: Callable[[Job, Path], list[Row]],
    ) -> None:
        self.provider = provider
        self.options = options
        self.quotas = quotas_of(provider, options)
        self.lock = threading.RLock()
        self.store = Store(options.state)
        self.epoch = self._epoch()
        """Unix time at virtual second 0."""
        self.script = Script(provider, options.seed)
        self.requests = Requests()
        self.regimes = timing.Regimes(options.jobs, options.seed, self.store.meta("regimes"))
        self.events: list[Event] = []
        self._read_rows = read_rows
        self._draw = random.Random(f"{options.seed}:{self.store.meta('serial')}")  # noqa: S311  # a simulation
        self._meters: dict[str, Meter] = {}
        self._jobs = {record["id"]: Job.from_record(record) for record in self.store.all("job")}
        self._files = {record["id"]: File.from_record(record) for record in self.store.all("file")}
        self._active = {job.id for job in self._jobs.values() if not job.ended}
        self._rows: dict[str, list[Row]] = {}

    def close(self) -> None:
        """Give back the store."""
        with self.lock:
            self.store.close()

    def _epoch(self) -> float:
        """As it was at the first start with this state."""
        epoch = self.store.meta("epoch")
        if epoch is None:
            epoch = time.time() if self.options.epoch is None else self.options.epoch
            self.store.set_meta("epoch", epoch)
        return float(epoch)

    def unix(self, now: float) -> float:
        """Unix time of a virtual second."""
        return self.epoch + now

    def new_id(self, kind: str, digits: int = 24) -> str:
        """A name that was not given before, in lower-case letters and digits."""
        with self.lock:
            serial = (self.store.meta("serial") or 0) + 1
            self.store.set_meta("serial", serial)
        return hashlib.blake2b(f"{self.options.seed}:{kind}:{serial}".encode()).hexdigest()[:digits]

    def passing_id(self) -> str:
        """A name for something that nobody asks for later."""
        with self.lock:
            return f"{self._draw.getrandbits(128):032x}"

    # --- time ----------------------------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Let everything happen that is due by now: the scenario's events, and what jobs do."""
        with self.lock:
            while self.events and self.events[0][0] <= now:
                at, act = self.events.pop(0)
                self._advance_jobs(at)
                act()
            self._advance_jobs(now)

    def set_quotas(self, quotas: Quotas, now: float) -> None:
        """Other limits from now on, for all models."""
        with self.lock:
            self.quotas = quotas
            for meter in self._meters.values():
                meter.change(quotas, now)

    def set_regime(self, regime: RegimeName | None, now: float) -> None:
        """From now on jobs fare so; None: as the seed has it."""
        with self.lock:
            self._advance_jobs(now)
            self.regimes.force(regime, now)
            self.store.set_meta("regimes", self.regimes.forced)

    # --- calls ---------------------------------------------------------------------------------------------------

    def admit(
        self, operation: Operation, model: EmulatedModel, now: float, *, items: int, tokens: int
    ) -> Exceeded | None:
        """Take a request's amounts from the model's quotas, or say which has no room."""
        with self.lock:
            exceeded = self.meter(model.name, now).admit(now, items=items, tokens=tokens)
            if exceeded is None:
                self.requests.accepted.append(Accepted(now, operation, items, tokens))
            return exceeded

    def meter(self, model: str, now: float) -> Meter:
        """The quotas of a model, as they are used."""
        if model not in self._meters:
            midnight = (MIDNIGHT_PACIFIC - self.epoch) % DAY
            self._meters[model] = Meter(self.quotas, now, midnight)
        return self._meters[model]

    def is_overloaded(self, now: float) -> bool:
        """Whether this call meets an overloaded model."""
        return timing.overloaded(self._draw, self.options.latency, self.options.seed, now)

    def call_s(self, *, items: int, tokens: int, output_tokens: int = 0) -> float:
        """How long a synchronous call takes."""
        return timing.call_s(
            self._draw, self.options.latency, items=items, tokens=tokens, output_tokens=output_tokens
        )

    def control_s(self) -> float:
        """How long everything else takes."""
        return self._draw.uniform(*self.options.latency.control_s)

    def charge(self, model: EmulatedModel, items: Iterable[Charge], now: float) -> None:
        """Bill a synchronous call."""
        with self.lock:
            bill(self.store, self.options, model, items, now=now)

    def billing(self, now: float, *, entries: bool = True) -> Billing:
        """The ledger."""
        with self.lock:
            self.settle(now)
            return billing(self.store, entries=entries)

    def billed(self, text: str, now: float) -> int:
        """How often a text was billed."""
        with self.lock:
            self.settle(now)
            return self.store.billed_texts(bytes.fromhex(digest(text)))

    # --- files ---------------------------------------------------------------------------------------------------

    def put_file(self, file: File) -> None:
        """Keep a file's record."""
        with self.lock:
            self._files[file.id] = file
            self.store.put("file", file.id, file.to_record())

    def file(self, name: str, now: float) -> File | None:
        """A file that is there now."""
        with self.lock:
            file = self._files.get(name)
            if file is None or (file.expires is not None and file.expires <= now):
                return None
            return file

    def files(self, now: float) -> list[File]:
        """All files that are whole and there now, oldest first."""
        with self.lock:
            return [file for name in self._files if (file := self.file(name, now)) and file.is_whole]

    def delete_file(self, name: str) -> None:
        """Delete a file. Jobs that were made from it keep their rows."""
        with self.lock:
            self._files.pop(name, None)
            self.store.delete("file", name)
            self.store.remove(name)

    # --- jobs ----------------------------------------------------------------------------------------------------

    def create_job(self, job: Job, rows: list[Row], now: float) -> Job:
        """Take a job. Its content must lie in the store, under the job's name with `.rows` behind it."""
        with self.lock:
            job.rows = len(rows)
            job.items = sum(len(row.pieces) or 1 for row in rows)
            job.tokens = sum(row.tokens for row in rows)
            plan(job, self.options.jobs, self._draw)
            if "job_expires" in job.quirks:
                job.expires = min(job.expires, job.created + job.quirks["job_expires"])
            job.hidden_until = now + max(self.options.list_lag_s, job.quirks.get("list_lag", 0.0))
            self._keep_rows(job, rows)
            self._jobs[job.id] = job
            self._active.add(job.id)
            self._save(job)
            return job

    def job(self, name: str, now: float) -> Job | None:
        """A job as it stands; deleted ones are gone."""
        with self.lock:
            self.settle(now)
            job = self._jobs.get(name)
            return None if job is None or job.deleted else job

    def jobs(self, now: float, *, hidden: bool = True) -> list[Job]:
        """All jobs as they stand, oldest first; without `hidden`, those only that lists show."""
        with self.lock:
            self.settle(now)
            return [
                job for job in self._jobs.values() if hidden or not (job.deleted or job.hidden_until > now)
            ]

    def under_way(self, now: float, model: str | None = None) -> list[Job]:
        """Jobs that have not ended, of one model or all."""
        with self.lock:
            self.settle(now)
            jobs = (self._jobs[name] for name in self._active)
            return [job for job in jobs if model is None or job.model == model]

    def jobs_since(self, then: float) -> int:
        """How many jobs were created after a time."""
        with self.lock:
            return sum(job.created > then for job in self._jobs.values())

    def cancel(self, job: Job, now: float) -> None:
        """Ask for a job's end."""
        with self.lock:
            cancel(job, now)
            self._save(job)

    def delete_job(self, job: Job) -> None:
        """Forget a job. One that has not ended goes on, and is billed."""
        with self.lock:
            job.deleted = True
            self._save(job)

    def rows(self, job: Job) -> list[Row]:
        """A job's rows, in the order of its input."""
        with self.lock:
            if job.id not in self._rows:
                self._keep_rows(job, self._read_rows(job, self.store.path(f"{job.id}.rows")))
            return self._rows[job.id]

    def outcomes(self, job: Job) -> list[Outcome]:
        """What became of each row."""
        return outcomes(job, self.rows(job), self.options.rows, self.options.seed)

    def _advance_jobs(self, now: float) -> None:
        for name in list(self._active):
            job = self._jobs[name]
            changed = advance(job, now, self.regimes)
            if job.state in ENDED:
                with self.store.transaction():
                    self._finish(job)
                    self._save(job)
                self._active.discard(name)
            elif changed:
                self._save(job)

    def _finish(self, job: Job) -> None:
        """Count, bill and hand out what a job has done."""
        if job.state == "failed":
            return
        rows, found = self.rows(job), self.outcomes(job)
        good = list(charges(rows, found))
        job.good = found.count(Outcome.GOOD)
        job.bad = len(found) - job.good - found.count(Outcome.UNDONE)
        job.used_tokens = sum(charge.tokens for charge in good)
        job.output_tokens = sum(charge.output_tokens for charge in good)
        model = find_model(job.model)
        kept = self.provider == "openai" or job.state == "succeeded"
        if model is not None and (kept or self.options.bill_cancelled):
            at = job.created if job.ended_at is None else job.ended_at
            bill(self.store, self.options, model, good, now=at, job=job.id)
        if kept and "no_output" not in job.quirks:
            self._make_outputs(job, found)

    def _make_outputs(self, job: Job, found: list[Outcome]) -> None:
        at = job.ended_at or job.created
        if self.provider == "gemini":
            if job.source:
                job.output = f"batch-{job.id}"
                self.put_file(
                    File(id=job.output, mime="text/plain", created=at, job=job.id, role="output", size=None)
                )
            return
        for role, wanted in (("output", job.good > 0), ("errors", job.good < len(found))):
            if wanted:
                name = f"file-{self.new_id('file')}"
                setattr(job, role, name)
                kind = "output" if role == "output" else "error"
                self.put_file(
                    File(
                        id=name,
                        name=f"{job.id}_{kind}.jsonl",
                        mime="application/jsonl",
                        created=at,
                        purpose="batch_output",
                        role="output" if role == "output" else "errors",
                        job=job.id,
                    )
                )

    def _keep_rows(self, job: Job, rows: list[Row]) -> None:
        self._rows[job.id] = rows
        while len(self._rows) > 1 and sum(map(len, self._rows.values())) > _KEPT_ROWS:
            del self._rows[next(iter(self._rows))]

    def _save(self, job: Job) -> None:
        self.store.put("job", job.id, job.to_record())
