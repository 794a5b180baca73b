"""The model of an index: opened when the first text must be embedded, and told apart from any other model.

An index remembers how its model is opened, so that nobody has to say it twice, and the fingerprint of its vectors, so
that those of another model never come among them.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.errors import IndexBrokenError, IndexMismatchError
from embatch.frontends.embedder import Embedder
from embatch.frontends.hosts import LocalHost
from embatch.frontends.opening import is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embatch.types import FloatArray, ModelSpec

KEPT = ("model", "precision", "backend", "dimensions", "task", "base_url")
"""Options that change a vector, or say where the model is: what an index remembers. The rest is each run's own."""

_ABOUT = "model"


class IndexModel:
    """An embedder that is opened late. Thread-safe.

    Args:
        options: arguments of `Embedder`.
        embedder: one that is open; not closed.
    """

    def __init__(self, options: Mapping[str, Any], embedder: Embedder | None = None) -> None:
        self._options = _located(options)
        self._embedder = embedder
        self._own = embedder is None
        self._lock = threading.Lock()
        self._expected: ModelSpec | None = None

    @property
    def opened(self) -> bool:
        """Whether it was needed so far."""
        return self._embedder is not None

    def expect(self, spec: ModelSpec) -> None:
        """Refuse, from now on, to be another model than this.

        Raises:
            IndexMismatchError: it is open, and another.
        """
        self._expected = spec
        if self._embedder is not None:
            self._check(self._embedder)

    def get(self) -> Embedder:
        """The embedder, opened if it is not.

        Raises:
            ModelError: it cannot be opened.
            IndexMismatchError: it is not the model of the index.
        """
        with self._lock:
            if self._embedder is None:
                opened = Embedder(on_error="collect", **self._options)
                try:
                    self._check(opened)
                except BaseException:
                    opened.close()
                    raise
                self._embedder = opened
            return self._embedder

    def warm(self) -> None:
        """Open it in a thread of its own, while something else is done; whoever needs it waits, and gets the error."""

        def open_it() -> None:
            with suppress(Exception):  # whoever needs the model gets the same error, and can say so
                embedder = self.get()
                if isinstance(embedder.host, LocalHost):  # a provider would be paid for it
                    embedder.embed_query("warm")

        threading.Thread(target=open_it, name="embatch-warm", daemon=True).start()

    def queries(self, texts: Sequence[str]) -> FloatArray:
        """Query vectors `(q, dim)`.

        Raises:
            ItemError: a text cannot be embedded.
        """
        embedder = self.get()
        if len(texts) == 1:
            vector: FloatArray = np.asarray(embedder.embed_query(texts[0]), np.float32)
            return vector[np.newaxis]
        result = embedder.embed(texts, task="query", on_error="collect")
        if result.errors:
            raise result.errors[0].error
        return np.asarray(result.vectors, np.float32)

    def about(self) -> dict[str, str]:
        """What an index must remember to open it again."""
        kept = {name: self._options[name] for name in KEPT if self._options.get(name) is not None}
        if not is_remote(kept.get("model")) and self._embedder is not None:
            # Not `auto`: another machine might choose another precision, and vectors would not compare.
            kept["precision"] = self._embedder.spec.precision
        return {_ABOUT: json.dumps(kept, sort_keys=True)}

    def close(self) -> None:
        """Give back the model's memory, if it was opened here. Closing twice is allowed."""
        with self._lock:
            if self._own and self._embedder is not None:
                self._embedder.close()
                self._embedder = None

    def _check(self, embedder: Embedder) -> None:
        wanted, spec = self._expected, embedder.spec
        if wanted is not None and wanted.fingerprint != spec.fingerprint:
            raise IndexMismatchError(
                f"The index was made with {_described(wanted)}; this is {_described(spec, wanted)}."
            )


def remembered(about: Mapping[str, str]) -> dict[str, Any]:
    """The options that an index's model is opened with.

    Raises:
        IndexBrokenError: they cannot be read.
    """
    try:
        told = json.loads(about.get(_ABOUT, "{}"))
        return {name: told[name] for name in KEPT if name in told}
    except (ValueError, TypeError) as error:
        raise IndexBrokenError("The index does not say how its model is opened.") from error


def _located(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a model's folder as an absolute path: the next call may come from another folder."""
    model = options.get("model")
    if isinstance(model, str) and not is_remote(model) and Path(model).expanduser().is_dir():
        return {**options, "model": str(Path(model).expanduser().absolute())}
    return dict(options)


def _described(spec: ModelSpec, other: ModelSpec | None = None) -> str:
    """A model in a few words; beside another, with what they differ in."""
    words = f"{spec.model} in {spec.precision}, {spec.dimensions} dimensions"
    if other is None or (spec.model, spec.precision, spec.dimensions) != (
        other.model,
        other.precision,
        other.dimensions,
    ):
        return words
    differing = [name for name in spec.__slots__ if getattr(spec, name) != getattr(other, name)]
    return f"{words}, with another {' and '.join(differing)}"
