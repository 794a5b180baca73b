"""Where a server listens: a socket, the limit on open files, and what can be wrong with either."""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from embatch.errors import UsageError

if TYPE_CHECKING:
    from embatch.frontends.server.settings import ServeSettings

BACKLOG = 65_535
"""Connections that may wait to be accepted; the system cuts it to its own limit."""
_RESERVED_FILES = 512  # of the process itself: models, indices, jobs, libraries, upstream connections
_OTHER_PORT = "Stop what listens there, or choose another --port (0 takes a free one)."


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; the caller closes it.

    Raises:
        UsageError: the port is taken or not allowed, or the host is none of this machine's.
    """
    if not 0 <= port <= 65_535:
        raise UsageError(f"port {port} is not between 0 and 65535", hint=_OTHER_PORT)
    family, address = _resolve(host, port)
    # The protocol must be named: asyncio switches Nagle's algorithm off for such sockets only.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # where it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _named(error, host, port) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The address for people and programs on this machine."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def fit_to_files(settings: ServeSettings) -> ServeSettings:
    """The settings with no more connections than files may be open, after raising that limit as far as allowed."""
    limit = _raise_file_limit()
    if limit is None or settings.connections <= limit - _RESERVED_FILES:
        return settings
    return replace(settings, connections=max(64, limit - _RESERVED_FILES))


def _raise_file_limit() -> int | None:
    """How many files may be open; None where there is no limit that is known."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS has a lower limit of its own
            return int(soft)
    return None if hard == resource.RLIM_INFINITY else int(hard)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(
            f"there is no address for host {host!r}",
            hint="Give --host an address of this machine: 127.0.0.1, or 0.0.0.0 for all of its networks.",
        ) from error
    # `localhost` may be both: clients that know one protocol only know the older.
    best = min(found, key=lambda each: each[0] != socket.AF_INET)
    return best[0], best[4]  # type: ignore[return-value]  # an IPv6 address has two fields more


def _named(error: OSError, host: str, port: int) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"port {port} of {host} is in use", hint=_OTHER_PORT)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return UsageError(
            f"port {port} is only for privileged processes",
            hint="Choose a --port from 1024 on, and let a proxy or the service manager pass the low one on.",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(
            f"{host} is no address of this machine",
            hint="Give --host one of its own: 127.0.0.1, or 0.0.0.0 for all of its networks.",
        )
    return UsageError(f"cannot listen at {host}, port {port}: {error.strerror or error}", hint=_OTHER_PORT)
