"""The wire of text-embeddings-inference: its fields, its answers, its errors."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.server.gate import Gate, until, waiting
from tests.contract.server.http import ask
from tests.doubles import FakeBackend, Faults

from embatch.frontends.server.settings import ApiKey

if TYPE_CHECKING:
    from tests.contract.server.conftest import Serving

    from embatch.frontends.server.transport.running import BackgroundServer

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def expected() -> Any:
    from embatch import Embedder

    with Embedder("hashing", profiles=False) as embedder:
        return embedder.embed(["a cat", "a dog"]).vectors


def test_texts_get_a_list_of_vectors(server: BackgroundServer, expected: Any) -> None:
    """One text too gets a list of one; headers tell of tokens and times."""
    many = ask(server, "POST", "/embed", {"inputs": ["a cat", "a dog"], "truncate": True})
    np.testing.assert_array_equal(np.array(many.json, np.float32), expected)
    one = ask(server, "POST", "/embed", {"inputs": "a cat"})
    np.testing.assert_array_equal(np.array(one.json, np.float32), expected[:1])
    assert int(many.headers["x-compute-tokens"]) > 0
    assert int(many.headers["x-total-time"]) >= 0


def test_many_texts_come_back_whole(server: BackgroundServer) -> None:
    """An answer of several parts is one list, in order."""
    texts = [f"text number {n}" for n in range(200)]
    many = np.array(ask(server, "POST", "/embed", {"inputs": texts, "dimensions": 32}).json)
    assert many.shape == (200, 32)
    last = ask(server, "POST", "/embed", {"inputs": texts[-1], "dimensions": 32}).json
    np.testing.assert_array_equal(many[-1:], np.array(last))


def test_a_model_that_does_not_normalise_is_normalised_unless_told_not_to(serving: Serving) -> None:
    """Unit length is the wire's default; `normalize: false` gives what the model makes."""
    backend = FakeBackend()
    backend.spec = replace(backend.spec, normalize=False)
    raw = backend.vector("a cat") * 3
    plain = backend.embed
    backend.embed = lambda payloads: plain(payloads) * np.float32(3)  # type: ignore[method-assign]  # longer vectors
    with serving(backend) as server:
        unit = np.array(ask(server, "POST", "/embed", {"inputs": "a cat"}).json)
        own = np.array(ask(server, "POST", "/embed", {"inputs": "a cat", "normalize": False}).json)
    np.testing.assert_allclose(own[0], raw, rtol=1e-6)
    np.testing.assert_allclose(unit[0], raw / np.linalg.norm(raw), rtol=1e-6)


def test_a_model_that_normalises_cannot_be_told_not_to(server: BackgroundServer) -> None:
    """Refused clearly: other vectors than were asked for would be worse."""
    refused = ask(server, "POST", "/embed", {"inputs": "a", "normalize": False})
    assert (refused.status, refused.json["error_type"]) == (422, "Validation")
    assert "normalises" in refused.json["error"]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({}, 400, "Empty"),
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": ""}, 400, "Empty"),
        ({"inputs": 3}, 422, "Validation"),
        ({"inputs": "a", "truncate": "yes"}, 422, "Validation"),
        ({"inputs": "a", "prompt_name": "no such prompt"}, 422, "Validation"),
        ({"inputs": "a", "dimensions": 10**6}, 422, "Validation"),
        ({"inputs": "a", "truncation_direction": "Left"}, 422, "Validation"),
        ({"inputs": ["a"] * 2049}, 413, "Validation"),
        ({"inputs": "a", "model": "unknown"}, 404, "Validation"),
        (b"{", 422, "Validation"),
    ],
)
def test_mistakes_have_its_statuses_and_body(
    server: BackgroundServer, body: Any, status: int, kind: str
) -> None:
    """`error` and `error_type`, and nothing else."""
    refused = ask(server, "POST", "/embed", body)
    assert (refused.status, refused.json["error_type"]) == (status, kind)
    assert set(refused.json) == {"error", "error_type"}


def test_a_text_that_is_too_long_is_cut_or_refused(serving: Serving) -> None:
    """`truncate: false` is 413, as there; the text's place is named."""
    backend = FakeBackend(max_tokens=4)
    body = {"inputs": ["short", "one two three four five"]}
    with serving(backend) as server:
        assert ask(server, "POST", "/embed", body).status == 200
        refused = ask(server, "POST", "/embed", {**body, "truncate": False})
    assert (refused.status, refused.json["error_type"]) == (413, "Validation")
    assert "inputs[1]" in refused.json["error"]


def test_an_engine_that_fails_is_a_failed_dependency(serving: Serving) -> None:
    """424 for a text that the model fails on, and 401 without a key, both in this wire's body."""
    key = ApiKey(name="team", secret="sk-0123456789abcdef")
    backend = FakeBackend(faults=Faults(raise_for=["poison"]))
    with serving(backend, keys=(key,)) as server:
        failed = ask(server, "POST", "/embed", {"inputs": "poison"}, {"x-api-key": key.secret})
        stranger = ask(server, "POST", "/embed", {"inputs": "a"})
    assert (failed.status, failed.json["error_type"]) == (424, "Backend")
    assert (stranger.status, set(stranger.json)) == (401, {"error", "error_type"})


def test_a_full_queue_is_overloaded(serving: Serving) -> None:
    """429 with Retry-After."""
    gate = Gate()
    with serving(gate.backend, queue=1) as server:
        threads = [
            threading.Thread(target=ask, args=(server, "POST", "/embed", {"inputs": text}))
            for text in ("computing", "waiting")
        ]
        threads[0].start()
        assert gate.entered.wait(10)
        threads[1].start()
        until(lambda: waiting(server) == 1)
        full = ask(server, "POST", "/embed", {"inputs": "one too many"})
        gate.open()
        for thread in threads:
            thread.join(10)
    assert (full.status, full.json["error_type"]) == (429, "Overloaded")
    assert int(full.headers["retry-after"]) >= 1


def test_info_describes_the_first_model(server: BackgroundServer) -> None:
    """The fields that clients of that server read."""
    info = ask(server, "GET", "/info").json
    assert info["model_id"] == "hashing-384"
    assert info["model_type"] == {"embedding": {"pooling": "sum"}}
    assert info["max_client_batch_size"] == 2048
    assert info["auto_truncate"] is True
    assert info["max_batch_tokens"] > 0
