"""The Lance store as the one process sees it that changes it.

*chunks and vectors → store.* The table takes as many commits as the writer likes; readers see the version that
`publish` names. What happens to a file's chunks is framed by its note in the manifest: taken away before, made after. A
process killed in between leaves rows without a note. They are noticed by their number, serve `known`, and go at the
next publish.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.errors import IndexBrokenError, IndexMismatchError, IndexNotFoundError, UsageError
from embatch.storage.files import make_folder, os_errors
from embatch.storage.vectors import lance_files, lance_state
from embatch.storage.vectors.lance_errors import busy, load_lance, store_errors
from embatch.storage.vectors.lance_files import Manifest
from embatch.storage.vectors.lance_known import Known
from embatch.storage.vectors.lance_matrix import LIMIT_BYTES
from embatch.storage.vectors.lance_rows import FOLDER, SPEC_KEY, schema, sql_in, to_table
from embatch.storage.vectors.lance_state import Published
from embatch.storage.vectors.lance_upkeep import clean, compact, keep_text_index, retained
from embatch.storage.vectors.lance_vectors import keep_vector_index
from embatch.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embatch.chunks import Chunk, FileState
    from embatch.types import FloatArray

LOCK = "writer.lock"
_PATHS = 500
"""As many paths stand in one condition."""


class LanceWriter:
    """The store in a folder, held until it is closed. Implements `ChunkWriter`. One thread at a time uses it.

    Args:
        location: the folder.
        spec: the model that the vectors come from.
        fresh: start over; see `open_writer`.
        exact_bytes: tables with so many bytes of vectors or fewer get no vector index.

    Raises:
        IndexBusyError: another process is changing it.
        IndexMismatchError: it was made with another model, and `fresh` is not set.
        IndexBrokenError: its files cannot be read, and `fresh` is not set.
        OutputNotWritableError: the folder may not be written.
        DiskFullError: no space is left.
    """

    def __init__(
        self, location: Path, *, spec: ModelSpec, fresh: bool = False, exact_bytes: int = LIMIT_BYTES
    ) -> None:
        self.spec = spec
        self._location = location
        self._exact_bytes = exact_bytes
        with ExitStack() as stack:
            _lock(location, stack)
            with store_errors(location):
                if fresh:
                    lance_files.delete(location)
                self._dataset = _renewed(location, spec) if fresh else _opened(location, spec)
                self._manifest = Manifest(location)
                stack.callback(self._manifest.close)
                self._manifest.forget_after(self._dataset.version)
                self._orphans = self._forget_wrong()
            self._published = _last(location)
            self._known = Known(self._dataset, spec)
            self._stack = stack.pop_all()

    @property
    def about(self) -> Mapping[str, str]:
        """What was said of it last."""
        with store_errors(self._location):
            return self._manifest.about

    def describe(self, about: Mapping[str, str]) -> None:
        """Keep these words with it; readers see them from the next `publish` on."""
        with store_errors(self._location):
            self._manifest.describe(about)

    def files(self) -> dict[str, FileState]:
        """Everything that is in it, by path."""
        with store_errors(self._location):
            return self._manifest.states()

    def known(self, digests: Sequence[bytes]) -> dict[bytes, FloatArray]:
        """The vectors that it holds among those asked for, those of chunks dropped since the last publish included."""
        with store_errors(self._location):
            return self._known.find(self._dataset, digests)

    def replace(self, files: Sequence[FileState], chunks: Sequence[Chunk], vectors: FloatArray) -> None:
        """Drop all chunks of these files, add `chunks` with `(len(chunks), dim)` vectors, and note the states.

        Raises:
            UsageError: the vectors are not one a chunk, or not of the model's size, or not finite; or a chunk is of
                none of the files.
            DiskFullError: no space is left.
        """
        rows = np.asarray(vectors, dtype=np.float32).reshape(len(chunks), -1) if len(chunks) else None
        held = Counter(chunk.path for chunk in chunks)
        self._check(files, held, rows)
        paths = [state.path for state in files]
        with store_errors(self._location):
            self._drop(paths)
            if rows is not None:
                self._orphans = True  # until they are noted
                self._dataset.insert(to_table(chunks, rows, self.spec))
                self._known.add(chunks)
            self._manifest.note(files, held, self._dataset.version)
            self._orphans = self._surplus()

    def note(self, files: Sequence[FileState]) -> None:
        """Note states of files whose chunks are as they were: only touched, or without any."""
        with store_errors(self._location):
            held = self._manifest.held(state.path for state in files)
            emptied = [state.path for state in files if not state.chunks and held.get(state.path)]
            if emptied:
                self._drop(emptied)
            kept = {path: rows for path, rows in held.items() if path not in set(emptied)}
            self._manifest.note(files, kept, self._dataset.version)

    def remove(self, paths: Sequence[str]) -> None:
        """Drop these files and their chunks."""
        with store_errors(self._location):
            self._drop(list(paths))

    def publish(self) -> None:
        """Bring the indexes up to date and let readers see everything, in one step.

        Raises:
            DiskFullError: no space is left; readers see what they saw before.
        """
        with store_errors(self._location):
            if self._orphans:
                self._drop_orphans()
            now, draft = self._published, self._draft()
            if draft == now:
                return
            lance_state.save(self._location, draft)
            self._published = draft
            if now is None or now.version != draft.version:
                clean(self._dataset, kept=[version for version, _ in draft.earlier])
                self._known.rebase(self._dataset)

    def _draft(self) -> Published:
        """What is to be published now, the indexes brought up to date if the table has changed."""
        now = self._published
        index = None if now is None else now.vector_index
        earlier = () if now is None else now.earlier
        if now is None or now.version != self._dataset.version:
            compact(self._dataset)
            keep_text_index(self._dataset)
            index = keep_vector_index(self._dataset, self.spec, index, exact_bytes=self._exact_bytes)
            earlier = () if now is None else retained((*earlier, (now.version, time.time())))
        files, rows = self._manifest.totals()
        return Published(
            version=self._dataset.version,
            spec=self.spec,
            chunks=rows,
            files=files,
            about=self._manifest.about,
            vector_index=index,
            earlier=earlier,
        )

    def close(self) -> None:
        """Release it, and let another writer in."""
        self._stack.close()

    def _check(self, files: Sequence[FileState], held: Mapping[str, int], rows: FloatArray | None) -> None:
        strangers = held.keys() - {state.path for state in files}
        if strangers:
            raise UsageError(f"chunks of {min(strangers)!r} were given without its state")
        if rows is None:
            return
        if rows.shape[1] != self.spec.dimensions:
            raise UsageError(
                f"vectors of {rows.shape[1]} numbers do not fit a model of {self.spec.dimensions} dimensions"
            )
        if not np.isfinite(rows).all():
            raise UsageError("a vector holds NaN or infinity: chunks without a vector are left out")

    def _drop(self, paths: Sequence[str]) -> None:
        """Take the notes of these files away, then their rows."""
        held = self._manifest.held(paths)
        with_rows = [path for path in paths if self._orphans or held.get(path)]
        if held:
            self._manifest.forget(paths)
        self._delete(with_rows)

    def _delete(self, paths: Sequence[str]) -> None:
        if not paths:
            return
        self._orphans = True  # until it is done
        for first in range(0, len(paths), _PATHS):
            self._dataset.delete(sql_in("path", paths[first : first + _PATHS]))
        self._orphans = self._surplus()

    def _surplus(self) -> bool:
        """Whether the table has rows that no note tells of."""
        return bool(self._dataset.count_rows() != self._manifest.totals()[1])

    def _forget_wrong(self) -> bool:
        """Take away notes that the table does not bear out, as a power cut can leave them; whether rows are left."""
        if not self._surplus():
            return False
        found = self._found()
        self._manifest.forget(
            path for path, rows in self._manifest.held().items() if rows != found.get(path, 0)
        )
        return self._surplus()

    def _drop_orphans(self) -> None:
        self._forget_wrong()
        noted = self._manifest.held()
        self._delete([path for path, rows in self._found().items() if noted.get(path) != rows])

    def _found(self) -> dict[str, int]:
        """Rows of each path in the table."""
        column = self._dataset.to_table(columns=["path"])["path"]
        return {entry["values"]: entry["counts"] for entry in column.value_counts().to_pylist()}


def _lock(location: Path, stack: ExitStack) -> None:
    from filelock import FileLock, Timeout

    make_folder(location, location)
    lock = FileLock(location / LOCK)  # of the operating system: it ends with the process
    with os_errors(location):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # is an OSError too
            raise busy(location) from error
    stack.callback(lock.release)


def _last(location: Path) -> Published | None:
    try:
        return lance_state.load(location)
    except (IndexNotFoundError, IndexBrokenError):
        return None


def _opened(location: Path, spec: ModelSpec) -> Any:
    """The table as it was left, or a new one."""
    lance = load_lance()
    path = location / FOLDER
    if not path.exists():
        return lance.write_dataset(schema(spec).empty_table(), str(path), mode="create")
    dataset = lance.dataset(str(path))
    noted = (dataset.schema.metadata or {}).get(SPEC_KEY)
    if noted is None:
        raise IndexBrokenError(f"the table {str(path)!r} was not made by embatch")
    made_with = ModelSpec.from_json(noted.decode())
    if made_with.fingerprint != spec.fingerprint:
        raise IndexMismatchError(mismatch(location, made_with, spec))
    return dataset


def _renewed(location: Path, spec: ModelSpec) -> Any:
    """An empty table, as a new version of the one that is there, so that readers keep what they have."""
    lance = load_lance()
    path = location / FOLDER
    mode = "overwrite" if path.exists() else "create"
    try:
        return lance.write_dataset(schema(spec).empty_table(), str(path), mode=mode)
    except (OSError, ValueError, RuntimeError):
        with os_errors(location):  # damaged: nothing of it can be read anyway
            shutil.rmtree(path, ignore_errors=True)
            (location / lance_state.FILE).unlink(missing_ok=True)
        return lance.write_dataset(schema(spec).empty_table(), str(path), mode="create")


def mismatch(location: Path, made_with: ModelSpec, wanted: ModelSpec) -> str:
    """That two models do not go together, and in what they differ."""
    if made_with.model != wanted.model:
        words = f"was made with the model {made_with.model!r}, not with {wanted.model!r}"
    else:
        names = [name for name in ModelSpec.__slots__ if getattr(made_with, name) != getattr(wanted, name)]
        parts = [
            f"{name} {getattr(made_with, name)!r} instead of {getattr(wanted, name)!r}" for name in names
        ]
        words = f"was made with {', '.join(parts)} of the model {wanted.model!r}"
    return f"the index {str(location)!r} {words}"
