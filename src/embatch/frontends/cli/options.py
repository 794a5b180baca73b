"""Options that several commands share, and what they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_INPUT = [
    click.argument("sources", nargs=-1, required=True, metavar="SOURCE..."),
    click.option("--text-column", metavar="NAME", help="Column or field that holds the text."),
    click.option("--id-column", metavar="NAME", help="Column or field that names a row."),
    click.option(
        "--split/--no-split",
        default=True,
        show_default=True,
        help="Split texts longer than the model at paragraphs and sentences.",
    ),
    click.option(
        "--overlap",
        type=click.IntRange(0),
        default=32,
        show_default=True,
        metavar="TOKENS",
        help="Tokens that neighbouring pieces share.",
    ),
    click.option(
        "--overlong",
        type=click.Choice(["truncate", "pool", "error"]),
        default="truncate",
        show_default=True,
        help="What happens to longer texts that are not split.",
    ),
]

_MODEL = [
    click.option(
        "--model",
        default="minilm",
        show_default=True,
        help="Alias, folder or owner/name; or gemini:NAME, openai:NAME, compatible:NAME.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
        default="auto",
        show_default=True,
        help="What the model computes in.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["auto", "openvino", "torch", "hashing"]),
        default="auto",
        show_default=True,
        help="Engine that runs the model.",
    ),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (torch)."),
    click.option("--task", metavar="NAME", help="Which of the model's prompts to use.  [document]"),
    click.option("--dimensions", type=click.IntRange(1), metavar="N", help="Cut vectors to N components."),
    click.option("--offline", is_flag=True, help="Never ask the network for model files."),
    click.option("--streams", type=click.IntRange(1), metavar="N", help="Batches side by side."),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads in all."),
    click.option("--budget-tokens", type=click.IntRange(1), metavar="N", help="Fix the tokens of a batch."),
    click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Fix the texts of a batch."),
]

_KEPT_VECTORS = [
    click.option("--calibrate", metavar="SOURCE", help="Texts to calibrate int8 on.  [a shipped sample]"),
    click.option(
        "--cache",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Keep vectors by content here, across runs.",
    ),
    click.option(
        "--cache-limit",
        type=click.IntRange(1),
        metavar="MB",
        help="Forget the cache's oldest vectors beyond this size.",
    ),
]
"""Options for runs that keep no vectors of their own."""


record_option = click.option(
    "--no-record",
    "recorded",
    is_flag=True,
    default=True,
    flag_value=False,
    help="Keep no record for `embatch report`.",
)
"""Whether a run is recorded."""


class Duration(click.ParamType[float]):
    """Seconds, as a number or with a unit: 90, 90s, 30m, 2h, 1d."""

    name = "duration"
    _UNITS: ClassVar = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds that a word means."""
        if isinstance(value, int | float):
            return float(value)
        unit = self._UNITS.get(value[-1:].lower())
        try:
            seconds = float(value[:-1]) * unit if unit else float(value)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is no duration; write 90s, 30m, 2h or 1d", param, ctx)
        return seconds


LANES = [
    click.option(
        "--strategy",
        "--batching-strategy",
        type=click.Choice(["auto", "individual", "batch", "hybrid"]),
        help="Calls, the provider's batch jobs, both, or whatever costs least.  [auto]",
    ),
    click.option(
        "--deadline", type=Duration(), metavar="TIME", help="When all should be done: 90s, 30m, 2h."
    ),
    click.option("--budget", type=click.FloatRange(0), metavar="DOLLARS", help="Never spend more than this."),
    click.option(
        "--hour-worth",
        type=click.FloatRange(0),
        metavar="DOLLARS",
        help="What an hour of waiting is worth.  [0.01; 0.10 with --deadline]",
    ),
    click.option("--base-url", metavar="URL", help="Of the provider's API, if it is another server."),
    click.option(
        "--tier",
        metavar="NAME",
        help="Of your account at the provider: free, 1, 2, … It decides the quotas.  [1]",
    ),
    click.option(
        "--settings",
        "settings_file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Where strategy and goals stand.  [embatch.yaml or mkdocs.yml, if there]",
    ),
]
"""Options for a provider's model only."""


_OUTPUT = [
    click.option(
        "--dtype",
        "vectors_as",
        type=click.Choice(["float32", "float16", "int8", "binary"]),
        default="float32",
        show_default=True,
        help="What a number is stored as.",
    ),
    click.option("--with-text", is_flag=True, help="Store the text beside its vector."),
    click.option("--fresh", is_flag=True, help="Forget what earlier runs of this output left."),
    click.option(
        "--document-type", default="any", metavar="NAME", help="Learn batch sizes per kind of text."
    ),
]


def with_settings(options: dict[str, Any], *, remote: bool) -> dict[str, Any]:
    """The options of the lanes, with what the settings file says where nothing was given.

    Raises:
        UsageError: the file cannot be read or means nothing, or was named for a model on this machine.
    """
    path = options.pop("settings_file", None)
    if not remote:
        if path is not None:
            raise UsageError("--settings is for a provider's model only", hint="Leave it out.")
        return options
    from embatch.frontends.smart.settings import load_settings

    defaults = load_settings(path).defaults()
    return {**options, **{name: value for name, value in defaults.items() if options.get(name) is None}}


def index_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the index is."""
    return click.option(
        "--index",
        "location",
        metavar="FOLDER|URL",
        help="The index: its folder, one that has it, or postgresql://…  [the nearest]",
    )(command)


def target_option(*, required: bool) -> Callable[..., Any]:
    """`--to`, which a plan can do without."""
    return click.option(
        "--to",
        "output",
        required=required,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Output: .parquet, .jsonl, .jsonl.gz or .npy.",
    )


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is written, and how a run treats the one before it."""
    for option in reversed(_OUTPUT):
        command = option(command)
    return command


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Sources, columns, and what happens to long texts."""
    for option in reversed(_INPUT):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The model and how it is run."""
    for option in reversed([*_MODEL, *_KEPT_VECTORS, *LANES]):
        command = option(command)
    return command


def index_model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for an index, which is its own cache."""
    for option in reversed([*_MODEL, *LANES]):
        command = option(command)
    return command
