"""The tensors of a model by name, as float32 arrays: what the graph builders read.

It hides where a tensor lies (one file or shards), in what type it is stored (float32, float16, bfloat16), the
prefix that a model head left on the names, and the older names of the layer norm. Only safetensors are read.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open

from embatch.errors import CorruptModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embatch.types import FloatArray

# Checkpoints older than 2019 call the scale and shift of a layer norm so.
_FLOATS = frozenset({"F32", "F16", "BF16", "F64"})
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class Weights:
    """Tensors of safetensors files, read when asked for. A context manager: it holds the files open."""

    def __init__(self, paths: Sequence[Path], *, anchor: str = "") -> None:
        """Open `paths`; `anchor` is a name that every such model has, by which a prefix is found."""
        self._where = paths[0].parent if len(paths) > 1 else paths[0]
        self._files = ExitStack()
        self._owners: dict[str, Any] = {}  # tensor name -> open file
        for path in paths:
            try:
                file = self._files.enter_context(safe_open(path, framework="np"))
            except (OSError, SafetensorError) as error:
                self.close()
                raise CorruptModelError(f"{path} is no readable safetensors file: {error}") from error
            self._owners.update(dict.fromkeys(file.keys(), file))
        anchored = [name for name in self._owners if name == anchor or name.endswith(f".{anchor}")]
        self._prefix = min(anchored, key=len).removesuffix(anchor) if anchored else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the files; arrays handed out stay valid."""
        self._files.close()

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return self._stored(name) is not None

    def get(self, name: str, *shape: int) -> FloatArray:
        """The tensor `name` as float32.

        Raises:
            CorruptModelError: it is missing, has another shape than `shape`, or is of no float type.
        """
        stored = self._stored(name)
        if stored is None:
            raise CorruptModelError(f"{self._where} has no tensor {self._prefix}{name}")
        try:
            view = self._owners[stored].get_slice(stored)
            found, kind = tuple(view.get_shape()), view.get_dtype()
            if found != shape:
                raise CorruptModelError(f"{self._where}: tensor {stored} has shape {found}, not {shape}")
            if kind not in _FLOATS:
                raise CorruptModelError(f"{self._where}: tensor {stored} holds {kind}, not floats")
            if kind == "BF16":
                import ml_dtypes  # noqa: F401  # teaches numpy the type
            tensor = self._owners[stored].get_tensor(stored)
        except (OSError, SafetensorError) as error:
            raise CorruptModelError(f"{self._where}: tensor {stored} cannot be read: {error}") from error
        return np.ascontiguousarray(tensor, dtype=np.float32)

    def _stored(self, name: str) -> str | None:
        for new, old in (("", ""), *_OLD_NAMES.items()):
            stored = self._prefix + (name.removesuffix(new) + old if new and name.endswith(new) else name)
            if stored in self._owners:
                return stored
        return None
