"""The command line: `embatch embed | plan | index | query | tasks | serve | report | map | generate | runs | …`.

This module holds the group and turns every error of the tree into a message and a documented exit code. Commands live
in modules of their own and are imported when they are called.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import click

from embatch._version import __version__
from embatch.errors import EmbatchError, InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_INTERRUPTED = 130
READER = "embatch-read"  # the name of the pipeline's reading thread

EXIT_CODES = """\b
Exit codes:
  0    done, every text has a vector
  1    done, some texts have no vector: the error file names them
  2    an option or argument makes no sense
  3    an input cannot be read
  4    a model cannot be had or used
  5    the output cannot be written
  6    the engine failed, or memory ran out
  7    the provider refused or cannot be reached
  8    the budget is used up
  9    an index cannot be used
  130  interrupted: the same command goes on where it was
"""

_COMMANDS = {
    "embed": ("embatch.frontends.cli.embed", "embed", "Embed files, folders, tables or standard input."),
    "plan": ("embatch.frontends.cli.plan", "plan", "Say what `embed` would do, without doing it."),
    "index": ("embatch.frontends.cli.index", "index", "Make files and folders searchable, and keep them so."),
    "query": ("embatch.frontends.cli.query", "query", "Find places in an index by a question."),
    "tasks": ("embatch.frontends.cli.tasks", "tasks", "Remember finished tasks, find similar ones."),
    "serve": ("embatch.frontends.cli.serve", "serve", "Serve models to many clients: OpenAI's API and more."),
    "report": ("embatch.frontends.cli.report", "report", "Show what a run did: a page of figures and plots."),
    "map": ("embatch.frontends.cli.map", "map_", "Draw an index in two dimensions, as a page."),
    "runs": ("embatch.frontends.cli.runs", "runs", "List, show, resume and cancel runs through a provider."),
    "rehearse": ("embatch.frontends.cli.rehearse", "rehearse", "Play a planned run on fast time."),
    "generate": (
        "embatch.frontends.cli.generate",
        "generate",
        "Answer prompts from a file through a provider.",
    ),
    "emulate": (
        "embatch.frontends.cli.emulate",
        "emulate",
        "Run a provider's API on this machine, for tests.",
    ),
    "models": ("embatch.frontends.cli.models", "models", "List, fetch, show and verify models."),
}


class _Commands(click.Group):
    """Imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # same
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # same
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="embatch")
@click.option("--verbose", is_flag=True, help="Log what is decided and why, on standard error.")
def cli(*, verbose: bool) -> None:
    """Turn any number of texts into vectors, on this machine or through an API, and lose none.

    For example: embatch embed docs/ data.jsonl --to vectors.parquet
    """
    if verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code; see `EXIT_CODES`.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments), prog_name="embatch", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return 2
    except (click.exceptions.Abort, KeyboardInterrupt):
        show_error(InterruptedRunError("Interrupted."))
        return EXIT_INTERRUPTED
    except EmbatchError as error:
        show_error(error)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output (head, less) has left; nothing of a result file is touched.
        sys.stderr.close()
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def script() -> NoReturn:
    """Run the command line as a process: what `embatch` and `python -m embatch` call."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):  # closed, or nobody reads it any more
            stream.flush()
    if any(thread.name == READER and thread.is_alive() for thread in threading.enumerate()):
        # An interrupted run's reader may sit in a read of standard input that nothing can end, and the interpreter
        # cannot shut down around it. All files are closed by now.
        os._exit(code)
    sys.exit(code)


def show_error(error: EmbatchError) -> None:
    """What happened, and what to do now, on standard error."""
    click.echo(_wrapped(f"Error: {error}", "  "), err=True)
    if error.hint:
        click.echo(_wrapped(f"  → {error.hint}", "    "), err=True)


def _wrapped(text: str, indent: str) -> str:
    """The text in lines that a terminal holds, broken between words only; as it is where nobody looks at it."""
    if not sys.stderr.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


def _interrupt(*_: Any) -> None:
    """SIGTERM ends a run as Ctrl-C does: what was done is kept."""
    raise KeyboardInterrupt
