"""What the commands about tasks say: answers as JSON on standard output, words for people on standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.frontends.tasks.monitor import Totals
    from embatch.frontends.tasks.records import TaskFailure
    from embatch.frontends.tasks.workspace import Corpus, RecordReport, TaskMemory


def recorded_words(report: RecordReport) -> str:
    """What was recorded, how fast, with which model."""
    count = len(report.recorded)
    each = f", {1000 * report.seconds / count:.2f} ms each" if count else ""
    return f"Recorded {count:,} task{'' if count == 1 else 's'} in {report.seconds:.3f} s{each}, with {report.model}."


def tell_failures(failed: Sequence[TaskFailure]) -> None:
    """Which tasks could not be dealt with, and the way out."""
    for failure in failed:
        name = f"{failure.task}: " if failure.task else ""
        say(f"Error: {name}{failure.error}\n  → {failure.error.hint}")


def tell_corpus(memory: TaskMemory, corpus: Corpus) -> None:
    """What in the file could not take part in a query, and why."""
    for problem in corpus.problems:
        say(f"Line {problem.line} of {memory.file.path} is no record and was passed over: {problem.reason}")
    if corpus.torn:
        say(f"{memory.file.path} ends in an unfinished line; the next recording keeps it aside.")
    for model, count in corpus.other_models.items():
        made = f"with {model}" if model else "by a program that does not say with which model"
        tasks = "1 task" if count == 1 else f"{count:,} tasks"
        say(
            f"{tasks} recorded {made} cannot be compared with {memory.embedder.model}.\n"
            f"  → Run `embatch tasks reindex {memory.workspace} --embedding-mode {memory.embedder.mode}`, "
            "or ask in the mode that they were recorded in."
        )
    if not corpus.records and not corpus.other_models:
        say(f"No tasks are recorded in {memory.workspace} yet.")


def say(text: str) -> None:
    """A line for people."""
    click.echo(text, err=True)


def answer(**facts: Any) -> None:
    """One line of JSON on standard output."""
    click.echo(json.dumps(facts))
    sys.stdout.flush()


def tell_batch(report: RecordReport) -> None:
    """What a monitor's batch did; its answer confirms what is durable."""
    tell_failures(report.failed)
    if report.recorded:
        say(recorded_words(report))
    failed = {"failed": [failure.to_dict() for failure in report.failed]} if report.failed else {}
    answer(success=not report.failed, count=len(report.recorded), recorded=report.recorded, **failed)


def ended(total: Totals) -> int:
    """What a monitor did in all, and its exit code."""
    words = f"Recorded {total.recorded:,} tasks in {total.batches:,} batches"
    say(f"{words}, {total.failed:,} failed." if total.failed else f"{words}.")
    return 1 if total.failed else 0
