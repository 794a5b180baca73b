"""Measure what batches of tasks bring, by batch size, against one task at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from _checkout import prepare


def main() -> int:
    """Parse the command line, measure, print the table.

    Returns:
        0; 1 if something failed, or batches gave other vectors than single tasks; 130 after Ctrl-C.
    """
    prepare()
    import click

    from embatch.errors import EmbatchError, InterruptedRunError, OutputError
    from embatch.frontends.cli import show_error
    from embatch.frontends.tasks.comparison import compare, rendered, sound

    def sizes(_: click.Context, __: click.Parameter, value: str) -> list[int]:
        try:
            found = [int(part) for part in value.split(",")]
        except ValueError:
            found = []
        if not found or min(found) < 1:
            raise click.BadParameter(f"{value!r} is no list of numbers such as 1,8,16,32,64")
        return found

    @click.command(
        help=__doc__, context_settings={"token_normalize_func": lambda name: name.replace("_", "-")}
    )
    @click.option("--mode", type=click.Choice(["tfidf", "neural"]), default="neural", show_default=True)
    @click.option("--num-tasks", type=click.IntRange(1), default=100, show_default=True)
    @click.option("--batch-sizes", callback=sizes, default="1,8,16,32,64", show_default=True, metavar="N,N,…")
    @click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
    @click.option(
        "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there, as JSON."
    )
    def benchmark(
        *, mode: str, num_tasks: int, batch_sizes: list[int], rounds: int, output: Path | None
    ) -> int:
        result = compare(mode, num_tasks, batch_sizes, rounds=rounds)
        click.echo(rendered(result))
        if output is not None:
            try:
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps(result.to_dict(), indent=1) + "\n", "utf-8")
            except OSError as error:
                raise OutputError(
                    f"cannot write {str(output)!r}: {error.strerror}", hint="Choose another --output."
                ) from error
        return 0 if sound(result) else 1

    try:
        code: int = benchmark.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 1
    except (click.exceptions.Abort, KeyboardInterrupt):
        show_error(InterruptedRunError("Interrupted.", hint="Nothing was written."))
        return 130
    except EmbatchError as error:
        show_error(error)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
