"""`embatch emulate gemini|openai`: a provider on this machine, for rehearsals, until Ctrl-C or SIGTERM.

Thin over `embatch.emulator`. One line on standard output says how to point a client at it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embatch.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.emulator import Emulator

_VARIABLES = {"gemini": "GOOGLE_GEMINI_BASE_URL", "openai": "OPENAI_BASE_URL"}
_KEYS = {"gemini": "GEMINI_API_KEY", "openai": "OPENAI_API_KEY"}
_EXTRA = {"starlette", "uvicorn", "python_multipart", "h11"}

# Command-line name → (the option's place in a scenario file, type, help).
_QUOTAS = {
    "--quota-requests": ("requests", "Requests a minute."),
    "--quota-items": ("items", "Texts a minute."),
    "--quota-tokens": ("tokens", "Tokens a minute."),
    "--quota-enqueued": ("enqueued_tokens", "Tokens of all jobs under way."),
}


def _quota_options(command: Callable[..., None]) -> Callable[..., None]:
    for flag, (_, says) in reversed(_QUOTAS.items()):
        command = click.option(flag, type=click.IntRange(min=0), metavar="N", help=says)(command)
    return command


@click.command(short_help="A provider on this machine, for rehearsals.")
@click.argument("provider", type=click.Choice(["gemini", "openai"]))
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0, the default, takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--time-scale", type=float, metavar="X", help="Virtual seconds in a real one; 1 if not said.")
@click.option("--seed", type=int, metavar="S", help="Of everything drawn; 0 if not said.")
@click.option("--state", metavar="FOLDER", help="Keep jobs, files and the ledger there.")
@click.option(
    "--scenario",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML or JSON with options and timed events.",
)
@click.option(
    "--tier", type=click.Choice(["free", "1", "2", "3", "4", "5"]), help="A published tier's quotas."
)
@_quota_options
@click.option("--no-latency", is_flag=True, help="Answer calls at once.")
@click.option("--real-delays", is_flag=True, help="Tell clients to wait in real seconds, not virtual ones.")
@click.option(
    "--job-time", type=click.FloatRange(min=0), metavar="S", help="Every job takes S virtual seconds."
)
@click.option("--regime", type=click.Choice(["good", "busy", "stuck"]), help="How jobs fare, all the time.")
@click.option("--key", metavar="KEY", help="The only API key that is accepted.")
def emulate(provider: Any, *, port: int, host: str, scenario: Path | None, **settings: Any) -> None:
    """Emulate a provider on this machine, until Ctrl-C or SIGTERM.

    For example: embatch emulate gemini --port 8080 --time-scale 60 --tier 1
    """
    emulator = _make(provider, port, host, scenario, _changes(settings))
    variable, key = _VARIABLES[provider], _KEYS[provider]
    with emulator:
        click.echo(
            f"emulating {provider} at {emulator.url}: export {variable}={emulator.url} {key}={settings['key'] or 'any'}"
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:  # SIGTERM comes as one, too
            return


def _changes(settings: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as a scenario file would hold them."""
    names = ("time_scale", "seed", "state", "tier", "key")
    found: dict[str, Any] = {name: settings[name] for name in names if settings[name] is not None}
    if settings["real_delays"]:
        found["real_delays"] = True
    if settings["no_latency"]:
        found["latency"] = "none"
    jobs = {"fixed_s": settings["job_time"], "regime": settings["regime"]}
    quotas = {name: settings[flag[2:].replace("-", "_")] for flag, (name, _) in _QUOTAS.items()}
    for group, values in (("jobs", jobs), ("quotas", quotas)):
        given = {name: value for name, value in values.items() if value is not None}
        if given:
            found[group] = given
    return found


def _make(provider: Any, port: int, host: str, path: Path | None, changes: dict[str, Any]) -> Emulator:
    """The emulator, listening.

    Raises:
        MissingExtraError: starlette or uvicorn is not installed.
        UsageError: the port is taken, or an option makes no sense.
    """
    from embatch.emulator import Emulator
    from embatch.emulator.scenario import Scenario, read_scenario

    try:
        scenario = read_scenario(path) if path else Scenario(options={})
        options = scenario.settings(**({"epoch": None} if "epoch" not in scenario.options else {}), **changes)
        return Emulator(provider, options=options, host=host, port=port, events=scenario.events)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise MissingExtraError(
            f"The emulator needs {(error.name or '').partition('.')[0]}, which is not installed.",
            hint='Install it: pip install "embatch[emulator]"',
        ) from error
    except OSError as error:
        raise UsageError(
            f"The emulator cannot be set up at {host}, port {port}: {error.strerror or error}.",
            hint="Choose another --port (0 takes a free one), --host or --state folder.",
        ) from error
    except ValueError as error:
        raise UsageError(f"{error}.") from error
