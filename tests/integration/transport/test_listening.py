"""Where a server cannot listen, an error names the cause and the way out."""

from __future__ import annotations

import resource
import socket

import pytest

from embatch.errors import UsageError
from embatch.frontends.server.settings import ServeSettings

pytestmark = pytest.mark.serve


def test_a_taken_port_is_named() -> None:
    """A port that somebody listens at is refused with the port in the message."""
    from embatch.frontends.server.transport.listening import listen

    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is in use") as caught:
            listen("127.0.0.1", port)
    assert "--port" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("no-such-host.invalid", 0, "no address for host"),
        ("192.0.2.1", 0, "no address of this machine"),
        ("127.0.0.1", 65_536, "between 0 and 65535"),
        ("a" * 70, 0, "no address for host"),
    ],
)
def test_wrong_addresses_are_named(host: str, port: int, words: str) -> None:
    """A host that means nothing, or means another machine, is refused."""
    from embatch.frontends.server.transport.listening import listen

    with pytest.raises(UsageError, match=words):
        listen(host, port)


def test_a_privileged_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not allow a low port, the message says so."""
    from embatch.frontends.server.transport.listening import listen

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    class Strict(socket.socket):
        bind = refuse

    monkeypatch.setattr(socket, "socket", Strict)
    with pytest.raises(UsageError, match="privileged"):
        listen("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:")]
)
def test_the_address_can_be_clicked(host: str, url: str) -> None:
    """What is shown is an address that works on this machine."""
    from embatch.frontends.server.transport.listening import listen, url_of

    with listen(host, 0) as listener:
        assert url_of(listener).startswith(url)


def test_connections_fit_the_limit_on_open_files() -> None:
    """The limit is raised as far as allowed, and never promised beyond."""
    from embatch.frontends.server.transport.listening import fit_to_files

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        fitted = fit_to_files(ServeSettings(connections=10**9))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert soft == hard
    assert hard == resource.RLIM_INFINITY or fitted.connections < hard
