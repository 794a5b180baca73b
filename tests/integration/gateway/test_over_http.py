"""`embatch serve` over a provider's model: one key of the provider for a team, each with a share of the money."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.gateway.conftest import Place

pytestmark = [pytest.mark.remote, pytest.mark.serve]
ANN_MAY = 4e-6


@pytest.fixture
def client(place: Place, tmp_path: Path) -> Iterator[Any]:
    """A client of a server over the emulator."""
    testing = pytest.importorskip("starlette.testclient")
    pytest.importorskip("orjson")
    from embatch.frontends.server.app import build_app
    from embatch.frontends.server.settings import ApiKey, ServedModel, ServeSettings

    options = {"base_url": place.emulator.url, "api_key": "a-key", "profiles": False}
    options["cache"] = str(tmp_path / "vectors.sqlite")
    settings = ServeSettings(
        models=(ServedModel(name="team", model="openai:text-embedding-3-small", options=options),),
        keys=(
            ApiKey(name="ann", secret="secret-of-ann", dollars_per_day=ANN_MAY),
            ApiKey(name="bob", secret="secret-of-bob"),
        ),
        state=tmp_path / "serve",
        drain_s=5.0,
    )
    with testing.TestClient(build_app(settings)) as made:
        yield made


def ask(client: Any, who: str, *texts: str) -> Any:
    """One request."""
    return client.post(
        "/v1/embeddings",
        json={"model": "team", "input": list(texts)},
        headers={"Authorization": f"Bearer secret-of-{who}"},
    )


def test_requests_share_calls_the_cache_and_the_money(client: Any, place: Place) -> None:
    """Right vectors for all at once; whoever has spent their share hears it, and still gets what is stored."""
    place.open()
    expected = place.vectors(*(f"text {i}" for i in range(40)))
    before = place.emulator.requests["embed"]
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda i: ask(client, "bob", f"text {i}"), range(40)))
    assert {reply.status_code for reply in replies} == {200}
    for reply, vector in zip(replies, expected, strict=True):
        assert np.array_equal(np.float32(reply.json()["data"][0]["embedding"]), vector)
    assert place.emulator.requests["embed"] - before < 40
    refused = None
    for i in range(40):
        reply = ask(client, "ann", f"a text of hers that costs something, with some more words, number {i}")
        if reply.status_code != 200:
            refused = reply
            break
    assert refused is not None
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "'ann'" in refused.json()["error"]["message"]
    before = place.emulator.requests["embed"]
    again = ask(client, "ann", "text 3")
    assert np.array_equal(np.float32(again.json()["data"][0]["embedding"]), expected[3])
    assert place.emulator.requests["embed"] == before
    assert ask(client, "bob", "something new").status_code == 200
