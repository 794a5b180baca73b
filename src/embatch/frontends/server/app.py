"""The server as an ASGI application: what it is made of, and each request's way to its route.

`build_app` wires settings, models, keys and routes together; the application opens and closes them with its lifespan.
It listens to nothing: that is `transport`'s matter.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.datastructures import State
from starlette.requests import ClientDisconnect
from starlette.routing import Router

from embatch.errors import EmbatchError
from embatch.frontends.server import embeddings, health, metrics, model_routes, replies, tei
from embatch.frontends.server.auth import KeyRing
from embatch.frontends.server.board import Board
from embatch.frontends.server.dashboard import routes as dashboard_routes
from embatch.frontends.server.jobs import Jobs
from embatch.frontends.server.jobs import routes as job_routes
from embatch.frontends.server.opening import open_purse, opener
from embatch.frontends.server.pool import ModelPool
from embatch.frontends.server.state import ServerState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from embatch.frontends.server.opening import OpenModel
    from embatch.frontends.server.settings import ServeSettings
    from embatch.seen_lanes import RunObserver

OPEN_PATHS = frozenset({"/health", "/ready", "/", "/dashboard"})
"""What may be asked without a key: how it is, and a page without data, which asks people for their key."""
_OPEN_PARTS = "/dashboard/static/"
_WORK = ("/v1/", "/embed", "/info")  # what counts against the limits of a key
_AGAIN_S = (
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
)  # pauses before a model that is to be open from the beginning is tried again
_log = logging.getLogger("embatch")


def build_app(
    settings: ServeSettings, *, open_model: OpenModel | None = None, observer: RunObserver | None = None
) -> App:
    """The application of a server.

    Args:
        settings: all of its choices.
        open_model: opens a model; called in a thread. An `AsyncEmbedder` by the settings unless given.
        observer: told of all batches and asks, beside the board; unless `open_model` is given.

    Raises:
        OutputError: what may be spent in a day is bounded, and what was spent cannot be written down.
    """
    board = Board()
    purse = open_purse(settings)
    pool = ModelPool(
        settings.models,
        open_model or opener(settings, board, purse, observer),
        most_open=settings.idle_models,
        drain_s=settings.drain_s,
    )
    keys = KeyRing(settings.keys)
    jobs = Jobs(settings, pool)
    return App(ServerState(settings=settings, pool=pool, board=board, keys=keys, jobs=jobs, purse=purse))


class App:
    """The ASGI application.

    Args:
        state: what its routes share; its own from now on.
    """

    def __init__(self, state: ServerState) -> None:
        self._server = state
        self.state = State({"server": state})
        """As Starlette's applications have it: `app.state.server` is the ServerState."""
        # The routes on which every microsecond counts are found without a pattern.
        self._hot: dict[str, Any] = {
            embeddings.PATH: embeddings.Embeddings(state),
            tei.PATH: tei.Embed(state),
        }
        self.router = Router(_routes(state), redirect_slashes=False, lifespan=self._lifespan)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or live and end."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self.router(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        started = False

        async def telling(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        scope["app"] = self  # so that the router raises what it does not find
        path = scope["path"]
        permit = None
        try:
            if path.startswith(_WORK):
                permit = scope["pass"] = self._server.keys.enter(scope["headers"])
            elif path not in OPEN_PATHS and not path.startswith(_OPEN_PARTS):
                self._server.keys.identify(scope["headers"])
            handler = self._hot.get(path, self.router) if scope["method"] == "POST" else self.router
            await handler(scope, receive, telling)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:  # too late for another answer: the transport cuts it off, and logs why
                raise
            refusal = replies.refusal(error, scope)
            refuse = tei.send_refusal if path in tei.PATHS else replies.send_refusal
            await refuse(send, refusal)
        finally:
            if permit is not None:
                permit.leave()

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:  # noqa: ARG002  # the framework's parameter
        state = self._server
        if state.jobs is not None:
            await state.jobs.start()
        preloading = asyncio.create_task(self._preload())
        try:
            yield
        finally:
            state.draining = True
            preloading.cancel()
            if state.jobs is not None:
                await state.jobs.stop()
            if state.searching is not None:
                await asyncio.to_thread(state.searching.close)
            await state.pool.close(state.settings.drain_s)
            if state.purse is not None:
                state.purse.close()

    async def _preload(self) -> None:
        """Open the first model; the server is ready when it is. One that cannot be opened is tried again."""
        state = self._server
        pauses = iter(_AGAIN_S)
        pause = 0.0
        while state.settings.preload:
            state.not_ready_for = f"opening model {state.pool.names()[0]!r}"
            try:
                await state.pool.get()
            except EmbatchError as error:
                state.not_ready_for = str(error)
                pause = next(pauses, pause)
                await asyncio.sleep(pause)
            else:
                break
        state.ready = True


def _routes(state: ServerState) -> list[Any]:
    """Every group's routes."""
    groups = (embeddings, tei, model_routes, health, metrics, job_routes, dashboard_routes)
    return [route for group in groups for route in group.routes(state)]
