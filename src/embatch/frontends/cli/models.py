"""`embatch models list | fetch | show | verify`: what is known, what is here, and whether it is whole.

Thin over `backends.resolve`. Tables and facts go to standard output, the progress bar to standard error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import CorruptModelError, ModelError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from embatch.backends.catalog import KnownModel
    from embatch.backends.checking import CheckedFile
    from embatch.backends.resolve import ModelFiles

_ALIAS_WIDTH = 21


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and options of all commands about one model."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output."),
        click.option("--revision", metavar="NAME", help="Branch, tag or commit on the hub."),
        click.argument("model", metavar="NAME"),
    ):
        command = option(command)
    return command


@click.group(short_help="List, fetch, show and verify models.")
def models() -> None:
    """List, fetch, show and verify models.

    NAME is an alias from the list, a folder, or a name on the hub such as owner/name.
    """


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on standard output.")
def list_models(*, as_json: bool) -> None:
    """List known models, and mark those whose files are here."""
    from embatch.backends.catalog import MODELS, find
    from embatch.backends.resolve import fetched

    rows = [(model, _state(model.name)) for model in MODELS]
    others = [name for name in fetched() if find(name) is None]
    if as_json:
        known = [{**_facts(model), "state": state} for model, state in rows]
        click.echo(json.dumps(known + [{"name": name, "state": _state(name)} for name in others], indent=1))
        return
    click.echo(f"  {'alias':<{_ALIAS_WIDTH}}  dims  tokens  params  langs  licence     prompts")
    for model, state in rows:
        click.echo(_row(model, state).rstrip())
    for name in others:
        click.echo(f"{_MARKS[_state(name)]} {name}")
    click.echo("\n✓ here   ! damaged: fetch it again   `embatch models show NAME` says more")


@models.command("fetch")
@_model_options
def fetch_model(*, model: str, revision: str | None, as_json: bool) -> None:
    """Fetch a model's files, or check in full those that are here and replace damaged ones."""
    from embatch.backends.resolve import ensure
    from embatch.frontends.cli.fetching import fetch_bar

    with fetch_bar(quiet=as_json) as on_progress:
        files, is_new = ensure(model, revision=revision, on_progress=on_progress)
    if as_json:
        click.echo(json.dumps({"name": files.name, "path": str(files.path), "fetched": is_new}))
    else:
        click.echo(f"{files.name}: {'fetched to' if is_new else 'already here and whole,'} {files.path}")


@models.command("show")
@_model_options
def show_model(*, model: str, revision: str | None, as_json: bool) -> None:
    """Show what is known about a model and where its files are."""
    from embatch.backends.catalog import find
    from embatch.backends.resolve import locate

    files = locate(model, revision=revision)
    known = files.known if files else find(model)
    if files is None and known is None:
        raise ModelUnavailableError(
            f"{model} is not on this machine, and not in the catalogue",
            hint=f"`embatch models fetch {model}` asks the hub for it.",
        )
    facts = _facts(known) if known else {}
    if files is not None:
        facts |= _facts_of_files(files)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        _print_facts(facts)


@models.command("verify")
@_model_options
def verify_model(*, model: str, revision: str | None, as_json: bool) -> None:
    """Read all files of a model, compare digests, and fail if one differs."""
    from embatch.backends.resolve import verify

    folder, checked = verify(model, revision=revision)
    if as_json:
        click.echo(json.dumps({"path": str(folder), "files": [_verdict(file) for file in checked]}, indent=1))
    else:
        click.echo(folder)
        for file in checked:
            click.echo(f"  {_verdict(file)['state']:<9}  {file.sha256[:16]:<16}  {file.path}")
    _fail_if_bad(folder, checked, model)


_MARKS = {"here": "✓", "damaged": "!", "missing": " "}


def _state(name: str) -> str:
    """`here`, `damaged` or `missing`."""
    from embatch.backends.resolve import locate

    try:
        return "missing" if locate(name) is None else "here"
    except ModelError:
        return "damaged"


def _row(model: KnownModel, state: str) -> str:
    return (
        f"{_MARKS[state]} {model.alias:<{_ALIAS_WIDTH}}  {model.dimensions:>4}  {model.max_tokens:>6}"
        f"  {model.parameters:>5,.0f}M  {model.languages:<5}  {model.licence or '-':<10}"
        f"  {'+'.join(model.prompts)}"
    )


def _facts(model: KnownModel) -> dict[str, Any]:
    """What the catalogue knows."""
    return {
        "name": model.name,
        "alias": model.alias,
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "parameters_millions": model.parameters,
        "languages": model.languages,
        "licence": model.licence or None,
        "prompts": model.prompts,
        "mirror": f"{model.mirror.package}=={model.mirror.version}" if model.mirror else None,
        "path": None,
    }


def _facts_of_files(files: ModelFiles) -> dict[str, Any]:
    """What the files say; the model's own configuration wins over the catalogue."""
    from embatch.backends.files import survey
    from embatch.backends.layout import read_layout
    from embatch.errors import UnsupportedModelError

    paths = survey(files.path).paths
    sizes = {path: (files.path / path).stat().st_size for path in paths}
    facts: dict[str, Any] = {
        "name": files.name,
        "path": str(files.path),
        "revision": files.revision,
        "bytes": sum(sizes.values()),
        "files": [{"path": path, "bytes": size} for path, size in sizes.items()],
    }
    try:
        layout = read_layout(files.path)
    except UnsupportedModelError as error:
        return {**facts, "openvino": f"no: {error}"}
    return {
        **facts,
        "architecture": layout.model_type,
        "dimensions": layout.dimensions,
        "max_tokens": layout.max_tokens,
        "pooling": "+".join(layout.pooling),
        "normalize": layout.normalize,
        "prompts": dict(layout.prompts) or (files.known.prompts if files.known else {}),
    }


def _print_facts(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if name == "files":
            click.echo("files")
            for file in value:
                click.echo(f"  {file['bytes']:>13,}  {file['path']}")
        elif name == "prompts":
            click.echo(f"{'prompts':<20}{'' if value else 'none'}".rstrip())
            for role, prompt in value.items():
                click.echo(f"  {role:<18}{prompt!r}")
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            click.echo(f"{name.replace('_', ' '):<20}{'-' if value is None else shown}")


def _verdict(file: CheckedFile) -> dict[str, Any]:
    """One file for `--json`; `state` is `ok`, `missing`, `differs`, or `unknown` where nothing is known about it."""
    if not file.sha256:
        state = "missing"
    elif not file.ok:
        state = "differs"
    else:
        state = "ok" if file.expected else "unknown"
    return {
        "path": file.path,
        "bytes": file.size_bytes,
        "sha256": file.sha256,
        "expected": file.expected,
        "state": state,
    }


def _fail_if_bad(folder: Path, checked: Sequence[CheckedFile], model: str) -> None:
    bad = [file for file in checked if not file.ok]
    if bad:
        told = "; ".join(
            f"{file.path}: found {file.sha256 or 'no file'}, expected {file.expected}" for file in bad
        )
        raise CorruptModelError(
            f"{len(bad)} of {len(checked)} files in {folder} are not what they should be: {told}",
            hint=f"Run `embatch models fetch {model}`: it replaces a copy that is damaged.",
        )
