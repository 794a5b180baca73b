"""OpenAI's own Python client, unchanged, is the witness that the server speaks its protocol."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.server.gate import Gate, until, waiting
from tests.doubles import FakeBackend, Faults
from tests.tiny_bert import write_tiny_bert

from embatch.frontends.server.settings import ApiKey, ServedModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.server.conftest import Serving

    from embatch.frontends.server.transport.running import BackgroundServer

pytestmark = [pytest.mark.serve, pytest.mark.remote]

TEXTS = ["the cat sat on the mat", "a dog barked at the moon", "Zürich, 東京 and 🦊"]


@contextmanager
def client_of(server: BackgroundServer, **options: Any) -> Iterator[Any]:
    from openai import OpenAI

    with OpenAI(base_url=f"{server.url}/v1", **{"api_key": "none", "max_retries": 0, **options}) as client:
        yield client


@pytest.fixture
def client(server: BackgroundServer) -> Iterator[Any]:
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def expected() -> Any:
    from embatch import Embedder

    with Embedder("hashing", profiles=False) as embedder:
        return embedder.embed(TEXTS).vectors


def asking(client: Any, text: str) -> threading.Thread:
    thread = threading.Thread(target=client.embeddings.create, kwargs={"model": "fake", "input": text})
    thread.start()
    return thread


def vectors_of(answer: Any) -> Any:
    return np.array([each.embedding for each in answer.data], np.float32)


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])
def test_texts_get_the_vectors_that_the_library_gives(client: Any, expected: Any, encoding: Any) -> None:
    """In order, bit by bit, in base64 (which the client asks for by itself) and as numbers."""
    answer = client.embeddings.create(model="words", input=TEXTS, **encoding)
    np.testing.assert_array_equal(vectors_of(answer), expected)
    assert [(each.index, each.object) for each in answer.data] == [(n, "embedding") for n in range(3)]
    assert (answer.object, answer.model) == ("list", "words")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3


def test_base64_that_is_asked_for_by_name_is_handed_through(client: Any, expected: Any) -> None:
    """Little-endian float32, as OpenAI has it."""
    import base64

    answer = client.embeddings.create(model="words", input=TEXTS[0], encoding_format="base64")
    raw = base64.b64decode(answer.data[0].embedding, validate=True)
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), expected[0])


def test_one_text_is_an_input_too(client: Any, expected: Any) -> None:
    """A string gets a list of one."""
    answer = client.embeddings.create(model="words", input=TEXTS[1])
    np.testing.assert_array_equal(vectors_of(answer), expected[1:2])


def test_many_texts_come_back_whole(client: Any) -> None:
    """An answer of several parts is one list, in order."""
    texts = [f"text number {n}" for n in range(300)]
    many = client.embeddings.create(model="words", input=texts)
    assert [each.index for each in many.data] == list(range(300))
    last = client.embeddings.create(model="words", input=texts[-1], encoding_format="float")
    np.testing.assert_array_equal(vectors_of(many)[-1:], vectors_of(last))


def test_dimensions_cut_and_normalise_again(client: Any, expected: Any) -> None:
    """Fewer components of unit length; more than there are is an error that names the field."""
    from openai import BadRequestError

    found = vectors_of(client.embeddings.create(model="words", input=TEXTS, dimensions=64))
    cut = expected[:, :64] / np.linalg.norm(expected[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(found, cut, atol=1e-6)
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model="words", input="a", dimensions=385)
    assert caught.value.param == "dimensions"


def test_token_ids_of_the_model_give_its_vectors(serving: Serving, tmp_path: Path) -> None:
    """Ids of the model's own tokeniser, one list or many, get what the text gets; others are refused."""
    from openai import BadRequestError

    from embatch import Embedder

    folder = write_tiny_bert(tmp_path / "tiny")
    with Embedder(str(folder), profiles=False) as embedder:
        vectors = embedder.embed(["the cat", "a dog barked"]).vectors
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in ("the cat", "a dog barked")]
    models = (ServedModel(name="tiny", model=str(folder), options={"profiles": False}),)
    with serving(models=models) as server, client_of(server) as client:
        many = client.embeddings.create(model="tiny", input=ids)
        np.testing.assert_allclose(vectors_of(many), vectors, atol=1e-5)
        assert many.usage.prompt_tokens == sum(map(len, ids))
        one = client.embeddings.create(model="tiny", input=ids[0])
        np.testing.assert_allclose(vectors_of(one), vectors[:1], atol=1e-5)
        with pytest.raises(BadRequestError) as caught:
            client.embeddings.create(model="tiny", input=[ids[0], [10**9]])
        assert caught.value.param == "input[1]"


def test_a_model_without_token_ids_says_so(client: Any) -> None:
    """Hashing has no tokeniser: ids are refused, not guessed at."""
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match="tokeniser"):
        client.embeddings.create(model="words", input=[1, 2, 3])


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"input": []}, "input", "empty_array"),
        ({"input": ["fine", ""]}, "input[1]", "empty_string"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": "a", "extra_body": {"task": "no such task"}}, "task", "invalid_value"),
        ({"input": "a", "extra_body": {"priority": 1}}, "priority", "invalid_type"),
    ],
)
def test_a_mistake_is_a_bad_request(client: Any, asked: Any, param: str, code: str) -> None:
    """The client's error has field, code and type as at OpenAI."""
    from openai import BadRequestError

    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model="words", **asked)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.request_id


def test_a_model_that_is_not_served_is_not_found(client: Any) -> None:
    """404 with OpenAI's code, and the names that there are."""
    from openai import NotFoundError

    with pytest.raises(NotFoundError, match="words") as caught:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFoundError):
        client.models.retrieve("text-embedding-3-small")


def test_models_are_listed_and_found(client: Any) -> None:
    """By the served name and by what stands behind it, with what is known of them."""
    listed = client.models.list().data
    assert [(each.id, each.object, each.owned_by) for each in listed] == [("words", "model", "embatch")]
    client.embeddings.create(model="hashing", input="a")
    found = client.models.retrieve("hashing")
    assert (found.id, found.dimensions, found.open) == ("words", 384, True)
    assert client.embeddings.create(model="hashing", input="a").model == "words"


def test_a_model_that_is_not_open_yet_is_described(serving: Serving) -> None:
    """What the table of models knows is told, nothing is opened, and names with a slash are found."""
    models = (ServedModel(name="m", model="minilm"),)
    with serving(models=models, preload=False) as server, client_of(server) as client:
        found = client.models.retrieve("sentence-transformers/all-MiniLM-L6-v2")
        assert (found.id, found.open, found.dimensions, found.max_tokens) == ("m", False, 384, 256)


def test_a_poisoned_text_fails_its_own_request_alone(serving: Serving) -> None:
    """The request is refused with the text's index, while one that shares its batch gets its vectors."""
    from openai import APIStatusError

    gate = Gate()
    gate.backend.faults.raise_for = ["poison"]
    with serving(gate.backend) as server, client_of(server) as client:
        answers: dict[str, Any] = {}

        def ask(name: str, texts: list[str]) -> None:
            try:
                answers[name] = client.embeddings.create(model="fake", input=texts)
            except APIStatusError as error:
                answers[name] = error

        threads = [
            threading.Thread(target=ask, args=each)
            for each in (("first", ["one"]), ("bad", ["two", "poison", "three"]), ("good", ["four", "five"]))
        ]
        threads[0].start()
        assert gate.entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        until(lambda: waiting(server) == 5)
        gate.open()
        for thread in threads:
            thread.join(10)
    assert (answers["bad"].status_code, answers["bad"].param) == (500, "input[1]")
    assert answers["bad"].code == "input_failed"
    np.testing.assert_array_equal(
        vectors_of(answers["good"]), np.array([gate.backend.vector("four"), gate.backend.vector("five")])
    )


def test_a_full_queue_is_a_rate_limit_that_the_client_waits_out(serving: Serving) -> None:
    """429 with Retry-After; a client with retries gets its answer once there is room."""
    from openai import RateLimitError

    gate = Gate()
    with serving(gate.backend, queue=2) as server, client_of(server, max_retries=2) as client:
        threads = [asking(client, "computing")]
        assert gate.entered.wait(10)
        threads += [asking(client, "waiting"), asking(client, "waiting too")]
        until(lambda: waiting(server) == 2)
        with pytest.raises(RateLimitError) as caught:
            client.with_options(max_retries=0).embeddings.create(model="fake", input="one too many")
        gate.open()
        assert client.embeddings.create(model="fake", input="at last").data
        for thread in threads:
            thread.join(10)
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_dead_engine_is_an_error_and_then_opened_again(serving: Serving) -> None:
    """Whoever waits is told with 503; the next request finds a model that was opened anew."""
    from openai import APIStatusError

    dying, healthy = FakeBackend(faults=Faults(fail_calls=range(1, 10_000))), FakeBackend()
    with serving(dying, healthy) as server, client_of(server) as client:
        texts = [f"text {n}" for n in range(120)]
        with pytest.raises(APIStatusError) as caught:
            client.embeddings.create(model="fake", input=texts)
        assert (caught.value.status_code, caught.value.code) == (503, "engine_failed")
        answer = client.embeddings.create(model="fake", input="again")
        np.testing.assert_array_equal(vectors_of(answer)[0], healthy.vector("again"))
    assert dying.closed


def test_keys_are_asked_for(serving: Serving) -> None:
    """Without a known key 401, with one the answer, and over its limit 429 with the headers that clients know."""
    from openai import AuthenticationError, RateLimitError

    secret = "sk-0123456789abcdef"
    keys = (ApiKey(name="team", secret=secret, requests_per_minute=2, tokens_per_minute=1000),)
    with serving(keys=keys) as server:
        with client_of(server) as stranger, pytest.raises(AuthenticationError) as refused:
            stranger.embeddings.create(model="words", input="a")
        assert refused.value.code == "invalid_api_key"
        with client_of(server, api_key=secret) as client:
            raw = client.embeddings.with_raw_response.create(model="words", input="a")
            assert raw.headers["x-ratelimit-limit-requests"] == "2"
            assert raw.headers["x-ratelimit-remaining-tokens"] == "999"
            client.models.list()
            with pytest.raises(RateLimitError) as caught:
                client.embeddings.create(model="words", input="a")
            assert int(caught.value.response.headers["retry-after"]) <= 30


def test_the_asynchronous_client_gets_the_same(server: BackgroundServer, expected: Any) -> None:
    """Many requests at once share batches, and each gets its own vectors."""
    import asyncio

    from openai import AsyncOpenAI

    async def ask() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                *(client.embeddings.create(model="words", input=TEXTS[n % 3]) for n in range(60))
            )

    for place, answer in enumerate(asyncio.run(ask())):
        np.testing.assert_array_equal(vectors_of(answer)[0], expected[place % 3])
