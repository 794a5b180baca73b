"""How a run looks to a person (a progress bar and a summary) and to a program (lines of JSON).

Everything goes to standard error but the JSON, which goes to standard output. It decides nothing about the run.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from embatch.decisions.lanes.words import count
from embatch.errors import EmbatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from embatch.decisions.progress import Progress
    from embatch.frontends.answer_job import AnswersOutcome
    from embatch.frontends.jobs import Outcome
    from embatch.types import LaneReport

_REFRESH_S = 0.2
_JSON_S = 1.0
LINE_S = 60.0
"""Seconds between two lines where no terminal shows a bar."""
_LEAST_DOLLARS = 1e-9  # less is an error of rounding


class Watcher:
    """Looks at a run at fixed distances in time, in a thread of its own, while the block runs.

    Args:
        look: how far the run is now.
        show: what is done with it.
        every_s: seconds between two looks.
        last: whether it looks once more at the end.
    """

    def __init__(
        self,
        look: Callable[[], Progress],
        show: Callable[[Progress], None],
        *,
        every_s: float,
        last: bool = True,
    ) -> None:
        self._last = last
        self._look = look
        self._show = show
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embatch-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None and self._last:
            self._show(self._look())

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._show(self._look())


def bar_view(look: Callable[[], Progress]) -> tuple[Bar, Watcher]:
    """A progress bar on standard error, and what keeps it moving. Enter the bar first, then the watcher."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[percent]:>4}"),
        TextColumn("{task.fields[rates]}"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        expand=True,
        refresh_per_second=5,
    )
    task: TaskID = bar.add_task("embedding", total=None, percent="", rates="", left="")

    def show(progress: Progress) -> None:
        percent = progress.percentage
        rates = f"{_short(progress.rate)} texts/s {_short(progress.tokens_rate)} tok/s"
        bar.update(
            task,
            completed=progress.completed,
            total=progress.total,
            percent="" if percent is None else f"{percent:.0f}%",
            rates=progress.note or rates,
            left="" if progress.eta is None else f"{duration(progress.eta)} left",
        )

    return bar, Watcher(look, show, every_s=_REFRESH_S)


def line_view(look: Callable[[], Progress], noun: str = "text") -> Watcher:
    """A line a minute on standard error, where nobody watches a bar: done of how many, what is waited for, money."""

    def show(progress: Progress) -> None:
        of = "" if progress.total is None else f" of {progress.total:,}"
        parts = [f"{progress.completed:,}{of} {noun}s", progress.note]
        parts.append("" if progress.eta is None else f"about {duration(progress.eta)} left")
        with suppress(OSError):  # nobody reads it any more: the run goes on
            sys.stderr.write(f"{', '.join(part for part in parts if part)}\n")
            sys.stderr.flush()

    return Watcher(look, show, every_s=LINE_S, last=False)


def json_view(look: Callable[[], Progress]) -> Watcher:
    """One line of JSON a second on standard output."""

    def show(progress: Progress) -> None:
        emit(
            "progress",
            completed=progress.completed,
            total=progress.total,
            failed=progress.failed,
            rate=round(progress.rate, 2),
            tokens_per_s=round(progress.tokens_rate, 1),
            eta_s=None if progress.eta is None else round(progress.eta, 1),
            **({"note": progress.note} if progress.note else {}),
        )

    return Watcher(look, show, every_s=_JSON_S)


def emit(event: str, **fields: Any) -> None:
    """One line of JSON on standard output. Once nobody reads it any more the run goes on without a word."""
    try:
        sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
        sys.stdout.flush()
    except OSError as error:
        # What could not be written waits in the stream, and would fail again at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"Progress and report cannot be written: {error.strerror}. The run goes on.\n")


@contextmanager
def ended_early(lanes: Callable[[], LaneReport | None], *, as_json: bool, quiet: bool) -> Iterator[None]:
    """Say what was paid if the run within comes to an early end; nothing of a model on this machine."""
    try:
        yield
    except EmbatchError as error:
        report = lanes()
        if report is not None and as_json:
            emit("stopped", error=type(error).__name__, message=str(error), lanes=report.to_dict())
        elif report is not None and not quiet and (report.calls or report.jobs or report.jobs_attached):
            sys.stderr.write(f"Until then: {paid(report)}\n")
        raise


def tell_finished(outcome: Outcome | AnswersOutcome, *, as_json: bool, quiet: bool) -> None:
    """Say why nothing is sent: the same was paid for before."""
    if as_json:
        emit("finished", output=str(outcome.output))
    elif not quiet:
        sys.stderr.write(
            f"{outcome.output} is there already, and nothing that it was made of has changed.\n"
            "So nothing is sent; --fresh sends everything again.\n"
        )


def notices(stored: int, changes: list[str]) -> list[str]:
    """What a resumed run says before it starts."""
    found = f"Going on with an interrupted run: {stored:,} vectors are already there."
    return ([found] if stored else []) + changes


def summary(outcome: Outcome, *, model: str, precision: str) -> list[str]:
    """What a run did, in lines of at most 80 columns (paths aside)."""
    report = outcome.report
    vectors = report.items - report.failed
    lines = [f"{count(vectors, 'vector')} in {duration(report.seconds)} → {outcome.output}"]
    if report.lanes is not None:
        lines += lane_lines(report.lanes, model)
    else:
        speed = f"{report.texts_per_s:,.0f} texts/s, {report.tokens_per_s:,.0f} tokens/s"
        lines += [
            f"  {speed}, {report.padding:.1%} padding, {report.budget:,} tokens a batch",
            f"  {model}, {precision}",
        ]
    parts = [
        (report.embedded, "embedded"),
        (report.duplicates, "repeats"),
        (report.cached, "already stored"),
        (report.truncated, "truncated"),
        (report.pooled, "averaged over windows"),
        (report.splits, "batches split" if report.lanes is not None else "batches split for memory"),
    ]
    told = ", ".join(f"{number:,} {what}" for number, what in parts if number)
    if told:
        lines.append(f"  {told}")
    if outcome.skipped:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(outcome.skipped.items()))
        lines.append(f"  files skipped: {reasons}")
    if report.failed:
        lines.append(f"  {count(report.failed, 'row')} without a vector: see {outcome.errors}")
    return lines


def lane_lines(lanes: LaneReport, model: str) -> list[str]:
    """What a run sent to a provider, what it cost, and what that saved."""
    ways = []
    if lanes.calls:
        ways.append(f"{count(lanes.calls, 'call')} ({count(lanes.call_items, 'text')})")
    if jobs := lanes.jobs + lanes.jobs_attached:
        ways.append(f"{count(jobs, 'job')} ({count(lanes.job_items, 'text')})")
    lines = [f"  {model}: {', '.join(ways) or 'nothing was sent'}", f"  {paid(lanes)}"]
    return lines + outcome_lines(lanes)


def outcome_lines(lanes: LaneReport) -> list[str]:
    """How a run through a provider went, beside what it cost: against what was expected, its troubles, its savings."""
    lines = []
    if lanes.estimated_tokens:
        lines.append(
            f"  {lanes.estimated_tokens:,} of the tokens are estimated: the provider did not count them"
        )
    if expected := _expected(lanes):
        lines.append(f"  {expected}")
    troubles = [
        (lanes.calls_refused, "call", "refused for a quota"),
        (lanes.calls_failed, "call", "failed"),
        (lanes.jobs_cancelled, "job", "cancelled"),
        (lanes.retried, "text", "sent again"),
        (lanes.cut, "cut", "made of texts that were refused as too long"),
    ]
    told = ", ".join(f"{count(number, noun)} {what}" for number, noun, what in troubles if number)
    if told:
        lines.append(f"  {told}")
    if lanes.strategy in {"batch", "hybrid"} and not lanes.job_items and lanes.call_items:
        lines.append("  no jobs: the model has none, or they were refused; calls did it all")
    saved = _saved(lanes)
    return [*lines, f"  estimated: {saved}"] if saved else lines


def paid(lanes: LaneReport) -> str:
    """`12,345 tokens, $0.0019`: what the provider will bill."""
    about = "about " if lanes.estimated_tokens else ""
    money = f"{about}{dollars(lanes.dollars)}" if lanes.priced else "no price known"
    earlier = f", and {dollars(lanes.earlier_dollars)} before" if lanes.earlier_dollars else ""
    return f"{about}{lanes.call_tokens + lanes.job_tokens:,} tokens, {money}{earlier}"


def _expected(lanes: LaneReport) -> str:
    """What was to be expected of the run, to hold against what it took; empty where nothing was reckoned."""
    if lanes.expected_seconds is None:
        return ""
    price = "" if lanes.expected_dollars is None else f"{dollars(lanes.expected_dollars)} in "
    return f"expected before: {price}{duration(lanes.expected_seconds)}"


def _saved(lanes: LaneReport) -> str:
    """What the choice of lanes has saved against only jobs, and only calls; empty if that is nothing."""
    told = []
    if lanes.saved_seconds and lanes.calls:
        more = "less" if lanes.saved_seconds >= 0 else "more"
        told.append(f"{duration(abs(lanes.saved_seconds))} {more} than all by jobs")
    if abs(lanes.saved_dollars or 0.0) >= _LEAST_DOLLARS and lanes.priced:
        saved = lanes.saved_dollars or 0.0
        told.append(f"{dollars(abs(saved))} {'less' if saved >= 0 else 'more'} than all by calls")
    return ", ".join(told)


def dollars(amount: float) -> str:
    """`$12.30`, `$0.0042`, `$0`."""
    if amount >= 1 or amount == 0:
        return f"${amount:,.2f}" if amount else "$0"
    return f"${amount:.2g}" if amount >= 1e-4 else f"${amount:.1e}"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _short(number: float) -> str:
    """`950`, `12.3k`, `1.2M`: at most five characters."""
    if number < 1000:
        return f"{number:.0f}"
    if number < 999_950:
        return f"{number / 1000:.1f}k"
    return f"{number / 1e6:.1f}M"
