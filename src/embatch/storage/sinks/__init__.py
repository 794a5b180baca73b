"""Files that finished vectors go to. The end of a name says which format; `open_sink` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embatch.errors import UsageError
from embatch.storage.sinks.failures import ErrorFile, write_errors
from embatch.storage.sinks.files import check_place

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Any

    import numpy.typing as npt

    from embatch.types import ModelSpec, Output, Sink

__all__ = ["FORMATS", "ErrorFile", "check_target", "format_of", "open_sink", "read_vectors", "write_errors"]

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".ndjson.gz": "jsonl.gz",
    ".npy": "npy",
}
"""Ending of a file's name → format."""


def format_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        UsageError: no format has this ending.
    """
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending):
            return kind
    raise UsageError(
        f"no output format goes with the name {path.name!r}", hint=f"Let it end in {_listed(FORMATS)}."
    )


def check_target(path: Path) -> None:
    """Refuse, before any work is done, a target that `open_sink` would refuse. Creates the folders above it.

    Raises:
        UsageError: no format has this ending.
        OutputNotWritableError: it is a folder or a device, or its folder may not be written.
        DiskFullError: no space is left for its folder.
    """
    format_of(path)
    check_place(path)


def open_sink(
    path: Path,
    *,
    spec: ModelSpec,
    output: Output = "float32",
    with_text: bool = False,
    format: str | None = None,  # noqa: A002  # the option's name; nothing here formats
    metadata: dict[str, str] | None = None,
) -> Sink:
    """A sink for the file at `path`, which appears at its `commit`. The caller ends it, best with `with`.

    Args:
        path: the file; folders above it are created. A file that is there stays until `commit`.
        spec: what the vectors are; `(n, spec.dimensions)` float32 go in.
        output: what a number is stored as.
        with_text: store the text beside its vector (Parquet and JSONL).
        format: `parquet`, `jsonl`, `jsonl.gz` or `npy`; None takes it from the name's ending.
        metadata: further entries for the file's metadata (Parquet).

    Raises:
        UsageError: no such format, or one that cannot hold what is asked for.
        OutputNotWritableError: the target is a folder, or its folder cannot be written.
        OutputBusyError: this process is writing it already.
        DiskFullError: no space is left.
    """
    kind = format or format_of(path)
    if kind not in FORMATS.values():
        raise UsageError(f"no output format {kind!r}", hint=f"Use {_listed(set(FORMATS.values()))}.")
    if output == "int8" and not spec.normalize:
        raise UsageError(
            f"int8 holds components from -1 to 1, and vectors of {spec.model} are not of unit length",
            hint="Store them as float16 or float32.",
        )
    if kind == "npy" and with_text:
        raise UsageError("an .npy file has no place for the text", hint="Use a .parquet or .jsonl file.")
    return _open(kind, path, spec, output, with_text=with_text, metadata=metadata or {})


def _open(
    kind: str, path: Path, spec: ModelSpec, output: Output, *, with_text: bool, metadata: dict[str, str]
) -> Sink:
    if kind == "parquet":
        from embatch.storage.sinks.parquet import ParquetSink

        return ParquetSink(path, spec=spec, output=output, with_text=with_text, metadata=metadata)
    if kind == "npy":
        from embatch.storage.sinks.npy import NpySink

        return NpySink(path, spec=spec, output=output)
    from embatch.storage.sinks.jsonl import JsonlSink

    return JsonlSink(path, spec=spec, output=output, with_text=with_text, compress=kind == "jsonl.gz")


def read_vectors(path: Path) -> tuple[list[str], npt.NDArray[Any], ModelSpec]:
    """The keys, the vectors `(n, width)` as stored, and what they are, of a Parquet file that a sink wrote.

    Raises:
        OutputMismatchError: it is not such a file.
        OutputNotWritableError: it cannot be opened.
    """
    from embatch.storage.sinks.parquet import read_vectors as read

    return read(path)


def _listed(words: Iterable[str]) -> str:
    *most, last = sorted(words)
    return f"{', '.join(most)} or {last}"
