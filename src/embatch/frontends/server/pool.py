"""The models of a server: opened when first asked for, shared by all requests, closed to make room for others.

It knows names and lifetimes. Batches are the coalescers' matter; what a request wants is the routes'.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from embatch.backends.catalog import find
from embatch.engine.allocator import give_back
from embatch.errors import (
    BackendClosedError,
    BackendError,
    EmbatchError,
    ExpiredError,
    ModelError,
    UnknownModelError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from embatch.frontends.async_embedder import AsyncEmbedder
    from embatch.frontends.server.settings import ServedModel

LOOK_S = 0.2
"""How often a model in use is asked whether its engine lives."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
"""Between attempts to open a model that fails; doubled each time."""
PROVEN_S = 60.0
"""A model that was open for so long has not failed at once: its next failure counts as the first."""

_log = logging.getLogger("embatch")


class RestingModelError(ModelError):
    """A model could not be opened, or its engine died, and it is too early to try again."""

    retryable = True
    default_hint = "Ask again after the seconds that the message names; the server's log has the cause."

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(slots=True, eq=False)
class _Place:
    """One served model, open or not."""

    served: ServedModel
    embedder: AsyncEmbedder | None = None
    opening: asyncio.Task[None] | None = None
    loading: bool = False
    """Whether what is opening has got its room."""
    closing: asyncio.Task[None] | None = None
    leases: int = 0
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there are no leases and it is being closed."""
    used: int = 0
    """When it was last asked for, counted in uses of the whole pool."""
    looked_at: float = 0.0
    opened_at: float = 0.0
    failures: int = 0
    not_before: float = 0.0

    @property
    def takes_memory(self) -> bool:
        return self.embedder is not None or self.loading or self.closing is not None

    @property
    def busy(self) -> bool:
        if self.leases or self.embedder is None:
            return True
        snapshot = self.embedder.snapshot()
        return bool(sum(snapshot.waiting.values()) + snapshot.running)


class ModelPool:
    """Several models by name. Belongs to one event loop.

    Each is opened in a thread when it is first asked for, once, however many ask. A model that has to make room is the
    one unused for longest; one in use is let finish what it has been asked before it is closed, and gets nothing new
    meanwhile, so that no model waits for room for ever. A model whose engine died is opened again when it is next
    asked for, after a pause that doubles.

    Args:
        models: what is served; the first also answers to no name.
        open_model: opens one; called in a thread.
        most_open: models open at once.
        drain_s: what a model that makes room has to answer its asks.
        clock: seconds; monotonic.
    """

    def __init__(
        self,
        models: Iterable[ServedModel],
        open_model: Callable[[ServedModel], AsyncEmbedder],
        *,
        most_open: int = 2,
        drain_s: float = 30.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._places = {model.name: _Place(model) for model in models}
        self._first = next(iter(self._places.values()))
        self._called = self._aliases()
        self._open_model = open_model
        self._most_open = max(1, most_open)
        self._drain_s = drain_s
        self._clock = clock
        self._uses = 0
        self._room = asyncio.Lock()  # whoever holds it decides which model makes room
        self._closed = False

    # --- what is served ---------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of all models, in the order of the settings."""
        return list(self._places)

    def name_of(self, name: str | None) -> str:
        """The served name behind what a client calls a model: that name, what it stands for, or its full name.

        Raises:
            UnknownModelError: nothing of that name is served.
        """
        return self._place(name).served.name

    def served(self, name: str | None) -> ServedModel:
        """How a model is opened.

        Raises:
            UnknownModelError: nothing of that name is served.
        """
        return self._place(name).served

    def open_models(self) -> dict[str, AsyncEmbedder]:
        """The models that are open now, by name."""
        return {name: place.embedder for name, place in self._places.items() if place.embedder is not None}

    # --- using a model ----------------------------------------------------------------------------------------

    def using(self, name: str | None = None, *, timeout_s: float | None = None) -> Lease:
        """A model, opened if need be, for the length of an `async with`: it is not closed meanwhile.

        Args:
            name: as a client calls it; None is the first.
            timeout_s: how long opening it may take.

        Raises:
            UnknownModelError: nothing of that name is served.
            ModelError: it cannot be opened now.
            ExpiredError: the time was over before it was open.
            BackendError: the pool was closed.
        """
        return Lease(self, self._place(name), timeout_s)

    async def get(self, name: str | None = None) -> AsyncEmbedder:
        """A model, opened if need be. It may be closed any time later: use it at once, or take `using`.

        Raises:
            UnknownModelError: nothing of that name is served.
            ModelError: it cannot be opened now.
            BackendError: the pool was closed.
        """
        place = self._place(name)
        return self.ready(place) or await self.opened(place)

    async def close(self, drain_s: float = 0.0) -> None:
        """Close all models, each after it has answered what it was asked, for up to `drain_s` seconds."""
        self._closed = True
        places = self._places.values()
        under_way = [task for place in places for task in (place.opening, place.closing) if task is not None]
        await asyncio.gather(*(self._shut(place, drain_s) for place in places))
        await asyncio.gather(*under_way, return_exceptions=True)
        await asyncio.gather(*(self._shut(place, drain_s) for place in places))  # those that opened meanwhile

    def ready(self, place: _Place) -> AsyncEmbedder | None:
        """The model of a place if it is open and stays so; None if it must be waited for."""
        if place.embedder is None or place.closing is not None or not self._lives(place):
            return None
        self._uses += 1
        place.used = self._uses
        return place.embedder

    async def opened(self, place: _Place) -> AsyncEmbedder:
        """The model of a place, waited for."""
        while True:
            if self._closed:
                raise BackendClosedError("the server is stopping")
            embedder = self.ready(place)
            if embedder is not None:
                return embedder
            if place.closing is not None:
                await asyncio.shield(place.closing)
            else:
                if place.opening is None:
                    self._refuse_while_resting(place)
                    place.opening = asyncio.create_task(self._open(place))
                    place.opening.add_done_callback(_looked_at)
                await asyncio.shield(place.opening)

    def mistrust(self, place: _Place) -> None:
        """Look at a model's engine before it is used again: something failed."""
        place.looked_at = float("-inf")

    # --- opening and closing ----------------------------------------------------------------------------------

    def _lives(self, place: _Place) -> bool:
        """Whether an open model's engine works; one that died is on its way out afterwards."""
        assert place.embedder is not None
        now = self._clock()
        if now - place.looked_at < LOOK_S:
            return True
        place.looked_at = now
        if place.embedder.snapshot().alive:
            return True
        _log.error("the engine of model %s has died; it is opened again", place.served.name)
        self._count_failure(place, free=1)  # one that worked for a while is opened again at once
        place.closing = asyncio.create_task(self._shut(place, 0.0))
        return False

    def _count_failure(self, place: _Place, *, free: int = 0) -> float:
        """Seconds until the next attempt. The first `free` failures in a row cost nothing."""
        now = self._clock()
        if place.opened_at and now - place.opened_at > PROVEN_S:
            place.failures = 0
        place.failures += 1
        doublings = place.failures - 1 - free
        pause = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(doublings, 16)) if doublings >= 0 else 0.0
        place.not_before = now + pause
        return pause

    def _refuse_while_resting(self, place: _Place) -> None:
        left = place.not_before - self._clock()
        if left > 0:
            message = f"model {place.served.name!r} failed; it is tried again in {left:.1f} s"
            raise RestingModelError(message, retry_after_s=left)

    async def _open(self, place: _Place) -> None:
        name = place.served.name
        try:
            async with self._room:
                await self._make_room(place)
                place.loading = True
            embedder = await asyncio.to_thread(self._new_model, place.served)
        except EmbatchError as error:
            pause = self._count_failure(place)
            # The message says it all: no traceback.
            _log.error("model %s cannot be opened: %s %s", name, error, error.hint)  # as above
            message = f"model {name!r} cannot be opened now: {error}"
            raise RestingModelError(message, retry_after_s=pause) from error
        except Exception as error:
            pause = self._count_failure(place)
            _log.exception("model %s cannot be opened", name)
            message = f"model {name!r} cannot be opened now; the server's log says why"
            raise RestingModelError(message, retry_after_s=pause) from error
        else:
            place.embedder = embedder
            place.opened_at = place.looked_at = self._clock()
        finally:
            place.loading = False
            place.opening = None

    def _new_model(self, served: ServedModel) -> AsyncEmbedder:
        model = self._open_model(served)
        give_back()  # a graph is made of much that is not needed afterwards
        return model

    async def _make_room(self, newcomer: _Place) -> None:
        while True:
            others = [each for each in self._places.values() if each is not newcomer and each.takes_memory]
            if len(others) < self._most_open:
                return
            closing = [each.closing for each in others if each.closing is not None]
            opening = [each.opening for each in others if each.opening is not None]
            settled = [each for each in others if each.embedder is not None and each.closing is None]
            if not closing and settled:
                leaver = min(settled, key=lambda each: (each.busy, each.used))
                leaver.closing = asyncio.create_task(self._leave(leaver))
                closing = [leaver.closing]
            await asyncio.wait(closing or opening, return_when=asyncio.FIRST_COMPLETED)

    async def _leave(self, place: _Place) -> None:
        """Make room: no new leases from now on, close when those that are out have come back."""
        place.free.clear()
        if place.leases:
            await place.free.wait()
        await self._shut(place, self._drain_s)

    async def _shut(self, place: _Place, drain_s: float) -> None:
        embedder, place.embedder = place.embedder, None
        try:
            if embedder is not None:
                await embedder.aclose(drain_s=drain_s)
                del embedder  # what is referred to cannot be given back
                await asyncio.to_thread(give_back)
        except Exception:  # noqa: BLE001  # whatever ails it, it is gone, and others wait for its room
            _log.exception("model %s did not close well", place.served.name)
        finally:
            place.closing = None

    # --- names ------------------------------------------------------------------------------------------------

    def _place(self, name: str | None) -> _Place:
        if name is None:
            return self._first
        place = self._called.get(name)
        if place is None:
            listed = ", ".join(self._places)
            raise UnknownModelError(f"The model {name[:200]!r} is not served here. There are: {listed}.")
        return place

    def _aliases(self) -> dict[str, _Place]:
        """Every name that a client may use. Served names come first, then what they stand for, in their order."""
        called = dict(self._places)
        for place in self._places.values():
            model = place.served.model
            known = find(model)
            for name in (model, known.name if known else model, model.partition(":")[2] or model):
                called.setdefault(name, place)
        return called


class Lease:
    """A model in use: `async with pool.using(name) as embedder`."""

    __slots__ = ("_place", "_pool", "_timeout_s")

    def __init__(self, pool: ModelPool, place: _Place, timeout_s: float | None) -> None:
        self._pool = pool
        self._place = place
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The served name."""
        return self._place.served.name

    async def __aenter__(self) -> AsyncEmbedder:
        embedder = self._pool.ready(self._place) or await self._wait()
        self._place.leases += 1
        return embedder

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        place = self._place
        place.leases -= 1
        if not place.leases:
            place.free.set()
        if isinstance(error, BackendError):
            self._pool.mistrust(place)

    async def _wait(self) -> AsyncEmbedder:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._pool.opened(self._place)
        except TimeoutError:
            message = f"model {self.name!r} was not open within {self._timeout_s:g} s"
            raise ExpiredError(message) from None


def _looked_at(task: asyncio.Task[None]) -> None:
    """Take note of how an opening ended, though everybody who waited for it may have left."""
    if not task.cancelled():
        task.exception()
