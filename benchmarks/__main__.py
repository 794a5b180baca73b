"""`python -m benchmarks SUITE…`: measure, record, and render the tables."""

from __future__ import annotations

import re
import tempfile
import time
import traceback
from pathlib import Path

import click

from benchmarks import environments, machine, readme, results
from benchmarks.harness import Settings
from benchmarks.suites import SUITES, suite
from benchmarks.worker import REPOSITORY

ROUNDS = 5
QUICK_ROUNDS = 2
_OTHERS = {
    "setup": "make the peers' environments",
    "tables": "render the recorded results into the documents",
}


@click.command(
    epilog="\b\n" + "\n".join(f"{name:<11} {what}" for name, what in {**SUITES, **_OTHERS}.items())
)
@click.argument("names", nargs=-1, required=True, metavar="SUITE…")
@click.option(
    "--rounds", type=click.IntRange(1), help=f"Interleaved rounds of each suite.  [default: {ROUNDS}]"
)
@click.option(
    "--quick", is_flag=True, help="A smoke run on few texts: some minutes, figures that mean nothing."
)
@click.option(
    "--model-folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Files of the default model.  [default: fetched, as embatch does]",
)
@click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to record.  [default: benchmarks/results; out/benchmarks with --quick]",
)
@click.option(
    "--machine",
    "on",
    metavar="NAME",
    callback=lambda _context, _option, name: _machine_name(name),
    help="Record beside the results of another machine, under this name.  [default: instead of them]",
)
def main(
    names: tuple[str, ...],
    rounds: int | None,
    *,
    quick: bool,
    model_folder: Path | None,
    folder: Path | None,
    on: str | None,
) -> None:
    """Measure one or more suites; `all` is every suite."""
    known = {**SUITES, **_OTHERS, "all": ""}
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no such suite: {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [name for name in known if name in names or (name in SUITES and "all" in names)]
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    to = (folder or (results.SMOKE if quick else results.FOLDER)).resolve()
    if set(wanted) != {"tables"}:
        model = (model_folder or _model()).resolve()
        scratch = REPOSITORY / "out"  # on the same disk, not in memory as a machine's /tmp may be
        scratch.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as work:
            settings = Settings(
                rounds=rounds, quick=quick, model=model, work=Path(work), results=to, machine=on
            )
            failed = _carry_out(wanted, settings)
        if failed:
            raise click.ClickException(f"these suites failed: {', '.join(failed)}")
    if "tables" in wanted:
        changed = readme.fill_documents()
        print(f"tables: {', '.join(changed) or 'nothing changed'}")


def _carry_out(wanted: list[str], settings: Settings) -> list[str]:
    """Set up and measure what is wanted; a suite that fails does not keep the others from running."""
    failed = []
    if "setup" in wanted:
        for name, problem in environments.set_up(settings.model).items():
            print(f"  without {name}: {problem}")
    for name in wanted:
        if name in SUITES:
            try:
                _measure(name, settings)
            except Exception:  # noqa: BLE001  # shown below, and in the exit code
                traceback.print_exc()
                failed.append(name)
    return failed


def _measure(name: str, settings: Settings) -> None:
    print(f"{name}: {SUITES[name]}", flush=True)
    started, commit = time.perf_counter(), machine.commit()  # the code that runs is that of the start
    one = suite(name)
    result = one.run(settings)
    if result is None:
        return
    result = {"commit": commit, **result}
    path = results.save(result, settings.results, on=settings.machine)
    for text in one.tables(result).values():
        print(f"\n{text}")
    print(f"\n{name}: {time.perf_counter() - started:.0f} s, recorded in {_shown(path)}\n", flush=True)


def _machine_name(name: str | None) -> str | None:
    """A name that may stand in those of files and tables."""
    if name is not None and not re.fullmatch("[a-z0-9]+", name):
        raise click.BadParameter(f"{name!r} is not made of small letters and digits, as zen5 is")
    return name


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _model() -> Path:
    """The default model's folder, fetched if it is not here."""
    from embatch.backends.resolve import resolve

    return resolve("minilm").path


if __name__ == "__main__":
    main()
