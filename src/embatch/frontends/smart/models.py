"""A client's models, opened when they are first asked for and kept until it closes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from embatch.errors import BackendClosedError
from embatch.frontends.generation import GeneratingModel
from embatch.frontends.remote import RemoteModel
from embatch.providers.registry import open_provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.engine.lanes.clock import Clock
    from embatch.frontends.remote import LaneSettings
    from embatch.remote import Provider
    from embatch.storage.learned import LearnedFacts


class Models:
    """Models by name. Thread-safe.

    Args:
        client: the user's `google.genai.Client`; it stays open.
        settings: of all models; how many calls at once is what counts here.
        provider: opens a model's provider by its name, instead of the client.
        learned: where what is learned is kept between processes; None keeps it for this one only.
        clock: the time to live by.
    """

    def __init__(
        self,
        client: object,
        *,
        settings: LaneSettings,
        provider: Callable[[str], Provider] | None,
        learned: LearnedFacts | None,
        clock: Clock | None,
    ) -> None:
        self._provider = provider or (lambda name: open_provider(f"gemini:{name}", client=client))
        self._options: dict[str, Any] = {"settings": settings, "learned": learned, "clock": clock}
        self._embedding: dict[str, RemoteModel] = {}
        self._generating: dict[str, GeneratingModel] = {}
        self._lock = threading.Lock()
        self._closed = False

    def embedding(self, name: str) -> RemoteModel:
        """A model that makes vectors.

        Raises:
            MissingExtraError: the SDK is not installed.
            UsageError: the client is none of the SDK's.
        """
        with self._lock:
            self._check_open()
            if name not in self._embedding:
                self._embedding[name] = RemoteModel(self._provider(name), **self._options)
            return self._embedding[name]

    def generating(self, name: str) -> GeneratingModel:
        """A model that answers prompts.

        Raises:
            UsageError: the model makes vectors.
        """
        with self._lock:
            self._check_open()
            if name not in self._generating:
                self._generating[name] = GeneratingModel(self._provider(name), **self._options)
            return self._generating[name]

    def opened(self, name: str) -> RemoteModel:
        """A model as it was opened before; else as one that makes vectors."""
        with self._lock:
            known = self._generating.get(name)
        return known or self.embedding(name)

    def close(self) -> bool:
        """Keep what was learned and close the models; the client stays open. False if they were closed before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            models = [*self._embedding.values(), *self._generating.values()]
            self._embedding.clear()
            self._generating.clear()
        for model in models:
            model.close()
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosedError("the client was closed", hint="Make a new one, or close it later.")
