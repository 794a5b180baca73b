"""The clients over a provider in memory: order, lanes, isolation, groups, timeouts, metrics, threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.fake_provider import FakeProvider, vector

from embatch.engine.lanes.clock import Clock
from embatch.errors import (
    BackendClosedError,
    EmptyTextError,
    GoalError,
    ItemProviderError,
    NotTextError,
    ProviderError,
    StillRunningError,
    UsageError,
)
from embatch.gemini import (
    AdaptiveSmartClient,
    BatchingMetrics,
    BatchingSettings,
    EmbeddingBatchRequest,
    EmbeddingBatchResult,
    EmbeddingRequest,
    EmbeddingResult,
    GeminiBatchClient,
    SmartGeminiClient,
)
from embatch.remote import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Make = Callable[..., Any]


def texts(count: int, name: str = "text") -> list[EmbeddingRequest]:
    return [EmbeddingRequest(f"{name} {i}", tag=str(i)) for i in range(count)]


def refusing(word: str, kind: ErrorKind = ErrorKind.BAD_INPUT) -> Callable[[Sequence[str]], None]:
    def before_call(sent: Sequence[str]) -> None:
        if any(word in text for text in sent):
            raise ProviderError(f"no {word} here", kind=kind)

    return before_call


def test_results_come_in_the_order_of_the_requests_with_their_tags(make: Make) -> None:
    """By calls and by jobs, repeats included: each vector is its own text's, as a list of floats."""
    client = make()
    for count in (3, 40):
        requests = [*texts(count), EmbeddingRequest("text 1", tag="again")]
        results = client.embed_content(requests)
        assert [result.tag for result in results] == [request.tag for request in requests]
        assert [result.embedding for result in results] == [vector(one.text).tolist() for one in requests]
        assert all(result.error is None and result.exception is None for result in results)
        assert isinstance(results[0].embedding, list)


def test_few_go_by_calls_and_many_as_one_job(make: Make, fake: FakeProvider) -> None:
    """The threshold decides; equal texts count once."""
    client = make(10)
    client.embed_content(texts(9))
    assert (len(fake.calls), len(fake.jobs)) == (1, 0)
    client.embed_content(texts(10, "more"))
    assert (len(fake.calls), len(fake.jobs)) == (1, 1)
    client.embed_content([EmbeddingRequest("the same")] * 30)
    assert (fake.calls[-1], len(fake.jobs)) == (["the same"], 1)


def test_lanes_can_be_forced(make: Make, fake: FakeProvider) -> None:
    """For one call, whatever its size; both at once are a ValueError before anything is sent."""
    client = make()
    client.embed_content(texts(1), force_batch=True)
    assert (len(fake.calls), len(fake.jobs)) == (0, 1)
    client.embed_content(texts(25, "many"), force_individual=True)
    assert (len(fake.calls), len(fake.jobs)) == (3, 1)
    with pytest.raises(ValueError, match="force_batch"):
        client.embed_content(texts(1, "none"), force_batch=True, force_individual=True)
    assert (len(fake.calls), len(fake.jobs)) == (3, 1)


def test_hybrid_uses_both_lanes_at_once(make: Make, fake: FakeProvider) -> None:
    """A few by calls, the rest as a job, the results in one order; too few for that are calls."""
    client = make(strategy="hybrid")
    client.embed_content(texts(9))
    assert (len(fake.calls), len(fake.jobs)) == (1, 0)
    fake.calls.clear()
    results = client.embed_content(texts(30, "many"))
    assert [r.embedding for r in results] == [vector(f"many {i}").tolist() for i in range(30)]
    (job,) = fake.jobs.values()
    by_calls = sum(map(len, fake.calls))
    assert (by_calls >= 5, by_calls + len(job.rows)) == (True, 30)


def test_preferred_purposes_go_by_calls(make: Make, fake: FakeProvider) -> None:
    """As the settings name them."""
    client = make(2, prefer_individual_for=["rag_query"])
    client.embed_content(texts(5), purpose="rag_query")
    assert (len(fake.calls), len(fake.jobs)) == (1, 0)
    client.embed_content(texts(5, "other"), purpose="indexing")
    assert (len(fake.calls), len(fake.jobs)) == (1, 1)


@pytest.mark.parametrize("count", [4, 30])
def test_one_bad_text_fails_alone(make: Make, fake: FakeProvider, count: int) -> None:
    """Its result says why and keeps the exception; all others have their vectors."""
    fake.before_call = refusing("poison")
    requests: list[Any] = [*texts(count), EmbeddingRequest("poison", tag="p"), EmbeddingRequest("", tag="e")]
    requests.append(EmbeddingRequest(None, tag="n"))  # type: ignore[arg-type]  # the point
    results = make().embed_content(requests, force_individual=True)
    assert [r.error is None for r in results] == [True] * count + [False] * 3
    bad, empty, none = results[-3:]
    assert isinstance(bad.exception, ItemProviderError)
    assert bad.error is not None
    assert "no poison here" in bad.error
    assert (bad.embedding, bad.tag) == (None, "p")
    assert isinstance(empty.exception, EmptyTextError)
    assert isinstance(none.exception, NotTextError)


def test_requests_that_differ_are_grouped_not_refused(make: Make, fake: FakeProvider) -> None:
    """Models, tasks and dimensions may be mixed: runs of their own, results in one order."""
    client = make()
    requests = [
        EmbeddingRequest("a"),
        EmbeddingRequest("b", model="models/fake-2"),
        EmbeddingRequest("c", output_dimensionality=8),
        EmbeddingRequest("d", model="gemini:fake"),
        EmbeddingRequest("e", task_type="RETRIEVAL_QUERY"),
    ]
    results = client.embed_content(requests)
    assert [r.embedding for r in results] == [vector(request.text).tolist() for request in requests]
    assert sorted(map(sorted, fake.calls)) == [["a", "c", "d", "e"], ["b"]]


def test_what_a_model_cannot_do_is_refused_before_anything_is_sent(make: Make, fake: FakeProvider) -> None:
    """Tasks, dimensions, names and things that are no requests."""
    client = make()
    for wrong, said in (
        (EmbeddingRequest("x", task_type="DANCING"), "knows no task"),
        (EmbeddingRequest("x", output_dimensionality=5), "8 dimensions"),
        (EmbeddingRequest("x", model="openai:x"), "names no Gemini model"),
        (7, "request 1 is of type int"),
    ):
        with pytest.raises(UsageError, match=said):
            client.embed_content([EmbeddingRequest("fine"), wrong])
    for one in ("text", EmbeddingRequest("text")):
        with pytest.raises(UsageError, match="takes a list"):
            client.embed_content(one)
    assert (fake.calls, fake.jobs) == ([], {})


def test_no_requests_are_no_results(make: Make, fake: FakeProvider) -> None:
    """And nothing is sent."""
    assert make().embed_content([]) == []
    assert make().embed_content(iter([])) == []
    assert fake.calls == []


def test_plain_strings_are_requests(make: Make) -> None:
    """For short programs."""
    assert [r.embedding for r in make().embed_content(["a", "b"])] == [
        vector("a").tolist(),
        vector("b").tolist(),
    ]


def test_a_wrong_key_is_raised_and_not_hidden_in_results(make: Make, fake: FakeProvider) -> None:
    """Where nothing at all could be had, the call fails as a whole."""
    fake.before_call = refusing("text", ErrorKind.AUTH)
    with pytest.raises(ProviderError, match="no text here") as caught:
        make().embed_content(texts(3))
    assert caught.value.kind is ErrorKind.AUTH


def test_one_group_that_cannot_be_sent_leaves_the_others_their_results(
    make: Make, fake: FakeProvider
) -> None:
    """Its results say why, and the cause is at hand."""
    fake.before_call = refusing("query", ErrorKind.AUTH)
    requests = [EmbeddingRequest("a"), EmbeddingRequest("query", model="fake-2")]
    good, bad = make().embed_content(requests)
    assert good.embedding == vector("a").tolist()
    assert bad.error is not None
    assert "no query here" in bad.error
    assert isinstance(bad.exception.__cause__, ProviderError)


def test_a_budget_stops_a_call(make: Make) -> None:
    """It is the call's own, and hard."""
    with pytest.raises(GoalError, match="budget"):
        make(budget=1e-9).embed_content(texts(5))


def test_the_batch_client_always_submits_jobs(make: Make, fake: FakeProvider) -> None:
    """One text is a job, too."""
    client = make(kind=GeminiBatchClient)
    assert client.embed_content(texts(1))[0].embedding == vector("text 0").tolist()
    assert (fake.calls, len(fake.jobs)) == ([], 1)


def test_at_the_timeout_the_job_is_named_and_the_same_call_takes_its_results(
    make: Make, fake: FakeProvider
) -> None:
    """The error is a TimeoutError, says how to go on, and no second job is submitted, by another client either."""
    fake.polls_until_done = 10**9
    with pytest.raises(StillRunningError, match="job jobs/1 still under way") as caught:
        make(5.0, 1500.0, kind=GeminiBatchClient).embed_content(texts(1))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.jobs == ("jobs/1",)
    assert "again" in caught.value.hint
    fake.polls_until_done = 0
    results = make(5.0, 90_000.0, kind=GeminiBatchClient).embed_content(texts(1))
    assert results == [EmbeddingResult("0", vector("text 0").tolist())]
    assert len(fake.jobs) == 1


def test_groups_that_were_done_are_not_paid_again_after_a_timeout() -> None:
    """Two groups, one slow: the same call again asks for neither a second time."""
    quick, slow = FakeProvider(polls_until_done=0), FakeProvider(polls_until_done=10**9)
    requests = [EmbeddingRequest("a"), EmbeddingRequest("b", model="slow")]

    def embed(timeout: float) -> list[EmbeddingResult]:
        with GeminiBatchClient(
            None,
            "quick",
            5.0,
            timeout,
            provider=lambda name: {"quick": quick, "slow": slow}[name],
            clock=Clock(2000.0),
        ) as client:
            return client.embed_content(requests)

    with pytest.raises(StillRunningError, match="jobs/1"):
        embed(1500.0)
    slow.polls_until_done = 0
    assert [r.embedding for r in embed(90_000.0)] == [vector("a").tolist(), vector("b").tolist()]
    assert (len(quick.jobs), len(slow.jobs)) == (1, 1)
    assert quick.calls == slow.calls == []


def test_the_poll_interval_is_kept(make: Make, fake: FakeProvider) -> None:
    """A job is looked at about as often as asked for, and not more."""
    fake.polls_until_done = 10**9
    with pytest.raises(StillRunningError):
        make(200.0, 2100.0, kind=GeminiBatchClient).embed_content(texts(3))
    assert 1 <= fake.jobs["jobs/1"].polls <= 10


def test_metrics_count_and_are_told(make: Make, fake: FakeProvider, caplog: pytest.LogCaptureFixture) -> None:
    """Texts, calls, jobs, the surcharge against jobs only, a line a decision, and a summary on closing."""
    caplog.set_level(logging.INFO, "embatch.gemini")
    client = make()
    client.embed_content(texts(2))
    client.embed_content(texts(50, "many"))
    metrics = client.metrics
    assert isinstance(metrics, BatchingMetrics)
    assert (metrics.total_requests, metrics.individual_calls, metrics.batch_calls) == (52, 1, 1)
    assert (metrics.individual_items, metrics.batch_items) == (2, 50)
    by_calls = metrics.dollars - 100 * 1e-6  # two tokens a row of the job, at a dollar a million
    assert metrics.cost_delta == pytest.approx(by_calls / 2)  # jobs cost half
    client.close()
    client.close()
    said = [record.getMessage() for record in caplog.records if record.name == "embatch.gemini"]
    assert said[0].startswith("Smart batching: 2 items → individual calls (~")
    assert said[0].endswith("batch; fewer than 10)")
    assert said[1].startswith("Smart batching: 50 items → batch API (~")
    assert said[2].startswith("Session summary: 1 individual, 1 batch. Saved ~")
    assert len(said) == 3


def test_metrics_can_be_made_by_hand() -> None:
    """The five fields of the document, in its order."""
    metrics = BatchingMetrics(15, 15, 3, 180.0, 0.001)
    assert (metrics.individual_calls, metrics.batch_calls, metrics.time_saved_estimate) == (15, 3, 180.0)


def test_the_other_names_are_the_same_classes() -> None:
    """For code that was written to them."""
    assert EmbeddingBatchRequest is EmbeddingRequest
    assert EmbeddingBatchResult is EmbeddingResult


def test_max_parallel_bounds_calls_at_once(make: Make, fake: FakeProvider) -> None:
    """Under either name; also across threads that share the client, none of which is left waiting."""
    under_way, most, lock, two = 0, 0, threading.Lock(), threading.Event()

    def before_call(sent: Sequence[str]) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if most == 2 or not two.wait(30):
            two.set()
        threading.Event().wait(0.002)
        with lock:
            under_way -= 1

    fake.before_call = before_call
    client = make(10, max_parallel=2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: client.embed_content([EmbeddingRequest(f"t{i}")]), range(24)))
    assert [results[0].embedding for results in found] == [vector(f"t{i}").tolist() for i in range(24)]
    assert most == 2


def test_a_job_of_one_thread_holds_up_no_query_of_another(make: Make, fake: FakeProvider) -> None:
    """A query is answered while a job is waited for."""
    fake.polls_until_done = 10**9
    submitted = threading.Event()
    fake.after_submit = submitted.set
    client = make(timeout=100_000.0, poll_interval=1.0)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.embed_content, texts(20))
        assert submitted.wait(10)
        assert client.embed_content(["query"])[0].embedding == vector("query").tolist()
        assert not slow.done()
        fake.polls_until_done = 0
        assert len(slow.result(20)) == 20


def test_async_forms_leave_the_loop_free(make: Make) -> None:
    """Many at once, each with its own results."""
    client: SmartGeminiClient = make()

    async def main() -> list[list[EmbeddingResult]]:
        return await asyncio.gather(*(client.aembed_content([f"t{i}"]) for i in range(10)))

    assert [r[0].embedding for r in asyncio.run(main())] == [vector(f"t{i}").tolist() for i in range(10)]


def test_a_closed_client_says_so(make: Make) -> None:
    """Instead of opening everything anew."""
    client = make()
    client.close()
    with pytest.raises(BackendClosedError, match="was closed"):
        client.embed_content(["a"])


def test_settings_make_a_client(fake: FakeProvider, own_folder: Path) -> None:
    """Loaded, from a path, or found in the working folder; without a model there is none."""
    (own_folder / "embatch.yaml").write_text(
        "batching: {batch_threshold: 3, prefer_individual_for: [rag_query]}\nlanes: {model: 'gemini:fake'}\n"
    )
    for settings in (None, "embatch.yaml", own_folder / "embatch.yaml"):
        with SmartGeminiClient.from_settings(None, settings, provider=lambda _: fake) as client:
            assert client.batch_threshold == 3
            assert client.embed_content(texts(4), purpose="rag_query")[3].embedding is not None
    assert (len(fake.calls), fake.jobs) == (3, {})
    with pytest.raises(UsageError, match="name no model"):
        SmartGeminiClient.from_settings(None, BatchingSettings())


# --- thresholds that learn --------------------------------------------------------------------------------------------


def test_a_threshold_by_cost_falls_when_waiting_is_worth_less(make: Make) -> None:
    """The dearer an hour, the more texts a job must hold to pay."""
    found = [make("auto", hour_worth=worth).batch_threshold or 10**9 for worth in (0.0, 0.0001, 0.01, 1.0)]
    assert found == sorted(found)
    assert found[0] == 1
    assert found[-1] > 100


def test_an_adaptive_client_begins_with_what_it_is_given_and_then_goes_by_what_it_saw(
    make: Make, fake: FakeProvider
) -> None:
    """After calls and a job were seen, small piles no longer go as jobs that do not pay."""
    slow_enough = Clock(20.0)  # for what it learns to be true
    client = make(5, kind=AdaptiveSmartClient, clock=slow_enough, hour_worth=50.0)
    assert client.batch_threshold == 5
    client.embed_content(texts(4))
    client.embed_content(texts(6, "job"))
    assert len(fake.jobs) == 1
    learned = client.batch_threshold
    assert learned is None or learned > 6
    client.embed_content(texts(6, "calls"))
    assert len(fake.jobs) == 1


def test_what_was_learned_is_there_for_the_next_client(make: Make) -> None:
    """Latencies are kept between processes unless that is turned off."""
    first = make("auto")
    before = first.batch_threshold
    first.embed_content(texts(20), force_batch=True)
    first.close()
    assert make("auto", keep_learned=False).batch_threshold == before
    assert make("auto").batch_threshold != before
