"""`embatch generate SOURCE… --to FILE` and `embatch generate --prompt TEXT`."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import InterruptedRunError, UsageError
from embatch.frontends.cli.options import LANES, record_option, with_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.frontends.answer_job import AnswerJob, AnswersOutcome
    from embatch.frontends.generation import GeneratingModel
    from embatch.remote import GenerateWork

_OPTIONS = [
    click.argument("sources", nargs=-1, metavar="[SOURCE...]"),
    click.option("--prompt", metavar="TEXT", help="One prompt, answered on standard output as it comes."),
    click.option("--model", required=True, help="Such as gemini:gemini-2.5-flash or openai:gpt-5-mini."),
    click.option(
        "--to",
        "output",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Output: .jsonl or .jsonl.gz, one answer a line.",
    ),
    click.option("--text-column", metavar="NAME", help="Column or field with the prompt.  [prompt, text, …]"),
    click.option("--id-column", metavar="NAME", help="Column or field that names a row."),
    click.option("--system", metavar="TEXT", help="Instruction that goes with each prompt."),
    click.option(
        "--temperature", type=click.FloatRange(0, 2), metavar="X", help="How much chance has a say."
    ),
    click.option("--max-output-tokens", type=click.IntRange(1), metavar="N", help="Longest answer."),
    *LANES,
    click.option("--fresh", is_flag=True, help="Forget what earlier runs of this output left."),
    record_option,
    click.option("--json", "as_json", is_flag=True, help="Progress and summary as lines of JSON."),
    click.option("--quiet", is_flag=True, help="Say nothing but errors."),
]


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(short_help="Answer prompts from a file through a provider.")
@_options
def generate(
    *,
    sources: tuple[str, ...],
    prompt: str | None,
    model: str,
    output: Path | None,
    text_column: str | None,
    id_column: str | None,
    system: str | None,
    temperature: float | None,
    max_output_tokens: int | None,
    fresh: bool,
    recorded: bool,
    as_json: bool,
    quiet: bool,
    **lanes: Any,
) -> int:
    """Answer the prompts in SOURCEs through a provider's model.

    A SOURCE is a file, a folder, a quoted pattern, or - for standard input; tables are one prompt a row, other files
    one prompt each. Equal prompts are sent once. Killed at any moment, the same command goes on where it was.
    """
    from embatch.frontends import view
    from embatch.frontends.answer_job import PROMPT_COLUMN, AnswerJob, check_answers_target
    from embatch.frontends.recording import observed, record_of
    from embatch.remote import GenerateWork
    from embatch.storage.sources import open_sources
    from embatch.types import Report

    _check(sources, prompt, output, lanes)
    work = GenerateWork(
        model=model.partition(":")[2],
        system=system,
        temperature=temperature,
        max_output_tokens=max_output_tokens,
    )
    if prompt is not None:
        with closing(_open(model, lanes)) as opened:
            return _stream(opened, work, prompt)
    assert output is not None
    check_answers_target(output)
    found = open_sources(
        list(sources), text_column=text_column, id_column=id_column, usual_column=PROMPT_COLUMN
    )
    with closing(_open(model, lanes)) as opened:
        if not (as_json or quiet):
            _note_longest(opened, work)
        asked = {"temperature": temperature, "max_output_tokens": max_output_tokens, **lanes}
        record = record_of(
            "generate", opened, output=output, sources=sources, settings=asked, enabled=recorded, model=model
        )
        with observed("generate", model, record) as (observer, done):
            job = AnswerJob(
                opened,
                work,
                found,
                output,
                settings=opened.settings,
                fresh=fresh,
                command=sys.argv[1:],
                observer=observer,
            )
            with (
                view.ended_early(lambda: job.report, as_json=as_json, quiet=quiet),
                nullcontext() if job.finished else record,
            ):
                try:
                    outcome = _run(job, as_json=as_json, quiet=quiet)
                    record.end(answered=outcome.answered, failed=outcome.failed, repeated=outcome.repeated)
                finally:
                    record.end(report={"lanes": job.report.to_dict()})
                    done(Report(lanes=job.report))
        _conclude(outcome, model, as_json=as_json, quiet=quiet)
    return 1 if outcome.failed else 0


def _check(sources: tuple[str, ...], prompt: str | None, output: Path | None, lanes: dict[str, Any]) -> None:
    """Refuse options that do not go together."""
    if prompt is None:
        if not sources:
            raise UsageError("no prompts were given", hint="Name files with prompts, or add --prompt TEXT.")
        if output is None:
            raise UsageError(
                "there is no place for the answers", hint="Add --to FILE, such as answers.jsonl."
            )
        return
    if sources or output is not None:
        raise UsageError(
            "--prompt goes to standard output, without sources and without --to",
            hint="Write the prompt to a file and name that, or leave --to out.",
        )
    if lanes.get("strategy") in {"batch", "hybrid"}:
        raise UsageError(
            f"--prompt is answered by a call as it comes; there is no --strategy {lanes['strategy']} for it",
            hint="Write the prompt to a file and name that, or leave --strategy out.",
        )


def _open(model: str, lanes: dict[str, Any]) -> GeneratingModel:
    """The model that was asked for; what the options leave open comes from the settings file."""
    from embatch.frontends.generation import open_generating
    from embatch.frontends.opening import RemoteOptions

    options = RemoteOptions(**with_settings(lanes, remote=True))
    return open_generating(model, base_url=options.base_url, tier=options.tier, settings=options.settings())


def _note_longest(model: GeneratingModel, work: GenerateWork) -> None:
    """A budget holds the longest answer for each prompt that is sent: without a bound, few go at a time."""
    from embatch.decisions.lanes.purse import Purse
    from embatch.decisions.lanes.words import money

    facts, budget = model.facts, model.settings.goal.budget
    if budget is None or facts.prices is None or work.max_output_tokens is not None:
        return
    longest = Purse(facts.prices, budget, facts.output_tokens).longest("individual")
    click.echo(
        f"Of the budget {money(longest)} are held for each prompt under way: its longest answer.\n"
        "With --max-output-tokens that is less, and more go at once.",
        err=True,
    )


def _stream(model: GeneratingModel, work: GenerateWork, prompt: str) -> int:
    from embatch.frontends.streaming import stream_answer

    last = ""
    try:
        for piece in stream_answer(model, work, prompt, settings=model.settings):
            click.echo(piece, nl=False)
            sys.stdout.flush()
            last = piece
    except KeyboardInterrupt as error:
        raise InterruptedRunError("Interrupted: the rest of the answer was not waited for.") from error
    finally:
        if last and not last.endswith("\n"):
            click.echo()
    return 0


def _run(job: AnswerJob, *, as_json: bool, quiet: bool) -> AnswersOutcome:
    from embatch.frontends import view

    if job.finished:
        view.tell_finished(answers := job.run(), as_json=as_json, quiet=quiet)
        return answers
    if job.resumed:
        if as_json:
            view.emit("resume")
        elif not quiet:
            click.echo("Going on with an interrupted run: what was answered is not asked again.", err=True)
    if as_json:
        with view.json_view(job.progress):
            return job.run()
    if quiet:
        return job.run()
    if not sys.stderr.isatty():
        with view.line_view(job.progress, "prompt"):
            return job.run()
    bar, watcher = view.bar_view(job.progress)
    bar.update(bar.task_ids[0], description="answering")
    with bar, watcher:
        return job.run()


def _conclude(outcome: AnswersOutcome, model: str, *, as_json: bool, quiet: bool) -> None:
    from embatch.frontends import view

    if as_json:
        view.emit(
            "done",
            output=str(outcome.output),
            errors=str(outcome.errors) if outcome.errors else None,
            model=model,
            answered=outcome.answered,
            failed=outcome.failed,
            repeated=outcome.repeated,
            skipped_by_reason=outcome.skipped,
            lanes=outcome.report.to_dict(),
        )
    elif not quiet:
        for line in summary(outcome, model):
            click.echo(line, err=True)


def summary(outcome: AnswersOutcome, model: str) -> list[str]:
    """What a run did, in lines."""
    from embatch.decisions.lanes.words import count, money
    from embatch.frontends.view import duration, outcome_lines

    lanes = outcome.report
    paid = f", {money(lanes.dollars)}" if lanes.priced else ""
    ways = [
        f"{count(lanes.calls, 'call')}" if lanes.calls else "",
        f"{count(lanes.jobs + lanes.jobs_attached, 'batch job')}" if lanes.jobs + lanes.jobs_attached else "",
        f"{outcome.repeated:,} repeats or answered before" if outcome.repeated else "",
    ]
    lines = [
        f"{count(outcome.answered, 'answer')} in {duration(outcome.seconds)} → {outcome.output}",
        f"  {model}: {', '.join(way for way in ways if way) or 'nothing was sent'}{paid}",
    ]
    lines += outcome_lines(lanes)
    if outcome.skipped:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(outcome.skipped.items()))
        lines.append(f"  files skipped: {reasons}")
    if outcome.failed:
        lines.append(f"  {count(outcome.failed, 'prompt')} without an answer: see {outcome.errors}")
    return lines
