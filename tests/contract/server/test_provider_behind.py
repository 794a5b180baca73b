"""A server over a provider's model: the team's clients, one key, and what each may spend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.server.http import ask

from embatch.emulator import Emulator, EmulatorOptions, JobTimes, Latency
from embatch.emulator.vectors import vector
from embatch.errors import OutputError
from embatch.frontends.server.app import build_app
from embatch.frontends.server.settings import ApiKey, ServedModel, ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.server.conftest import Serving

pytestmark = [pytest.mark.serve, pytest.mark.remote]

NAME = "text-embedding-3-small"
RICH, POOR = "sk-rich-0123456789", "sk-poor-0123456789"
KEYS = (ApiKey(name="rich", secret=RICH), ApiKey(name="poor", secret=POOR, dollars_per_day=1e-9))


@pytest.fixture(scope="module")
def provider() -> Iterator[Emulator]:
    options = EmulatorOptions(seed=1, latency=Latency.none(), jobs=JobTimes.fixed(100.0))
    with Emulator("openai", options=options) as emulator:
        yield emulator


def models(provider: Emulator) -> tuple[ServedModel, ...]:
    options: dict[str, Any] = {"base_url": provider.url, "api_key": "sk-a-key", "profiles": False}
    return (ServedModel(name="small", model=f"openai:{NAME}", options=options),)


def test_clients_get_the_provider_s_vectors_until_their_money_is_spent(
    serving: Serving, provider: Emulator
) -> None:
    """By the provider's own name for its model; a bound holds for its key alone, and sends nothing."""
    body = {"model": NAME, "input": ["a", "b"], "dimensions": 64}
    with serving(models=models(provider), keys=KEYS) as server:
        answer = ask(server, "POST", "/v1/embeddings", body, {"Authorization": f"Bearer {RICH}"})
        found = np.array([each["embedding"] for each in answer.json["data"]], np.float32)
        np.testing.assert_allclose(found, [vector(NAME, text, None, 64) for text in "ab"], atol=1e-6)
        assert answer.json["usage"]["prompt_tokens"] == 2
        poor = {"Authorization": f"Bearer {POOR}"}
        refused = ask(server, "POST", "/v1/embeddings", {**body, "input": "more"}, poor)
        state = server.server.state
        assert state is not None
        assert state.purse is not None
        assert set(state.purse.spent_today()) == {"rich"}
    assert (refused.status, refused.json["error"]["code"]) == (429, "insufficient_quota")


def test_a_bound_that_cannot_be_kept_is_an_error(provider: Emulator, tmp_path: Path) -> None:
    """Where nothing can be written down, a server with a bound does not start, and one without does."""
    folder = tmp_path / "file"
    folder.write_text("no folder")
    settings = ServeSettings(models=models(provider), state=folder, dollars_per_day=1.0)
    with pytest.raises(OutputError):
        build_app(settings)
    unbound = ServeSettings(models=models(provider), state=folder)
    assert build_app(unbound).state.server.purse is None
