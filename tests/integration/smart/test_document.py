"""The examples of the design that `embatch.gemini` answers to, as they were written but for the import line."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.gemini import (
    AdaptiveSmartClient,
    BatchPromptRequest,
    CoalescingSmartClient,
    EmbeddingBatchRequest,
    EmbeddingRequest,
    GeminiBatchClient,
    SmartGeminiClient,
)

if TYPE_CHECKING:
    from tests.integration.smart.conftest import Place

pytestmark = pytest.mark.remote
CHAT = "gemini-2.5-flash"


def close_to(found: list[float] | None, expected: list[float]) -> bool:
    assert found is not None
    a, b = np.array(found), np.array(expected)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) >= 0.9999


def test_use_case_1_a_query_is_one_call(place: Place) -> None:
    """One embedding, no job, no polling: and it is the vector that the SDK itself gets."""
    smart_client = place.make(SmartGeminiClient)
    query = "where is the cat?"

    embeddings = smart_client.embed_content([EmbeddingRequest(text=query, task_type="RETRIEVAL_QUERY")])

    assert close_to(embeddings[0].embedding, place.vector(query, task_type="RETRIEVAL_QUERY"))
    assert not close_to(embeddings[0].embedding, place.vector(query, task_type="RETRIEVAL_DOCUMENT"))
    counts = place.emulator.requests.counts
    assert counts["embed"] == 1 + 2  # ours, and the two of the SDK
    assert set(counts) == {"embed"}


def test_use_case_2_a_few_are_calls_and_use_case_3_many_are_a_job(place: Place) -> None:
    """Three go at once by calls, fifty as one job, all in order and with the vectors that belong to them."""
    smart_client = place.make(SmartGeminiClient)
    media_requests = [
        EmbeddingRequest(text=f"picture {i}", tag=f"m{i}", output_dimensionality=768) for i in range(3)
    ]
    embeddings = smart_client.embed_content(media_requests)
    assert [result.tag for result in embeddings] == ["m0", "m1", "m2"]
    assert (place.emulator.requests["embed"], place.emulator.jobs()) == (1, [])

    chunk_requests = [EmbeddingRequest(text=f"chunk {i}", output_dimensionality=768) for i in range(50)]
    embeddings = smart_client.embed_content(chunk_requests)
    assert len(place.emulator.jobs()) == 1
    assert place.emulator.requests["embed"] == 1
    for i in (0, 17, 49):
        assert close_to(embeddings[i].embedding, place.vector(f"chunk {i}", output_dimensionality=768))
        assert np.linalg.norm(embeddings[i].embedding) == pytest.approx(1.0, abs=1e-3)


def test_old_code_still_works_and_new_code_gets_smart_behaviour(place: Place) -> None:
    """The migration path: the batch client always submits a job, the smart one decides."""
    requests = [EmbeddingBatchRequest(text="a", tag="1"), EmbeddingBatchRequest(text="b", tag="2")]

    batch_client = place.make(GeminiBatchClient)
    embeddings = batch_client.embed_content(requests)  # Still batch
    assert len(place.emulator.jobs()) == 1

    smart_client = place.make(SmartGeminiClient)
    smart = smart_client.embed_content(requests)  # Auto-decides
    assert len(place.emulator.jobs()) == 1
    assert [r.tag for r in smart] == [r.tag for r in embeddings] == ["1", "2"]
    assert all(close_to(a.embedding, b.embedding or []) for a, b in zip(smart, embeddings, strict=True))


CONFIGURATION = """
plugins:
  - egregora:
      model:
        embedding: models/gemini-embedding-001
      batching:
        # Smart batching settings
        strategy: auto  # auto | batch | individual
        batch_threshold: 10  # Min items to trigger batch
        max_parallel_individual: 5  # Concurrent individual calls
        prefer_individual_for:
          - rag_query  # Single query embeddings
          - quick_enrichment  # < 5 items
"""


def test_the_configuration_makes_a_client(place: Place) -> None:
    """From mkdocs.yml in the working folder: model, threshold and preferred purposes."""
    Path("mkdocs.yml").write_text(CONFIGURATION, encoding="utf-8")
    with SmartGeminiClient.from_settings(place.client) as smart_client:
        many = [EmbeddingRequest(text=f"t {i}") for i in range(15)]
        assert len(smart_client.embed_content(many, purpose="rag_query")) == 15
        assert smart_client.batch_threshold == 10
    assert place.emulator.jobs() == []


def test_decisions_and_a_summary_are_in_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """What was chosen, against what, and what it saved."""
    caplog.set_level(logging.INFO, "embatch.gemini")
    smart_client = place.make(SmartGeminiClient)
    smart_client.embed_content([EmbeddingRequest(text="a"), EmbeddingRequest(text="b")])
    smart_client.metrics.log_summary()
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("Smart batching: 2 items → individual calls (~")
    assert said[1].startswith("Session summary: 1 individual, 0 batch. Saved ~")
    assert smart_client.metrics.time_saved_estimate > 10
    assert smart_client.metrics.cost_delta > 0


def test_the_two_extensions_are_used_as_they_were_sketched(place: Place) -> None:
    """Positional arguments, a window, and an embed_content to be awaited."""
    adaptive = place.make(AdaptiveSmartClient, "gemini-embedding-001", 10)
    assert adaptive.embed_content([EmbeddingRequest(text="a")])[0].embedding is not None
    assert adaptive.batch_threshold == 10

    coalescing = place.make(CoalescingSmartClient, "gemini-embedding-001", coalesce_window=200.0)

    async def main() -> list[int]:
        found = await asyncio.gather(*(coalescing.embed_content([f"q {i}"]) for i in range(5)))
        return [len(results[0].embedding or []) for results in found]

    before = place.emulator.requests["embed"]
    assert asyncio.run(main()) == [3072] * 5
    assert place.emulator.requests["embed"] == before + 1


def test_answers_are_generated_by_calls_by_jobs_and_in_pieces(place: Place) -> None:
    """As vectors are; one prompt comes as it is made."""
    client = place.make(SmartGeminiClient, CHAT)
    few = client.generate_content(["why?", BatchPromptRequest("how?", tag="h", max_output_tokens=20)])
    assert [result.error for result in few] == [None, None]
    assert few[1].tag == "h"
    assert place.emulator.jobs() == []
    many = client.generate_content([f"why {i}?" for i in range(12)])
    assert len(place.emulator.jobs()) == 1
    assert all(result.text and result.finish_reason == "STOP" for result in many)
    assert len({result.text for result in many}) == 12
    pieces = list(client.generate_content_stream("why?"))
    assert len(pieces) > 1
    assert "".join(pieces).strip()
    assert place.emulator.requests["stream"] == 1


def test_one_bad_text_of_many_fails_alone(place: Place) -> None:
    """By calls and in a job."""
    client = place.make(SmartGeminiClient)
    for count in (3, 20):
        results = client.embed_content([*[f"t {count} {i}" for i in range(count)], " "])
        assert [result.error is None for result in results] == [True] * count + [False]
