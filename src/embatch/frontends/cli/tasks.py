"""`embatch tasks record | query | reindex | monitor`: the memory of past tasks.

Answers go to standard output as JSON, everything else to standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import EmbatchError, SourceNotFoundError, UsageError
from embatch.frontends.tasks.telling import (
    answer,
    ended,
    recorded_words,
    say,
    tell_batch,
    tell_corpus,
    tell_failures,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embatch.frontends.tasks.records import Entry, TaskFailure

PARTIAL = 2
_OPTIONS = {
    "token_normalize_func": lambda name: name.replace("_", "-")
}  # --duration_ms as well as --duration-ms


class _Tasks(click.Group):
    """Ends every mistake with exit code 1, a message on standard error, and an answer that programs can read."""

    def invoke(self, ctx: click.Context) -> Any:
        from embatch.frontends.cli import show_error

        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.show()
            answer(success=False, error=error.format_message())
        except EmbatchError as error:
            show_error(error)
            answer(success=False, error=str(error), hint=error.hint)
        return 1


@click.group(cls=_Tasks, context_settings=_OPTIONS, short_help="Remember finished tasks, find similar ones.")
def tasks() -> None:
    """Remember finished tasks by their vectors, and find those that are like a new one.

    WORKSPACE is a folder; the vectors are kept in its state/quality_graph/task_vectors.jsonl.
    """


def _workspace(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("workspace", type=click.Path(path_type=Path))(command)


def _mode(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--embedding-mode",
        "mode",
        type=click.Choice(["tfidf", "neural"]),
        help="Hashed words, or a sentence model.  [QUALITY_GRAPH_EMBEDDINGS, or tfidf]",
    )(command)


def _batch_size(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--batch-size",
        type=click.IntRange(1),
        default=32,
        show_default=True,
        metavar="N",
        help="Tasks that the model computes at once.",
    )(command)


def _many(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        name,
        "batch",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Many tasks: on each line an id that is known here, or a JSON object.",
    )


def _text(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--files", metavar="A,B", help="Files that the task touched, parted by commas."),
        click.option("--description", metavar="TEXT", help="What the task was about, in more words."),
        click.option("--title", metavar="TEXT", help="What the task was about."),
    ):
        command = option(command)
    return command


@tasks.command(short_help="Record one finished task, or many from a file.")
@_workspace
@click.argument("task_id", required=False)
@click.option("--outcome", type=click.Choice(["success", "failure", "abandoned"]), help="How it ended.")
@click.option("--reason", metavar="TEXT", help="Why it ended so.")
@_text
@click.option("--duration-ms", type=click.FloatRange(0), metavar="N", help="How long it took.")
@click.option("--quality", type=click.Choice(["high", "medium", "low"]), help="How well it was done.")
@click.option("--complexity-score", type=float, metavar="N", help="How hard it was.")
@_mode
@_batch_size
@_many("--batch-from-file")
def record(
    *,
    workspace: Path,
    task_id: str | None,
    outcome: str | None,
    reason: str | None,
    mode: str | None,
    batch_size: int,
    batch: Path | None,
    **fields: Any,
) -> int:
    """Record TASK_ID in WORKSPACE; recorded again, the last record counts.

    Without a text, a task that was recorded before, or is listed in state/quality_graph/tasks.jsonl, keeps what is
    known of it.
    """
    from embatch.frontends.tasks.workspace import TaskMemory

    if (task_id is None) == (batch is None):
        raise UsageError("give a TASK_ID, or --batch-from-file FILE", hint="One of the two, not both.")
    given = _fields(fields)
    if batch is not None and given:
        raise UsageError(
            f"--{next(iter(given)).replace('_', '-')} is for one task",
            hint="Put it into the lines of the file.",
        )
    if task_id is not None and outcome is None:
        raise UsageError("how did it end?", hint="Add --outcome success, failure or abandoned.")
    if reason is not None and outcome is None:
        raise UsageError("--reason is for an outcome", hint="Add --outcome.")
    end = None if outcome is None else {"status": outcome, **({} if reason is None else {"reason": reason})}
    memory = TaskMemory(workspace, mode)
    entries, failed = _entries(batch) if batch is not None else ([_one(task_id, given)], [])
    report = memory.record(entries, outcome=end, batch_size=batch_size, show_progress=_watched(entries))
    failed += report.failed
    tell_failures(failed)
    say(recorded_words(report))
    answer(
        success=not failed,
        count=len(report.recorded),
        recorded=report.recorded,
        failed=[failure.to_dict() for failure in failed],
        embedding_mode=memory.embedder.mode,
        embedding_model=report.model,
        seconds=round(report.seconds, 4),
        file=str(memory.file.path),
    )
    return 1 if failed else 0


@tasks.command(short_help="Find past tasks that are like one, or like many from a file.")
@_workspace
@_text
@click.option("--k", type=click.IntRange(1), default=5, show_default=True, help="At most so many.")
@click.option(
    "--min-similarity",
    type=click.FloatRange(-1, 1),
    default=0.3,
    show_default=True,
    metavar="COSINE",
    help="Leave out what is less similar.",
)
@click.option("--success-only", is_flag=True, help="Leave out what did not succeed.")
@click.option(
    "--exclude-abandoned/--no-exclude-abandoned",
    default=True,
    show_default=True,
    help="Leave out what was abandoned.",
)
@_mode
@_batch_size
@_many("--batch-query")
def query(
    *,
    workspace: Path,
    title: str | None,
    description: str | None,
    files: str | None,
    k: int,
    min_similarity: float,
    success_only: bool,
    exclude_abandoned: bool,
    mode: str | None,
    batch_size: int,
    batch: Path | None,
) -> int:
    """Find tasks of WORKSPACE that are like the one described. Many at once are answered as an object by task id."""
    from embatch.frontends.tasks.records import Entry
    from embatch.frontends.tasks.texts import has_text
    from embatch.frontends.tasks.workspace import TaskMemory

    asked = {"title": title, "description": description, "files_touched": files}
    if has_text(asked) == (batch is not None):
        raise UsageError(
            "give --title, --description or --files, or --batch-query FILE",
            hint="A task in words, or a file of many; not both.",
        )
    memory = TaskMemory(workspace, mode)
    entries, failed = _entries(batch) if batch is not None else ([Entry(name="", task=asked)], [])
    found, more = memory.similar(
        entries,
        k=k,
        min_similarity=min_similarity,
        success_only=success_only,
        exclude_abandoned=exclude_abandoned,
        batch_size=batch_size,
    )
    failed += more
    corpus = memory.corpus()
    tell_failures(failed)
    tell_corpus(memory, corpus)
    if batch is None and failed:
        raise failed[0].error
    answer(
        success=not failed,
        count=sum(map(len, found.values())),
        similar_tasks=found if batch is not None else found[""],
        **({"failed": [failure.to_dict() for failure in failed]} if failed else {}),
        **({"not_compared": sum(corpus.other_models.values())} if corpus.other_models else {}),
    )
    return 1 if failed else 0


@tasks.command(short_help="Bring all records to this model.")
@_workspace
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many, other models' first.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--backup", is_flag=True, help="Keep a copy of the old file beside it.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write there."
)
@_mode
@_batch_size
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def reindex(
    *,
    workspace: Path,
    limit: int | None,
    dry_run: bool,
    backup: bool,
    output: Path | None,
    mode: str | None,
    batch_size: int,
    quiet: bool,
) -> int:
    """Compute the vectors of WORKSPACE's tasks anew; all other keys stay.

    The new file takes the place of the old one in one step. Exit code 2 if some tasks could not be done: these keep
    their old vectors.
    """
    from embatch.frontends.tasks.workspace import TaskMemory

    memory = TaskMemory(workspace, mode)
    report = memory.reindex(
        limit=limit,
        dry_run=dry_run,
        backup=backup,
        output=output,
        batch_size=batch_size,
        show_progress=not quiet and sys.stderr.isatty(),
    )
    tell_failures(report.failed)
    if not quiet:
        for problem in report.problems:
            say(f"Line {problem.line} is no record and stays as it is: {problem.reason}")
        done = "would be brought" if dry_run else "brought"
        say(
            f"{report.reindexed:,} of {report.total:,} tasks {done} to {report.model}; {report.stale:,} were of others."
        )
    answer(
        success=not report.failed,
        total=report.total,
        reindexed=report.reindexed,
        stale=report.stale,
        left=report.left,
        failed=[failure.to_dict() for failure in report.failed],
        broken_lines=[problem.line for problem in report.problems],
        dry_run=dry_run,
        embedding_mode=memory.embedder.mode,
        embedding_model=report.model,
        output=None if report.output is None else str(report.output),
        backup=None if report.backup is None else str(report.backup),
        seconds=round(report.seconds, 4),
    )
    return PARTIAL if report.failed else 0


@tasks.command(short_help="Record finished tasks as they come.")
@_workspace
@click.option(
    "--spool",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where tasks are dropped, one JSON file each.  [WORKSPACE/state/quality_graph/spool]",
)
@click.option("--stdin", "from_stdin", is_flag=True, help="Tasks come as lines of JSON on standard input.")
@click.option("--once", is_flag=True, help="End when the folder is empty.")
@click.option("--keep", is_flag=True, help="Move recorded files to done/ instead of removing them.")
@_mode
@_batch_size
@click.option(
    "--wait-ms",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    metavar="N",
    help="How long a batch that is not full waits for more.",
)
def monitor(
    *,
    workspace: Path,
    spool: Path | None,
    from_stdin: bool,
    once: bool,
    keep: bool,
    mode: str | None,
    batch_size: int,
    wait_ms: int,
) -> int:
    """Record tasks of WORKSPACE with one warm model until Ctrl-C, or the end of standard input.

    A file is removed, and a line is confirmed on standard output, only when its record is durable.
    """
    from embatch.frontends.tasks.monitor import MonitorRunner

    if from_stdin and (spool is not None or once or keep):
        raise UsageError("--spool, --once and --keep are for a folder, and --stdin is none")
    if spool is not None and not spool.is_dir():
        raise SourceNotFoundError(
            f"there is no spool folder {str(spool)!r}", hint="Make it, or leave --spool out."
        )
    runner = MonitorRunner(workspace, mode, batch_size=batch_size, wait_s=wait_ms / 1000, on_batch=tell_batch)
    total = (
        runner.run_lines(sys.stdin.buffer) if from_stdin else runner.run_spool(spool, once=once, keep=keep)
    )
    return ended(total)


def _one(task_id: str | None, given: dict[str, Any]) -> Entry:
    from embatch.frontends.tasks.records import Entry

    return Entry(name=str(task_id), task={"task_id": task_id, **given})


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """What was given of a task, under its names in the file."""
    if (duration := options.get("duration_ms")) is not None and duration.is_integer():
        options["duration_ms"] = int(duration)
    names = {"files": "files_touched"}
    return {names.get(name, name): value for name, value in options.items() if value is not None}


def _entries(path: Path) -> tuple[list[Entry], list[TaskFailure]]:
    from embatch.frontends.tasks.lists import read_entries, read_task_list

    return read_entries(read_task_list(path))


def _watched(entries: Sequence[object]) -> bool:
    return len(entries) > 1 and sys.stderr.isatty()
