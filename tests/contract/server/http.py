"""A plain HTTP client for the server, so that tests see the wire and not what an SDK makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embatch.frontends.server.transport.running import BackgroundServer

Reply = wire.Reply


def ask(
    server: BackgroundServer,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request on a connection of its own. A body that is no bytes is sent as JSON."""
    head = {"Content-Type": "application/json", **(headers or {})}
    return wire.exchange(f"127.0.0.1:{server.port}", method, path, wire.as_bytes(body), head)
