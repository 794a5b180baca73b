"""What every provider's calls keep to: order, count, size, length, usage; one request each, and errors by kind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.contract.providers.conftest import KINDS, RAW_CUT

from embatch.emulator import Fault
from embatch.emulator.vectors import vector
from embatch.errors import ProviderError, UsageError
from embatch.providers.work import resolve_task
from embatch.remote import EmbedWork, GenerateWork, Provider

if TYPE_CHECKING:
    from tests.contract.providers.conftest import Place

pytestmark = pytest.mark.remote
every = pytest.mark.parametrize("place", KINDS, indirect=True)
TEXTS = ["first", "second, with ünïcödé", "third\u2028line", "4 " * 200, "第五"]


def expected(place: Place, text: str, *, task: str | None = None, dims: int | None = None) -> np.ndarray:
    """The emulator's vector, at unit length."""
    raw = vector(place.model, text, task, dims)
    return raw / np.linalg.norm(raw) if place.kind == RAW_CUT else raw


def work(place: Place, **others: object) -> EmbedWork:
    return EmbedWork(model=place.model, **others)  # type: ignore[arg-type]  # fields of EmbedWork


@every
def test_it_is_a_provider(place: Place) -> None:
    """Name, account and facts are there; nothing of it shows the key."""
    assert isinstance(place.provider, Provider)
    assert place.provider.name == place.kind
    assert place.provider.facts.model == place.model
    assert "topsecret" not in repr(place.provider) + place.provider.account


@every
def test_vectors_come_in_the_order_of_the_texts(place: Place) -> None:
    """Each text's own vector, float32, in one request."""
    before = place.emulator.requests["embed"]
    answer = place.provider.call(TEXTS, work(place), timeout_s=10)
    assert len(answer.results) == len(TEXTS)
    for text, result in zip(TEXTS, answer.results, strict=True):
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected(place, text), atol=1e-6)
    assert answer.tokens is not None
    assert answer.tokens > 0
    assert place.emulator.requests["embed"] == before + 1


@every
def test_a_single_text_and_a_full_call(place: Place) -> None:
    """One text, and a hundred."""
    for count in (1, 100):
        texts = [f"text {i} of {count}" for i in range(count)]
        answer = place.provider.call(texts, work(place), timeout_s=10)
        for text, result in zip(texts, answer.results, strict=True):
            np.testing.assert_allclose(result, expected(place, text), atol=1e-6)  # type: ignore[arg-type]  # a vector


@every
@pytest.mark.parametrize("dims", [256, 768])
def test_fewer_dimensions_have_unit_length(place: Place, dims: int) -> None:
    """As many as asked for, at length 1, also where the provider cuts without normalising."""
    answer = place.provider.call(TEXTS, work(place, dimensions=dims), timeout_s=10)
    for text, result in zip(TEXTS, answer.results, strict=True):
        assert isinstance(result, np.ndarray)
        assert result.shape == (dims,)
        assert np.linalg.norm(result) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(result, expected(place, text, dims=dims), atol=1e-6)


@every
def test_prompts_are_put_before_the_text_verbatim(place: Place) -> None:
    """The provider sees prompt and text as one."""
    answer = place.provider.call(["x"], work(place, prompt="query: "), timeout_s=10)
    np.testing.assert_allclose(answer.results[0], expected(place, "query: x"), atol=1e-6)  # type: ignore[arg-type]  # a vector, not an error


@every
def test_dimensions_are_learned_from_the_first_answer(place: Place) -> None:
    """Where the facts do not know how many there are."""
    provider = place.open()
    if place.kind == "compatible":
        assert provider.facts.dimensions == 0
        provider.call(["x"], work(place), timeout_s=10)
    assert provider.facts.dimensions == len(vector(place.model, "x"))


@every
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="rate_limit"), "rate_minute"),
        (Fault(kind="rate_limit_bare"), "rate_minute"),
        (Fault(kind="rate_limit_date"), "rate_minute"),
        (Fault(kind="rate_limit_long"), "rate_minute"),
        (Fault(kind="rate_limit_day"), "rate_day"),
        (Fault(kind="overloaded"), "overloaded"),
        (Fault(kind="internal"), "overloaded"),
        (Fault(kind="bad_gateway"), "overloaded"),
        (Fault(kind="gateway_timeout"), "timeout"),
        (Fault(kind="request_timeout"), "timeout"),
        (Fault(kind="unauthenticated"), "auth"),
        (Fault(kind="forbidden"), "auth"),
        (Fault(kind="not_found"), "not_found"),
        (Fault(kind="status", status=400), "bad_input"),
        (Fault(kind="status", status=409), "overloaded"),
        (Fault(kind="reset_before"), "connection"),
        (Fault(kind="reset_after"), "connection"),
        (Fault(kind="cut_body"), "connection"),
        (Fault(kind="stall"), "timeout"),
        (Fault(kind="short_list"), "protocol"),
        (Fault(kind="long_list"), "protocol"),
        (Fault(kind="empty_data"), "protocol"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else None,
)
def test_refusals_by_kind_and_never_a_second_request(place: Place, fault: Fault, kind: str) -> None:
    """Each way to fail has its kind, after one request: the SDKs' own retries are off."""
    place.emulator.fault(fault)
    before = place.emulator.requests["embed"]
    timeout_s = 0.2 if fault.kind == "stall" else 10.0
    with pytest.raises(ProviderError) as error:
        place.provider.call(["a", "b"], work(place), timeout_s=timeout_s)
    assert error.value.kind == kind
    assert "topsecret" not in str(error.value)
    assert len(str(error.value)) < 500
    assert place.emulator.requests["embed"] == before + 1


@every
@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("rate_limit", 29, 31), ("rate_limit_date", 18, 21), ("rate_limit_long", 599, 601)],
)
def test_the_delay_asked_for_is_kept(place: Place, kind: str, least: float, most: float) -> None:
    """In seconds, from headers, bodies and dates, also when it is long."""
    from embatch.emulator import Emulator, EmulatorOptions, Latency

    provider = "gemini" if place.kind == "gemini" else "openai"
    options = EmulatorOptions(latency=Latency.none(), real_delays=True, epoch=None)
    with Emulator(provider, options=options) as emulator:  # type: ignore[arg-type]  # one of the two
        emulator.fault(Fault(kind=kind))
        with pytest.raises(ProviderError) as error:
            place.open(base_url=emulator.url).call(["a"], work(place), timeout_s=10)
    assert error.value.retry_after_s is not None
    assert least <= error.value.retry_after_s <= most


@every
@pytest.mark.parametrize("kind", ["null_value", "wrong_dimension"])
def test_one_broken_vector_is_one_error(place: Place, kind: str) -> None:
    """The other texts of the call keep theirs."""
    place.provider.call(["warm"], work(place), timeout_s=10)  # so that the dimensions are known
    place.emulator.fault(Fault(kind=kind))
    answer = place.provider.call(["a", "b", "c"], work(place), timeout_s=10)
    broken = [isinstance(result, ProviderError) for result in answer.results]
    assert broken == [True, False, False]
    np.testing.assert_allclose(answer.results[1], expected(place, "b"), atol=1e-6)  # type: ignore[arg-type]  # a vector, not an error


@every
def test_nan_never_gets_through(place: Place) -> None:
    """NaN in an answer is an error, of its place or of the call; base64 carries it, JSON may not."""
    place.emulator.fault(Fault(kind="nan"))
    try:
        results = list(place.provider.call(["a", "b"], work(place), timeout_s=10).results)
    except ProviderError as error:
        results = [error, error]
    assert isinstance(results[0], ProviderError)
    assert results[0].kind == "protocol"


@every
def test_answers_without_usage(place: Place) -> None:
    """What is not counted is None, so that the estimate stands."""
    place.emulator.fault(Fault(kind="no_usage"))
    assert place.provider.call(["a"], work(place), timeout_s=10).tokens is None


@every
@pytest.mark.parametrize("kind", ["wrong_content_type", "slow_body"])
def test_odd_but_whole_answers_are_used(place: Place, kind: str) -> None:
    """A wrong content type and a body in pieces lose nothing."""
    place.emulator.fault(Fault(kind=kind, delay=0.05 if kind == "slow_body" else None))
    answer = place.provider.call(["a", "b"], work(place), timeout_s=10)
    np.testing.assert_allclose(answer.results[1], expected(place, "b"), atol=1e-6)  # type: ignore[arg-type]  # a vector, not an error


@every
def test_an_answer_that_does_not_end(place: Place) -> None:
    """Pieces keep coming, each in time: the limit is for the whole answer, too."""
    place.emulator.fault(Fault(kind="slow_body", delay=1.5))
    with pytest.raises(ProviderError) as error:
        place.provider.call([f"text {i}" for i in range(50)], work(place), timeout_s=0.4)
    assert error.value.kind == "timeout"
    place.emulator.fault(Fault(kind="slow_body", delay=1.5, where="generate"))
    with pytest.raises(ProviderError) as error:
        place.generating.call(["long " * 50], GenerateWork(model=place.generating_model), timeout_s=0.4)
    assert error.value.kind == "timeout"


@every
def test_no_server_at_all(place: Place) -> None:
    """Nobody listens: a connection error that tells no key."""
    provider = place.open(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ProviderError) as error:
        provider.call(["a"], work(place), timeout_s=5)
    assert error.value.kind == "connection"


@every
def test_a_base_url_that_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without http:// can never work: it is refused, also where the environment has it."""
    with pytest.raises(UsageError):
        place.open(base_url="127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "127.0.0.1:9/v1")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "127.0.0.1:9/v1")
    with pytest.raises(UsageError):
        place.open(base_url=None)


@every
def test_a_wrong_key(place: Place) -> None:
    """AUTH, and the key is not in the message, though the provider may repeat it."""
    with pytest.raises(ProviderError) as error:
        place.open(api_key="wrong-topsecret-1234").call(["a"], work(place), timeout_s=5)
    assert error.value.kind == "auth"
    assert "wrong-topsecret-1234" not in str(error.value) + repr(error.value.__cause__)


@every
def test_an_unknown_model(place: Place) -> None:
    """It opens, and the provider says that there is none."""
    provider = place.open("text-embedding-none")
    with pytest.raises(ProviderError) as error:
        provider.call(["a"], EmbedWork(model="text-embedding-none"), timeout_s=5)
    assert error.value.kind == "not_found"


@every
def test_too_many_texts_in_a_call(place: Place) -> None:
    """The call is to be split."""
    count = 101 if place.kind == "gemini" else 2049
    with pytest.raises(ProviderError) as error:
        place.provider.call(["a"] * count, work(place), timeout_s=20)
    assert error.value.kind == "too_many_items"


@every
def test_many_threads_at_once(place: Place) -> None:
    """One provider object serves several threads, each with its own vectors."""
    wrong: list[str] = []

    def ask(name: str) -> None:
        texts = [f"{name} {i}" for i in range(5)]
        for _ in range(3):
            results = place.provider.call(texts, work(place), timeout_s=20).results
            for text, result in zip(texts, results, strict=True):
                if not np.allclose(result, expected(place, text), atol=1e-6):  # type: ignore[arg-type]  # a vector
                    wrong.append(text)

    threads = [threading.Thread(target=ask, args=(f"thread {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


@every
def test_unfit_work_is_refused_before_anything_is_sent(place: Place) -> None:
    """Dimensions that the model does not have cost no request."""
    before = place.emulator.requests.total
    with pytest.raises(UsageError):
        place.provider.call(["a"], work(place, dimensions=-1), timeout_s=10)
    assert place.emulator.requests.total == before


@pytest.mark.parametrize("place", ["gemini"], indirect=True)
def test_gemini_embedding_2_never_fuses_texts(place: Place) -> None:
    """The SDK would make one content of a list of strings; each text has its own vector, with the task in the text."""
    provider = place.open("gemini-embedding-2")
    _, prompt = resolve_task(provider.facts, "query")
    asked = EmbedWork(model="gemini-embedding-2", dimensions=768, prompt=prompt)
    answer = provider.call(TEXTS, asked, timeout_s=10)
    for text, result in zip(TEXTS, answer.results, strict=True):
        assert isinstance(result, np.ndarray)
        np.testing.assert_allclose(
            result,
            vector("gemini-embedding-2", prompt + text, None, 768),
            atol=1e-6,
        )


@pytest.mark.parametrize("place", ["gemini"], indirect=True)
def test_task_types_and_titles_reach_gemini(place: Place) -> None:
    """They change the vector."""
    asked = EmbedWork(model=place.model, task="RETRIEVAL_DOCUMENT", title="A title")
    (result,) = place.provider.call(["x"], asked, timeout_s=10).results
    raw = vector(place.model, "x", "RETRIEVAL_DOCUMENT", title="A title")
    np.testing.assert_allclose(result, raw / np.linalg.norm(raw), atol=1e-6)  # type: ignore[arg-type]  # a vector


@pytest.mark.parametrize("place", ["gemini"], indirect=True)
def test_billing_at_gemini(place: Place) -> None:
    """400 FAILED_PRECONDITION is no bad input: the account may not do this."""
    place.emulator.fault(Fault(kind="billing"))
    with pytest.raises(ProviderError) as error:
        place.provider.call(["a"], work(place), timeout_s=10)
    assert error.value.kind == "auth"


@pytest.mark.parametrize("place", ["openai", "compatible"], indirect=True)
def test_no_credit_at_openai(place: Place) -> None:
    """A 429 that no waiting helps."""
    place.emulator.fault(Fault(kind="insufficient_quota"))
    with pytest.raises(ProviderError) as error:
        place.provider.call(["a"], work(place), timeout_s=10)
    assert error.value.kind == "quota_money"


@pytest.mark.parametrize("place", ["openai", "compatible"], indirect=True)
def test_indices_decide(place: Place) -> None:
    """Vectors out of order are put in order; vectors that all claim to be the first are no answer."""
    place.emulator.fault(Fault(kind="shuffled"))
    answer = place.provider.call(TEXTS, work(place), timeout_s=10)
    for text, result in zip(TEXTS, answer.results, strict=True):
        np.testing.assert_allclose(result, expected(place, text), atol=1e-6)  # type: ignore[arg-type]  # a vector
    place.emulator.fault(Fault(kind="same_index"))
    with pytest.raises(ProviderError) as error:
        place.provider.call(TEXTS, work(place), timeout_s=10)
    assert error.value.kind == "protocol"


@pytest.mark.parametrize("place", ["openai", "compatible"], indirect=True)
def test_texts_that_are_too_long(place: Place) -> None:
    """OpenAI refuses them; the text is to be found and cut."""
    with pytest.raises(ProviderError) as error:
        place.provider.call(["short", "long " * 20_000], work(place), timeout_s=10)
    assert error.value.kind == "input_too_long"


@pytest.mark.parametrize("place", ["openai"], indirect=True)
def test_hints_of_quotas(place: Place) -> None:
    """Headers say how much is left."""
    from embatch.emulator import Emulator, EmulatorOptions, Latency

    with Emulator("openai", options=EmulatorOptions(latency=Latency.none(), tier="1")) as emulator:
        answer = place.open(base_url=emulator.url).call(["a"], work(place), timeout_s=10)
    assert answer.hints is not None
    assert answer.hints.requests_limit == 3000
    assert answer.hints.tokens_limit == 1_000_000
    assert answer.hints.requests_remaining is not None
