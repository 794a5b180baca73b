"""`embatch runs list | show | resume | cancel`: runs through a provider, and what they left there."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import OutputBusyError, OutputError, ProviderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embatch.remote import LedgerJob
    from embatch.storage.ledger_peek import LedgerView
    from embatch.storage.runs import KnownRun


@click.group(short_help="List, show, resume and cancel runs through a provider.")
def runs() -> None:
    """Runs through a provider. One that was stopped or killed can go on; its jobs may still be at work."""


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="At most so many."
)
def list_runs(*, as_json: bool, limit: int) -> None:
    """List runs."""
    from embatch.storage.runs import default_registry

    known = default_registry().runs(limit)
    if as_json:
        for run in known:
            state, view = _state(run)
            jobs = _open_jobs(view)
            click.echo(json.dumps({**run._asdict(), "state": state, "jobs_under_way": len(jobs)}))
        return
    if not known:
        click.echo("No runs yet.")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from embatch.frontends.view import dollars

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "jobs", "dollars", "model", "output", "updated"):
        table.add_column(name, justify="right" if name in {"jobs", "dollars"} else "left", overflow="fold")
    for run in known:
        state, view = _state(run)
        paid = dollars(float(run.summary.get("dollars", 0))) if run.summary else ""
        under_way = str(len(_open_jobs(view)) or "")
        table.add_row(run.id, state, under_way, paid, run.model, _output(run), _ago(run.updated))
    Console().print(table)


@runs.command("show")
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show_run(*, run_id: str, as_json: bool) -> None:
    """Show what is known of one run: jobs, bill, decisions, and the command that goes on with it."""
    run = _one(run_id)
    state, view = _state(run)
    if as_json:
        jobs = [] if view is None else [job._asdict() for job in view.jobs]
        click.echo(json.dumps({**run._asdict(), "state": state, "jobs": jobs}, default=_plain))
        return
    for name, value in _lines(run, state, view):
        click.echo(f"{name:<10}  {value}")


@runs.command("resume")
@click.argument("run_id", metavar="RUN")
def resume_run(*, run_id: str) -> int:
    """Go on with a run: the command that began it, given again where it was given."""
    from embatch.frontends.cli import main

    run = _one(run_id)
    if not run.command:
        raise UsageError(
            f"run {run.id} was begun by a program, not by a command",
            hint="Run the program again with the same texts: it takes the results of its jobs.",
        )
    if not Path(run.folder).is_dir():
        raise UsageError(f"the folder of run {run.id}, {run.folder!r}, is gone")
    os.chdir(run.folder)
    click.echo(f"embatch {' '.join(run.command)}", err=True)
    return main(run.command)


@runs.command("cancel")
@click.argument("run_id", metavar="RUN")
def cancel_run(*, run_id: str) -> int:
    """Cancel a run's jobs at the provider. What was paid for already stays for the next run."""
    from embatch.storage.ledger_peek import peek_ledger
    from embatch.storage.runs import default_registry

    run = _one(run_id)
    path = Path(run.ledger)
    try:
        found = peek_ledger(path)
    except OutputBusyError as error:
        raise OutputBusyError(
            f"run {run.id} is at work in another process",
            hint="Stop that one first (Ctrl-C there), then cancel.",
        ) from error
    if found is None:
        default_registry().end(run.id, "cancelled" if run.state != "done" else "done", run.summary)
        click.echo(f"Run {run.id} has no jobs under way.")
        return 0
    failed = _cancel(run, path)
    if failed:
        click.echo(f"{failed} job(s) could not be cancelled; try again.", err=True)
        return ProviderError.exit_code
    default_registry().end(run.id, "cancelled", run.summary)
    return 0


def _cancel(run: KnownRun, path: Path) -> int:
    """Cancel all jobs of a run; how many could not be."""
    from embatch.providers.registry import open_provider
    from embatch.storage.ledger import Ledger
    from embatch.storage.ledger_peek import peek_ledger

    view = peek_ledger(path)
    assert view is not None
    fingerprint = view.about.get("fingerprint", "")
    ledger = Ledger.open(path, fingerprint=fingerprint, about=view.about)
    failed = 0
    try:
        jobs = ledger.jobs(done=False)
        provider = open_provider(run.model, base_url=view.about.get("base_url")) if jobs else None
        for job in jobs:
            assert provider is not None
            try:
                ref = job.ref or provider.find(job.tag)
                if ref is not None:
                    provider.cancel(ref)
            except ProviderError as error:
                click.echo(f"Job {job.tag}: {error}", err=True)
                failed += 1
                continue
            ledger.drop_job(job.number, "cancelled")
            click.echo(f"Cancelled job {job.tag} with {job.items:,} texts.")
        if provider is not None:
            provider.close()
    finally:
        if failed or ledger.has_answers():  # generated answers are paid for, and the next run takes them
            ledger.close()
        else:
            ledger.finish()
    return failed


def _one(prefix: str) -> KnownRun:
    from embatch.storage.runs import default_registry

    found = default_registry().find(prefix)
    if not found:
        raise UsageError(f"there is no run {prefix!r}", hint="See `embatch runs list`.")
    if len(found) > 1 and found[0].id != prefix:
        raise UsageError(f"several runs begin with {prefix!r}", hint="Give more of the run's id.")
    return found[0]


def _state(run: KnownRun) -> tuple[str, LedgerView | None]:
    """How a run stands: its process may have been killed without a word, the ledger's lock tells."""
    from embatch.storage.ledger_peek import peek_ledger

    try:
        view = peek_ledger(Path(run.ledger))
    except OutputBusyError:
        return "running", None
    except OutputError:  # one broken file must not hide the other runs
        return "unreadable", None
    if view is None or view.run_id != run.id:
        return ("lost" if run.state in {"running", "stopped"} else run.state), None
    return ("killed" if run.state == "running" else run.state), view


def _open_jobs(view: LedgerView | None) -> list[LedgerJob]:
    return [] if view is None else [job for job in view.jobs if not job.done]


def _lines(run: KnownRun, state: str, view: LedgerView | None) -> Iterator[tuple[str, str]]:
    from embatch.frontends.view import dollars

    yield "run", f"{run.id} ({state})"
    yield "model", run.model
    yield "output", run.output
    yield "started", run.started
    yield "updated", run.updated
    if view is not None:
        for lane, bill in view.bills.items():
            words = f"{bill.requests:,} requests, {bill.items:,} texts, {bill.tokens:,} tokens, {dollars(bill.dollars)}"
            yield lane, words
        if view.pending.requests:
            under_way = f"{view.pending.requests:,} requests whose bill is not known"
            yield (
                "in doubt",
                f"{under_way}, {view.pending.tokens:,} tokens, {dollars(view.pending.dollars)} at most",
            )
        for job in view.jobs:
            age = _span(time.time() - (job.accepted or job.intended))
            name = job.ref.id if job.ref is not None else "not confirmed"
            yield f"job {job.number}", f"{job.state}, {job.items:,} texts, {age} old, {name}"
    elif run.summary:
        yield (
            "texts",
            f"{run.summary.get('call_items', 0):,} by calls, {run.summary.get('job_items', 0):,} by jobs",
        )
        yield "dollars", dollars(float(run.summary.get("dollars", 0)))
    for decision in run.summary.get("decisions", [])[-5:]:
        yield "decided", decision
    if run.command and state not in {"done", "cancelled"}:
        yield "go on", f"embatch runs resume {run.id}"


def _output(run: KnownRun) -> str:
    return Path(run.output).name if run.command else "(a program's call)"


def _ago(stamp: str) -> str:
    from datetime import UTC, datetime

    return f"{_span((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds())} ago"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _plain(value: object) -> Any:
    return {name: getattr(value, name) for name in getattr(value, "__slots__", ())} or str(value)
