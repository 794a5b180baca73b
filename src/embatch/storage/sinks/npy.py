"""Vectors as one numpy array, `X.npy` of shape `(n, width)`, and their keys beside it, `X.keys.jsonl`.

A sink for programs that hold vectors in memory or map them (`np.load(…, mmap_mode="r")`). Row `i` of the array belongs
to line `i` of the keys, `{"key":…,"source":…}`. There is no place for the text or the ModelSpec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy_format

from embatch.storage.sinks.base import FileSink
from embatch.storage.sinks.files import AtomicFile
from embatch.storage.sinks.text import json_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from embatch.types import Item, ModelSpec, Output

_KINDS: dict[Output, str] = {"float32": "<f4", "float16": "<f2", "int8": "|i1", "binary": "|u1"}


class NpySink(FileSink):
    """Rows go to the disk as they come; the row count in the array's header is corrected at the end.

    The two files cannot be renamed in one step: the keys come first, so that an array that is there has its keys.
    """

    def __init__(self, path: Path, *, spec: ModelSpec, output: Output) -> None:
        keys = AtomicFile(keys_path(path))
        try:
            array = AtomicFile(path)
        except BaseException:
            keys.discard()
            raise
        super().__init__(path, [keys, array], spec=spec, output=output)
        self._keys, self._array = keys.file, array.file
        self._width = -(-spec.dimensions // 8) if output == "binary" else spec.dimensions
        self._kind = np.dtype(_KINDS[output])
        self._rows = 0
        self._write_header()

    def _append(self, items: Sequence[Item], numbers: npt.NDArray[Any]) -> None:
        self._array.write(np.ascontiguousarray(numbers, dtype=self._kind).data.cast("B"))
        self._keys.writelines(
            [b'{"key":%b,"source":%b}\n' % (json_bytes(item.key), json_bytes(item.source)) for item in items]
        )
        self._rows += len(items)

    def _write_header(self) -> None:
        # numpy pads the header so that a larger row count fits into the same place.
        fields = {
            "shape": (self._rows, self._width),
            "fortran_order": False,
            "descr": npy_format.dtype_to_descr(self._kind),
        }
        npy_format.write_array_header_1_0(self._array, fields)

    def _complete(self) -> None:
        self._array.seek(0)
        self._write_header()

    def _release(self) -> None:
        """Nothing but the files is held."""


def keys_path(path: Path) -> Path:
    """Where the keys of the array at `path` lie: `X.npy` → `X.keys.jsonl`."""
    return path.with_suffix(".keys.jsonl")
