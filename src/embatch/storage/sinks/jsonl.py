"""Vectors as lines of JSON: `{"key":…,"vector":[…],"source":…}`, with `"text"` if asked for; gzip if the name says so.

A sink for people and for programs that read nothing else. Lines carry no ModelSpec; Parquet does.
"""

from __future__ import annotations

import gzip
from typing import IO, TYPE_CHECKING, Any, cast

from embatch.storage.sinks.base import FileSink
from embatch.storage.sinks.files import AtomicFile
from embatch.storage.sinks.text import json_bytes, json_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from embatch.types import Item, ModelSpec, Output

_GZIP_LEVEL = 1  # digits hardly repeat: level 6 takes three times as long for 4% less


class JsonlSink(FileSink):
    """One line a row, in input order. Numbers are the shortest that read back as the same float32."""

    def __init__(
        self, path: Path, *, spec: ModelSpec, output: Output, with_text: bool, compress: bool
    ) -> None:
        file = AtomicFile(path)
        super().__init__(path, [file], spec=spec, output=output)
        self._with_text = with_text
        # No name and no time in it: the same run gives the same bytes.
        self._gzip = (
            gzip.GzipFile("", "wb", compresslevel=_GZIP_LEVEL, fileobj=file.file, mtime=0)
            if compress
            else None
        )
        self._out = cast("IO[bytes]", self._gzip or file.file)

    def _append(self, items: Sequence[Item], numbers: npt.NDArray[Any]) -> None:
        for item, vector in zip(items, json_numbers(numbers), strict=True):
            text = b',"text":' + json_bytes(item.text) if self._with_text else b""
            self._out.write(
                b'{"key":%b,"vector":[%b],"source":%b%b}\n'
                % (json_bytes(item.key), vector.encode(), json_bytes(item.source), text)
            )

    def _complete(self) -> None:
        if self._gzip is not None:
            self._gzip.close()  # writes its end, and leaves the file under it open

    def _release(self) -> None:
        self._complete()
