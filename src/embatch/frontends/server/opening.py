"""Opens a server's models as its settings say, and the purse that those of providers are paid from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from embatch.errors import OutputError
from embatch.frontends import telemetry
from embatch.frontends.opening import is_remote
from embatch.storage.folders import user_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.frontends.async_embedder import AsyncEmbedder
    from embatch.frontends.server.board import Board
    from embatch.frontends.server.settings import ServedModel, ServeSettings
    from embatch.seen_lanes import RunObserver
    from embatch.storage.spending import Purse

    OpenModel = Callable[[ServedModel], AsyncEmbedder]

_log = logging.getLogger("embatch")


def opener(
    settings: ServeSettings, board: Board, purse: Purse | None, observer: RunObserver | None = None
) -> OpenModel:
    """What opens a model; blocks while it does. What its asks come to is told to the board and to the observer."""
    from embatch.frontends.async_embedder import AsyncEmbedder

    def open_model(served: ServedModel) -> AsyncEmbedder:
        return AsyncEmbedder(
            served.model,
            queue=settings.queue,
            batch_share=settings.batch_share,
            timeout_s=settings.timeout_s,
            observer=telemetry.both(
                board.named(served.name), observer, telemetry.observer(served.model, ask_spans=False)
            ),
            purse=purse,
            **served.options,
        )

    return open_model


def open_purse(settings: ServeSettings) -> Purse | None:
    """What providers may be paid in a day, by all clients and by each; None where no provider's model is served.

    Raises:
        OutputError: what was spent cannot be written down, and there is a bound that hangs on it.
    """
    if not any(is_remote(served.model) for served in settings.models):
        return None
    from embatch.storage.spending import Purse

    payers = {key.name: key.dollars_per_day for key in settings.keys if key.dollars_per_day is not None}
    path = (settings.state or user_folder() / "serve") / "spending.sqlite"
    try:
        return Purse(path, per_day=settings.dollars_per_day, payers=payers)
    except OutputError as error:
        if payers or settings.dollars_per_day is not None:
            raise
        _log.warning("what providers are paid is not written down: %s %s", error, error.hint)
        return None
