"""Vectors of tasks: `NeuralBackend` and `TFIDFBackend`, the same methods over one engine, and `TaskEmbedder` over both.

Thin: each is an `Embedder` that is opened when it is first needed and stays open, one for each process and settings.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from embatch.decisions.vectors import normalized
from embatch.engine.tuners import FixedCount
from embatch.errors import UsageError
from embatch.frontends.arguments import items_failed, one_of, positive
from embatch.frontends.tasks import models
from embatch.frontends.tasks.progress import bar
from embatch.frontends.tasks.texts import TEXT_KEYS, build_input_text, task_items
from embatch.types import BadItem, Item, ItemFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embatch.frontends.embedder import Embedder
    from embatch.frontends.tasks.models import ModelSettings
    from embatch.frontends.tasks.texts import Task
    from embatch.types import FloatArray, OnError

Mode = Literal["tfidf", "neural"]
"""`tfidf`: words and their parts, hashed, without a model. `neural`: a sentence model."""

DIMENSIONS = 384
BATCH_SIZE = 32
MODE = "QUALITY_GRAPH_EMBEDDINGS"
MODEL_NAME = "QUALITY_GRAPH_EMBED_MODEL_NAME"
MODEL_PATH = "QUALITY_GRAPH_EMBED_MODEL_PATH"
ALLOW_DOWNLOAD = "QUALITY_GRAPH_EMBED_ALLOW_DOWNLOAD"
DEVICE = "QUALITY_GRAPH_EMBED_DEVICE"

_STEP = 16  # batches between two steps of a progress bar


class TaskBackend:
    """What both backends do; they differ in the model and in how a task is put into words.

    Args:
        target_dims: numbers in a vector.
    """

    mode: ClassVar[Mode]
    recipe: ClassVar[str]
    """Names the way a task is put into words: part of what makes vectors comparable."""

    def __init__(self, target_dims: int = DIMENSIONS) -> None:
        positive(target_dims=target_dims)
        self.target_dims = target_dims

    @staticmethod
    def build_input_text(
        title: str | None = None,
        description: str | None = None,
        files_touched: Iterable[str] | None = None,
    ) -> str:
        """See `embatch.tasks.build_input_text`."""
        return build_input_text(title, description, files_touched)

    @property
    def embedder(self) -> Embedder:
        """The model, opened if it is not yet.

        Raises:
            ModelError: it cannot be had.
        """
        return models.opened(self._settings())

    @property
    def model(self) -> str:
        """The model's canonical name."""
        return self.embedder.spec.model

    @property
    def fingerprint(self) -> str:
        """32 hex digits that vectors must share to be compared."""
        return models.fingerprint(self.embedder, recipe=self.recipe)

    def compute_embedding(
        self,
        title: str | None = None,
        description: str | None = None,
        files_touched: Iterable[str] | None = None,
        corpus: Sequence[str] | None = None,  # noqa: ARG002  # see below
    ) -> FloatArray:
        """The vector `(target_dims,)` of one task, float32, at unit length.

        Args:
            title: in a line.
            description: in any number of lines.
            files_touched: paths, in any order.
            corpus: accepted because callers pass it; a vector depends on its own task only.

        Raises:
            ItemError: the task says nothing, or something in it is no text.
        """
        row = task_items(
            [dict(zip(TEXT_KEYS, (title, description, files_touched), strict=True))], plain=self._plain
        )[0]
        if isinstance(row, BadItem):
            raise row.error
        embedder = self.embedder
        if embedder.spec_for("query") == embedder.spec:  # the shortest way, where both prompts are the same
            return normalized(embedder.embed_query(row.text))
        result = embedder.embed([row.text], tuner=FixedCount(1))
        if result.errors:
            raise result.errors[0].error
        vector: FloatArray = normalized(result.vectors)[0]
        return vector

    def compute_embeddings_batch(
        self,
        tasks: Sequence[Task],
        batch_size: int = BATCH_SIZE,
        show_progress: bool = False,  # noqa: FBT001, FBT002  # the founding documents' signature
        *,
        on_error: OnError = "raise",
    ) -> FloatArray:
        """The vectors `(len(tasks), target_dims)` of all tasks in their order, float32, each at unit length.

        Args:
            tasks: mappings with `title`, `description` and `files_touched`; other keys mean nothing.
            batch_size: tasks that the model computes at once; halved by itself where memory is short.
            show_progress: draw a bar on standard error.
            on_error: `collect` gives a bad task a row of NaN instead of raising; `embed_tasks` says why.

        Raises:
            ItemsFailedError: with `on_error="raise"`, naming all bad tasks; none has a vector then.
        """
        one_of("on_error", on_error, ("raise", "collect"))
        vectors, failures = self.embed_tasks(
            tasks, batch_size, show_progress=show_progress, stop_at_bad=on_error == "raise"
        )
        if failures and on_error == "raise":
            raise items_failed(failures, len(tasks))
        return vectors

    def embed_tasks(
        self,
        tasks: Sequence[Task],
        batch_size: int = BATCH_SIZE,
        *,
        show_progress: bool = False,
        stop_at_bad: bool = False,
    ) -> tuple[FloatArray, list[ItemFailure]]:
        """The vectors of all tasks, a row of NaN for a bad one, and the bad ones with their errors.

        Args:
            tasks: as for `compute_embeddings_batch`.
            batch_size: as there.
            show_progress: as there.
            stop_at_bad: compute nothing if a task is found bad before anything was computed.
        """
        positive(batch_size=batch_size)
        tasks = _listed(tasks)
        vectors: FloatArray = np.full((len(tasks), self.target_dims), np.nan, np.float32)
        rows = task_items(tasks, plain=self._plain)
        failures = [
            ItemFailure(row=place, key=row.key, error=row.error)
            for place, row in enumerate(rows)
            if isinstance(row, BadItem)
        ]
        good = [(place, row) for place, row in enumerate(rows) if isinstance(row, Item)]
        if good and not (failures and stop_at_bad):
            failures += self._embed(good, vectors, batch_size, show_progress=show_progress)
        return vectors, sorted(failures, key=lambda failure: failure.row)

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _plain(self) -> bool:
        return self.recipe == "plain"

    def _settings(self) -> ModelSettings:
        raise NotImplementedError

    def _embed(
        self, good: list[tuple[int, Item]], vectors: FloatArray, batch_size: int, *, show_progress: bool
    ) -> list[ItemFailure]:
        """Fill in the rows of sound tasks, a piece at a time if somebody watches."""
        failures = []
        embedder, step = self.embedder, _STEP * batch_size if show_progress else len(good)
        with bar(len(good), shown=show_progress) as advance:
            for start in range(0, len(good), step):
                piece = good[start : start + step]
                places = [place for place, _ in piece]
                result = embedder.embed(
                    [item.text for _, item in piece],
                    keys=[item.key for _, item in piece],
                    on_error="collect",
                    tuner=FixedCount(even_count(len(piece), batch_size, embedder.backend.streams)),
                )
                vectors[places] = normalized(result.vectors)
                failures += [
                    ItemFailure(row=places[bad.row], key=bad.key, error=bad.error) for bad in result.errors
                ]
                advance(len(piece))
        vectors[[failure.row for failure in failures]] = np.nan
        return failures


def even_count(tasks: int, batch_size: int, streams: int) -> int:
    """Tasks of a batch such that all streams are done at about the same time; never more than `batch_size`.

    >>> even_count(32, 32, 2), even_count(100, 64, 2), even_count(1000, 32, 2), even_count(1, 32, 2)
    (16, 50, 32, 1)
    """
    batches = -(-tasks // batch_size)
    batches = -(-batches // streams) * streams
    return max(1, -(-tasks // batches))


class NeuralBackend(TaskBackend):
    """Vectors by a sentence model on this machine, `minilm` unless told otherwise.

    Args:
        target_dims: numbers in a vector; a model that has more is cut to them, one that has fewer is refused.
        model_name: an alias or owner/name; `QUALITY_GRAPH_EMBED_MODEL_NAME` otherwise.
        model_path: a folder with the model's files; `QUALITY_GRAPH_EMBED_MODEL_PATH` otherwise. It comes before a name.

    `QUALITY_GRAPH_EMBED_DEVICE` names the device. Files that are not on this machine are fetched only if
    `QUALITY_GRAPH_EMBED_ALLOW_DOWNLOAD=1`.
    """

    mode = "neural"
    recipe = "labelled"

    def __init__(
        self, target_dims: int = DIMENSIONS, model_name: str | None = None, model_path: str | None = None
    ) -> None:
        super().__init__(target_dims)
        self.model_name = model_name or _environment(MODEL_NAME) or "minilm"
        path = model_path or (None if model_name else _environment(MODEL_PATH))
        self.model_path = (
            None if path is None else models.folder(path, "model_path" if model_path else MODEL_PATH)
        )
        self.device = _environment(DEVICE)
        self.allow_download = _flag(ALLOW_DOWNLOAD)

    def _settings(self) -> ModelSettings:
        name = self.model_path or self.model_name
        return models.ModelSettings(
            model=name,
            dimensions=self.target_dims,
            device=self.device,
            offline=not self.allow_download,
            way_out="" if self.allow_download else _ways_out(name),
        )


class TFIDFBackend(TaskBackend):
    """Vectors without a model: hashed words, word pairs and parts of words, the same in every process.

    Args:
        target_dims: numbers in a vector, 16 to 65,536.
    """

    mode = "tfidf"
    recipe = "plain"

    def _settings(self) -> ModelSettings:
        return models.ModelSettings(model=f"hashing-{self.target_dims}", dimensions=self.target_dims)


class TaskEmbedder:
    """The backend of a mode, by name.

    Args:
        mode: `tfidf` or `neural`; None takes `QUALITY_GRAPH_EMBEDDINGS`, and `tfidf` if that is not set.
        target_dims: as for the backends.
        model_name: as for `NeuralBackend`.
        model_path: as for `NeuralBackend`.
    """

    def __init__(
        self,
        mode: str | None = None,
        target_dims: int = DIMENSIONS,
        model_name: str | None = None,
        model_path: str | None = None,
    ) -> None:
        self.mode = resolve_mode(mode)
        self.backend: TaskBackend = (
            NeuralBackend(target_dims, model_name, model_path)
            if self.mode == "neural"
            else TFIDFBackend(target_dims)
        )
        self.target_dims = target_dims
        self.compute_embedding = self.backend.compute_embedding
        self.compute_embeddings_batch = self.backend.compute_embeddings_batch
        self.embed_tasks = self.backend.embed_tasks

    @property
    def model(self) -> str:
        """The model's canonical name."""
        return self.backend.model

    @property
    def fingerprint(self) -> str:
        """32 hex digits that vectors must share to be compared."""
        return self.backend.fingerprint


def resolve_mode(mode: str | None = None) -> Mode:
    """The mode asked for, by the argument or by `QUALITY_GRAPH_EMBEDDINGS`.

    Raises:
        UsageError: there is no such mode.
    """
    asked = (mode or _environment(MODE) or "tfidf").strip().lower()
    if asked == "neural":
        return "neural"
    if asked != "tfidf":
        source = "the embedding mode" if mode else MODE
        raise UsageError(f"{source} must be tfidf or neural, not {asked!r}")
    return "tfidf"


def _ways_out(name: str) -> str:
    return (
        f"Fetch it once with `embatch models fetch {name}`, allow that here with {ALLOW_DOWNLOAD}=1, "
        f"or name a folder with {MODEL_PATH}."
    )


def _listed(tasks: object) -> list[Task]:
    from collections.abc import Iterable, Mapping

    if isinstance(tasks, str | bytes | Mapping) or not isinstance(tasks, Iterable):
        raise UsageError(
            f"tasks must be a list of mappings, not {type(tasks).__name__}", hint="Write [task] for one task."
        )
    return list(tasks)


def _environment(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _flag(name: str) -> bool:
    value = (_environment(name) or "0").lower()
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise UsageError(f"{name} must be 0 or 1, not {value!r}")
