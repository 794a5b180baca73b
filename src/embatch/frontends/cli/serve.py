"""`embatch serve [MODEL]...`: many clients, one endpoint, shared batches, until Ctrl-C or SIGTERM.

Thin over `embatch.frontends.server`: it reads options, checks what can be checked before a model is opened, and says
where the server is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import MissingExtraError, OutputNotWritableError, UsageError
from embatch.frontends.cli.options import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embatch.frontends.server.settings import ServedModel, ServeSettings

_MB = 1_000_000
_EXTRA = {"starlette", "uvicorn", "httptools", "uvloop", "orjson", "prometheus_client", "python_multipart"}
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_COUNT = click.IntRange(1)
_MONEY = click.FloatRange(0, min_open=True)

# Options of models, by where they mean something.
_LOCAL = ("precision", "backend", "device", "streams", "threads", "offline", "budget_tokens")
_REMOTE = ("base_url", "tier")
_BOTH = ("dimensions", "cache", "cache_limit")

_OPTIONS = [
    click.option(
        "--model",
        "named",
        multiple=True,
        metavar="NAME=MODEL",
        help="Serve a model under a name; several times for several.",
    ),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at."),
    click.option(
        "--port",
        type=click.IntRange(0, 65_535),
        default=7997,
        show_default=True,
        metavar="N",
        help="0 takes a free one, and says which.",
    ),
    click.option("--keys", type=_FILE, metavar="FILE", help="API keys and their limits (YAML or JSON)."),
    click.option("--index", metavar="FOLDER|URL", help="An index for /v1/search and the dashboard."),
    click.option("--state", type=_FOLDER, metavar="FOLDER", help="Keep files and batch jobs there."),
    click.option("--no-dashboard", is_flag=True, help="No page at /."),
    click.option(
        "--open-models",
        type=_COUNT,
        metavar="N",
        default=2,
        show_default=True,
        help="Models in memory at once.",
    ),
    click.option("--lazy", is_flag=True, help="Open the first model when it is first asked for."),
    click.option(
        "--queue",
        type=_COUNT,
        metavar="N",
        default=4096,
        show_default=True,
        help="Inputs that may wait, for each model.",
    ),
    click.option(
        "--timeout",
        type=Duration(),
        default="60s",
        show_default=True,
        metavar="TIME",
        help="Every request is answered or refused within it.",
    ),
    click.option(
        "--batch-share",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.1,
        show_default=True,
        metavar="SHARE",
        help="Least share of the work for batch jobs.",
    ),
    click.option(
        "--max-inputs",
        type=_COUNT,
        metavar="N",
        default=2048,
        show_default=True,
        help="Most inputs of a request.",
    ),
    click.option(
        "--max-chars", type=_COUNT, metavar="N", default=1 << 20, show_default=True, help="Longest text."
    ),
    click.option(
        "--max-body", type=_COUNT, default=32, show_default=True, metavar="MB", help="Longest request."
    ),
    click.option(
        "--max-file", type=_COUNT, default=200, show_default=True, metavar="MB", help="Longest uploaded file."
    ),
    click.option(
        "--connections",
        type=_COUNT,
        metavar="N",
        default=16_384,
        show_default=True,
        help="Most connections at once.",
    ),
    click.option(
        "--drain",
        type=Duration(),
        default="30s",
        show_default=True,
        metavar="TIME",
        help="For what is under way when it is stopped.",
    ),
    click.option(
        "--dollars-per-day", type=_MONEY, metavar="DOLLARS", help="Over providers' models, at most."
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
        default="auto",
        show_default=True,
        help="What models compute in.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["auto", "openvino", "torch", "hashing"]),
        default="auto",
        show_default=True,
        help="Engine that runs models.",
    ),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (torch)."),
    click.option("--dimensions", type=_COUNT, metavar="N", help="Cut vectors to N, unless a request says."),
    click.option("--cache", type=_FILE, metavar="FILE", help="Keep vectors by content here."),
    click.option("--cache-limit", type=_COUNT, metavar="MB", help="Forget the oldest beyond this size."),
    click.option("--streams", type=_COUNT, metavar="N", help="Batches side by side."),
    click.option("--threads", type=_COUNT, metavar="N", help="Threads of a model."),
    click.option("--budget-tokens", type=_COUNT, metavar="N", help="Fix the tokens of a batch."),
    click.option("--offline", is_flag=True, help="Never ask the network for model files."),
    click.option("--base-url", metavar="URL", help="Of a provider's API, if it is another server."),
    click.option("--tier", metavar="NAME", help="Of your account at the provider; decides quotas.  [1]"),
    click.option("--no-record", is_flag=True, help="Leave no record for `embatch report`."),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="warning",
        show_default=True,
        help="`info` logs every request, never its texts.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Say where it listens as a line of JSON."),
]


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(short_help="Serve models to many clients: OpenAI's API and more.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@_options
def serve(
    *, models: tuple[str, ...], named: tuple[str, ...], log_level: str, as_json: bool, **options: Any
) -> int:
    """Serve MODELs (minilm, if none is given) to many clients at one address.

    A MODEL is an alias, a folder, owner/name, or a provider's: gemini:NAME, openai:NAME, compatible:NAME. The first
    one also answers requests that name no model.

    Clients of OpenAI's API use http://HOST:PORT/v1; the page at / shows what the server is doing. Requests of all
    clients share batches. SIGTERM or Ctrl-C answers what is under way and ends; batch jobs go on with the next start.

    For example: embatch serve minilm --model fast=hashing --port 8080
    """
    _log_from(log_level)
    settings = _settings(_chosen(models, named), options)
    try:
        from embatch.frontends.server.app import build_app  # noqa: F401  # says now what is missing
        from embatch.frontends.server.transport.running import serve as run
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    _check(settings)

    def started(url: str) -> None:
        tell(settings, url, as_json=as_json)

    return run(settings, started=started)


def _log_from(level: str) -> None:
    # Does nothing after `embatch --verbose`, which logs everything.
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # our own words are enough


def _chosen(models: Sequence[str], named: Sequence[str]) -> list[tuple[str, str]]:
    """Names and models, in their order."""
    found = [(Path(model).name if Path(model).is_dir() else model, model) for model in models]
    for pair in named:
        name, equals, model = pair.partition("=")
        if not equals or not name.strip() or not model.strip():
            raise UsageError(
                f"--model {pair!r} is not NAME=MODEL",
                hint="Write --model fast=minilm, or give the model without --model to keep its name.",
            )
        found.append((name.strip(), model.strip()))
    return found or [("minilm", "minilm")]


def _settings(chosen: Sequence[tuple[str, str]], options: dict[str, Any]) -> ServeSettings:
    from embatch.frontends.server.key_file import load_keys
    from embatch.frontends.server.settings import ServeSettings

    if options["cache_limit"] is not None and options["cache"] is None:
        raise UsageError("--cache-limit needs a cache", hint="Add --cache FILE, or leave it out.")
    return ServeSettings(
        host=options["host"],
        port=options["port"],
        models=tuple(_served(chosen, options)),
        preload=not options["lazy"],
        idle_models=options["open_models"],
        keys=load_keys(options["keys"]),
        queue=options["queue"],
        timeout_s=options["timeout"],
        batch_share=options["batch_share"],
        inputs_per_request=options["max_inputs"],
        text_chars=options["max_chars"],
        body_bytes=options["max_body"] * _MB,
        file_bytes=options["max_file"] * _MB,
        connections=options["connections"],
        drain_s=options["drain"],
        index=options["index"],
        state=options["state"],
        dashboard=not options["no_dashboard"],
        record=not options["no_record"],
        dollars_per_day=options["dollars_per_day"],
    )


def _served(chosen: Sequence[tuple[str, str]], options: Mapping[str, Any]) -> Iterator[ServedModel]:
    """Each model with the options that mean something for it."""
    from embatch.frontends.opening import is_remote
    from embatch.frontends.server.settings import ServedModel

    given = {
        name: value
        for name in (*_LOCAL, *_REMOTE, *_BOTH)
        if (value := options[name]) is not None and value is not False and value != "auto"
    }
    if "cache_limit" in given:
        given["cache_limit"] *= _MB
    remote = [is_remote(model) for _, model in chosen]
    for names, there, what in (
        (_LOCAL, not all(remote), "models on this machine"),
        (_REMOTE, any(remote), "a provider's models"),
    ):
        idle = [f"--{name.replace('_', '-')}" for name in names if name in given]
        if idle and not there:
            raise UsageError(f"{', '.join(idle)}: only for {what}", hint="Leave out what does nothing here.")
    if options["dollars_per_day"] is not None and not any(remote):
        raise UsageError("--dollars-per-day: only a provider's models cost money", hint="Leave it out.")
    for (name, model), is_far in zip(chosen, remote, strict=True):
        wanted = (*(_REMOTE if is_far else _LOCAL), *_BOTH)
        yield ServedModel(
            name=name, model=model, options={each: given[each] for each in wanted if each in given}
        )


def _check(settings: ServeSettings) -> None:
    """What can be known to fail is told now, not by a server that never gets ready."""
    if settings.state is not None:
        try:
            settings.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputNotWritableError(
                f"The folder {settings.state} cannot be made: {error.strerror}.",
                hint="Choose another --state folder.",
            ) from error
    if settings.index is not None:
        from contextlib import closing

        from embatch.frontends.server.dashboard.searching import open_index

        with closing(open_index(settings.index)) as index:
            index.stats()
    for place, served in enumerate(settings.models):
        _check_model(served, fetch=place == 0 and settings.preload)


def _check_model(served: ServedModel, *, fetch: bool) -> None:
    """Raise if a model cannot be had. The first one's files are fetched, with a bar; others' when they are needed."""
    from embatch.frontends.cli.fetching import fetch_bar
    from embatch.frontends.opening import is_remote

    options = served.options
    if is_remote(served.model):
        from embatch.frontends.embedder import Embedder

        Embedder(served.model, **{**options, "cache": None, "cache_limit": None}).close()
    elif options.get("backend") != "hashing" and not served.model.startswith("hashing"):
        from embatch.backends.resolve import locate, resolve

        offline = options.get("offline", False)
        if locate(served.model) is None and (fetch or offline):
            with fetch_bar() as bar:
                resolve(served.model, offline=offline, on_progress=bar)


def tell(settings: ServeSettings, url: str, *, as_json: bool) -> None:
    """Say where the server is, how to stop it, and who can reach it."""
    from embatch._version import __version__
    from embatch.frontends.server.transport.middleware import is_loopback

    names = [model.name for model in settings.models]
    if as_json:
        import os

        from embatch.frontends import view

        dashboard = f"{url}/" if settings.dashboard else None
        view.emit("serving", url=url, models=names, dashboard=dashboard, pid=os.getpid())
    click.echo(f"embatch {__version__} serves {', '.join(names)} at {url}", err=True)
    click.echo(f"  OpenAI clients   {url}/v1", err=True)
    if settings.dashboard:
        click.echo(f"  dashboard        {url}/", err=True)
    click.echo("  to stop          Ctrl-C or SIGTERM; what is under way is answered first", err=True)
    if not is_loopback(settings.host) and not settings.keys:
        click.echo(
            f"Warning: whoever can reach {settings.host} may use it, for it has no API keys.\n"
            "  → Add --keys FILE, set EMBATCH_SERVE_KEY, or listen at 127.0.0.1.",
            err=True,
        )


def _missing(error: ModuleNotFoundError) -> BaseException:
    """The named error for a library of the extra; any other as it is."""
    library = (error.name or "").partition(".")[0]
    if library not in _EXTRA:
        return error
    return MissingExtraError(
        f"The server needs {library}, which is not installed.",
        hint='Install it: pip install "embatch[serve]"',
    )
