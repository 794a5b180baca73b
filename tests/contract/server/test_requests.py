"""What every request meets: keys, deadlines, clients that leave, and faults of the server's own."""

from __future__ import annotations

import json
import logging
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.server.gate import Gate, snapshot_of, until
from tests.contract.server.http import ask
from tests.doubles import FakeBackend

from embatch.frontends.server.app import build_app
from embatch.frontends.server.settings import ApiKey, ServedModel, ServeSettings
from embatch.frontends.server.transport.running import BackgroundServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.server.conftest import Serving

pytestmark = pytest.mark.serve

KEY = ApiKey(name="team", secret="sk-0123456789abcdef", parallel=1)
SIGNED = {"Authorization": f"Bearer {KEY.secret}"}


def request(text: str) -> bytes:
    body = json.dumps({"input": text}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_a_client_that_left_costs_nothing(serving: Serving) -> None:
    """What it asked is taken back before it is computed; the others get their answers."""
    gate = Gate()
    with serving(gate.backend) as server:
        answers: list[int] = []
        first = threading.Thread(
            target=lambda: answers.append(ask(server, "POST", "/v1/embeddings", {"input": "first"}).status)
        )
        first.start()
        assert gate.entered.wait(10)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(request("never computed"))
            until(lambda: snapshot_of(server).asks == 2)
        until(lambda: snapshot_of(server).cancelled == 1)
        gate.open()
        first.join(10)
        assert answers == [200]
        assert ask(server, "POST", "/v1/embeddings", {"input": "later"}).status == 200
    assert not [text for batch in gate.backend.batches for text in batch if "never" in text]


def test_a_request_is_answered_within_its_time(serving: Serving) -> None:
    """The header's seconds and the server's own both end the wait with 504."""
    gate = Gate()
    with serving(gate.backend, timeout_s=0.05) as server:
        try:
            own = ask(server, "POST", "/v1/embeddings", {"input": "a"})
            brought = ask(server, "POST", "/v1/embeddings", {"input": "a"}, {"X-Request-Timeout": "0.01"})
        finally:
            gate.open()
    for answer in (own, brought):
        assert (answer.status, answer.json["error"]["code"]) == (504, "timed_out")
    assert ask_bad_header(serving).json["error"]["code"] == "invalid_value"


def ask_bad_header(serving: Serving) -> Any:
    with serving() as server:
        return ask(server, "POST", "/v1/embeddings", {"input": "a"}, {"X-Request-Timeout": "soon"})


def test_every_path_needs_a_key_but_health_and_a_page_without_data(serving: Serving) -> None:
    """A path that does not exist says no more than that a key is needed."""
    with serving(keys=(KEY,), dashboard=True) as server:
        for path in ("/health", "/ready", "/"):
            assert ask(server, "GET", path).status != 401
        for path in ("/v1/models", "/v1/files", "/metrics", "/info", "/dashboard/status", "/nowhere"):
            assert ask(server, "GET", path).status == 401
            assert ask(server, "GET", path, headers=SIGNED).status == (404 if path == "/nowhere" else 200)


def test_a_key_has_so_many_requests_at_once(serving: Serving) -> None:
    """The one beyond its limit is refused; when the first has ended, the next is let in."""
    gate = Gate()
    with serving(gate.backend, keys=(KEY,)) as server:
        first = threading.Thread(target=ask, args=(server, "POST", "/v1/embeddings", {"input": "a"}, SIGNED))
        first.start()
        assert gate.entered.wait(10)
        refused = ask(server, "POST", "/v1/embeddings", {"input": "b"}, SIGNED)
        gate.open()
        first.join(10)
        answered = ask(server, "POST", "/v1/embeddings", {"input": "b"}, SIGNED)
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answered.status == 200


def test_paths_and_methods_that_there_are_not(serving: Serving) -> None:
    """404 and 405 in OpenAI's body, with the methods that there are, and a request id."""
    with serving() as server:
        lost = ask(server, "POST", "/v1/completions", {})
        wrong = ask(server, "GET", "/v1/embeddings")
        slash = ask(server, "POST", "/v1/embeddings/", {})
    assert (lost.status, lost.json["error"]["code"], slash.status) == (404, "unknown_url", 404)
    assert (wrong.status, wrong.json["error"]["code"]) == (405, "method_not_supported")
    assert wrong.headers["allow"] == "POST"
    assert lost.headers["x-request-id"]


class Broken:
    """A model with a bug."""

    dimensions = 8

    async def ask(self, _: Any) -> Any:
        raise RuntimeError("a detail of ours")

    def snapshot(self) -> Any:
        return SimpleNamespace(alive=True, waiting={}, running=0)

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """Nothing to do."""


def test_a_fault_of_the_server_is_logged_and_told_without_details(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with the request's id, under which the log has the rest."""
    settings = ServeSettings(port=0, models=(ServedModel(name="m", model="m"),), state=tmp_path)
    app = build_app(settings, open_model=lambda _: Broken())  # type: ignore[arg-type,return-value]  # a double
    with (
        caplog.at_level(logging.ERROR, "embatch"),
        BackgroundServer(app, settings, app.state.server) as server,
    ):
        answer = ask(server, "POST", "/v1/embeddings", {"input": "a"}, {"X-Request-ID": "the-one"})
    assert (answer.status, answer.json["error"]["type"]) == (500, "server_error")
    assert "the-one" in answer.json["error"]["message"]
    assert "detail" not in answer.body.decode()
    assert answer.headers["x-request-id"] == "the-one"
    assert "the-one" in caplog.text
    assert "a detail of ours" in caplog.text


def test_all_inputs_that_failed_are_named(serving: Serving) -> None:
    """The first with its reason, the others by their places: rows without vectors would not match their inputs."""
    backend = FakeBackend(max_tokens=4)
    long = "one two three four five"
    with serving(backend) as server:
        body = {"input": ["a", long, "b", long, long], "truncate": False}
        refused = ask(server, "POST", "/v1/embeddings", body)
    error = refused.json["error"]
    assert (refused.status, error["param"], error["code"]) == (400, "input[1]", "invalid_input")
    assert error["message"].endswith("Neither have inputs 3, 4.")


def test_a_body_that_is_too_long_is_refused(serving: Serving) -> None:
    """413 before anything of it is looked at."""
    with serving(body_bytes=1000) as server:
        assert ask(server, "POST", "/v1/embeddings", {"input": "a" * 2000}).status == 413
        assert ask(server, "POST", "/v1/embeddings", {"input": "a" * 500}).status == 200


def test_a_server_is_ready_when_its_first_model_is_open(serving: Serving) -> None:
    """Opening is tried again until it succeeds, and `/ready` says why it is not."""
    with serving(models=(ServedModel(name="m", model="no-such-model"),)) as server:
        until(lambda: "no-such-model" in ask(server, "GET", "/ready").body.decode())
        assert ask(server, "GET", "/ready").status == 503
        assert ask(server, "GET", "/health").status == 200
        refused = ask(server, "POST", "/v1/embeddings", {"input": "a"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "model_unavailable")
    with serving() as server:
        until(lambda: ask(server, "GET", "/ready").status == 200)
