"""What the routes of a server share: one object, made by `build_app` and handed to each group of routes.

It holds no logic: models are the pool's matter, limits of clients the key ring's, counting the board's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embatch.frontends.server.auth import KeyRing
    from embatch.frontends.server.board import Board
    from embatch.frontends.server.jobs import Jobs
    from embatch.frontends.server.pool import ModelPool
    from embatch.frontends.server.settings import ServeSettings
    from embatch.storage.spending import Purse


@dataclass(slots=True, kw_only=True)
class ServerState:
    """A running server. Routes read it; the application's lifespan alone changes it."""

    settings: ServeSettings
    pool: ModelPool
    board: Board
    """Is told of every batch and every ask, whichever model they belong to."""
    keys: KeyRing
    jobs: Jobs | None = None
    """Files and batch jobs; None where they are not served."""
    purse: Purse | None = None
    """What providers may be paid in a day, and were; None where no provider's model is served."""
    searching: Any = None
    """What `/v1/search` asks; None without an index. Made, used and closed by the routes of the dashboard."""
    started_at: float = field(default_factory=time)
    """Seconds since the Unix epoch."""
    ready: bool = False
    """Whether what is to be open from the beginning is."""
    not_ready_for: str = "starting"
    """Why it is not ready, for people; means nothing once it is."""
    draining: bool = False
    """Nothing new is let in; what is under way is answered."""
