"""What must hold: no job lost at a timeout, delays that are asked for, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.errors import ProviderError, StillRunningError
from embatch.gemini import EmbeddingRequest, GeminiBatchClient, SmartGeminiClient

if TYPE_CHECKING:
    from tests.integration.smart.conftest import Place

pytestmark = pytest.mark.remote
SMALL = 128


def requests(count: int, name: str = "text") -> list[EmbeddingRequest]:
    return [EmbeddingRequest(f"{name} {i}", tag=str(i), output_dimensionality=SMALL) for i in range(count)]


def test_at_the_timeout_the_job_is_named_and_taken_up_by_the_same_call(place: Place) -> None:
    """Another client, as after a restart, submits nothing and pays nothing twice."""
    place.emulator.set_regime("stuck")
    with pytest.raises(StillRunningError) as caught:
        place.make(GeminiBatchClient, "gemini-embedding-001", 5.0, 300.0).embed_content(requests(30))
    place.emulator.set_regime("good")
    (job,) = place.emulator.jobs()
    assert caught.value.jobs == (job.id,)
    assert job.id in str(caught.value)
    results = place.make(GeminiBatchClient, "gemini-embedding-001", 5.0, 9000.0).embed_content(requests(30))
    assert all(result.embedding is not None for result in results)
    assert len(place.emulator.jobs()) == 1
    assert {place.emulator.billed(one.text) for one in requests(30)} == {1}


def test_the_delay_that_a_refusal_asks_for_is_kept(place: Place) -> None:
    """The next call comes no sooner, and the caller sees nothing of it."""
    from embatch.emulator import Fault

    client = place.make(SmartGeminiClient)
    place.emulator.fault(Fault(kind="rate_limit", where="embed", delay=30.0))
    asked = place.emulator.now()
    (result,) = client.embed_content(requests(1))
    assert result.error is None
    assert place.emulator.requests.accepted[-1].time - asked >= 30.0


def test_large_work_costs_about_what_jobs_cost(place: Place) -> None:
    """Some thousand texts in large and small calls: at most a tenth more than as jobs only."""
    client = place.make(SmartGeminiClient)
    for name, count in (("index", 1500), ("posts", 400), ("chunks", 50)):
        client.embed_content(requests(count, name))
    for i in range(25):
        client.embed_content(requests(1, f"query {i}"))
    billing = place.emulator.billing()
    tokens = sum(total.tokens for total in billing.totals)
    dollars = sum(total.dollars for total in billing.totals)
    assert dollars <= 1.1 * tokens * 0.075e-6
    assert client.metrics.dollars == pytest.approx(dollars, rel=0.02)
    assert client.metrics.cost_delta == pytest.approx(dollars - tokens * 0.075e-6, rel=0.02)


def test_a_wrong_key_is_said_at_once(place: Place) -> None:
    """And neither hidden in results nor tried for minutes."""
    from embatch.emulator import Fault

    place.emulator.fault(Fault(kind="unauthenticated", where="embed", every=1))
    with pytest.raises(ProviderError, match=r"401|key|UNAUTHENTICATED"):
        place.make(SmartGeminiClient).embed_content(requests(3))
    assert place.emulator.requests["embed"] <= 2
