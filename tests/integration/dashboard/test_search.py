"""`/v1/search` over a small index, as clients ask it."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.server.http import ask
from tests.integration.dashboard.conftest import WORDS, write_index

from embatch.frontends.server.settings import ApiKey, ServedModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.dashboard.conftest import Serving

    from embatch.frontends.server.transport.running import BackgroundServer

pytestmark = [pytest.mark.serve, pytest.mark.search]


@pytest.fixture(scope="module")
def server(serving: Serving, indexed: Path) -> Iterator[BackgroundServer]:
    """One that serves the index, for tests that leave it as it was."""
    with serving(index=str(indexed)) as server:
        yield server


def search(server: BackgroundServer, query: str, **fields: Any) -> Any:
    """The answer to a question that is in order."""
    reply = ask(server, "POST", "/v1/search", {"query": query, **fields})
    assert reply.status == 200, reply.body
    return reply.json


def places(found: Any) -> list[str]:
    return [f"{place['path']} {place['symbol']}" for place in found["data"]]


def computed(server: BackgroundServer) -> int:
    """Texts that the served model has computed."""
    models = ask(server, "GET", "/dashboard/status").json["models"]
    return int(models[0].get("inputs", 0))


def test_a_question_finds_its_place(server: BackgroundServer) -> None:
    """The best comes first, with where it is and what it says."""
    found = search(server, "wait before the request is sent again", k=2)
    best = found["data"][0]
    assert (best["path"], best["symbol"]) == ("src/tools.py", "wait_for_server")
    assert (best["start_line"], best["end_line"]) == (1, 10)
    assert (best["language"], best["kind"]) == ("python", "function")
    assert "raise TimeoutError" in best["text"]
    assert best["score"] >= found["data"][1]["score"]
    assert (found["object"], found["query"]) == ("list", "wait before the request is sent again")
    assert (found["mode"], found["index"]) == ("hybrid", "project")
    assert found["took_ms"] > 0
    assert len(found["data"]) == 2


def test_no_path_of_the_machine_is_told(server: BackgroundServer, indexed: Path) -> None:
    """Places are told as the index calls them; where it lies is the server's matter."""
    assert str(indexed.parent) not in json.dumps(search(server, "penguins"))


def test_an_address_can_ask_as_well(server: BackgroundServer) -> None:
    """GET has the same fields; filters may be given several times."""
    reply = ask(server, "GET", "/v1/search?q=mix+colours&k=5&path=src/**&path=docs/**&language=python")
    assert reply.status == 200
    assert {place["path"] for place in reply.json["data"]} == {"src/tools.py"}


def test_filters_leave_out(server: BackgroundServer) -> None:
    """By path, by language and by kind."""
    assert places(search(server, "penguins", path="!guide.md", k=9)) != []
    assert all("guide.md" not in place for place in places(search(server, "penguins", path="!guide.md")))
    assert all("tools.py" not in place for place in places(search(server, "colours", kind="prose")))
    assert places(search(server, "colours", language="rust")) == []


def test_questions_share_the_served_model(server: BackgroundServer) -> None:
    """A question's vector is computed by the model that is served, if it is the index's; words alone need none."""
    before = computed(server)
    search(server, "a question that nobody has asked yet", mode="vector")
    assert computed(server) == before + 1
    search(server, "penguins", mode="text")
    assert computed(server) == before + 1


def test_what_means_nothing_is_refused(server: BackgroundServer) -> None:
    """With 400, in the format of every other refusal."""
    for body in ({"query": " "}, {"query": "x", "kind": "poem"}, {"query": "x", "path": "a[z-a]"}, b"{", [1]):
        reply = ask(server, "POST", "/v1/search", body)
        assert reply.status == 400, body
        assert reply.json["error"]["type"] == "invalid_request_error"
    reply = ask(server, "GET", f"/v1/search?q=x&k={'9' * 5000}")
    assert (reply.status, reply.json["error"]["param"]) == (400, "k")


def test_another_index_is_not_served(server: BackgroundServer) -> None:
    """A client may say which index it means, and is told if it is not there."""
    assert places(search(server, "penguins", index="project"))
    reply = ask(server, "POST", "/v1/search", {"query": "penguins", "index": "other"})
    assert (reply.status, reply.json["error"]["code"]) == (404, "index_not_found")


def test_many_ask_at_once(server: BackgroundServer) -> None:
    """Each gets the answer to its own question."""
    questions = {"penguins swim": "guide.md", "mix three colours": "src/tools.py"}
    found: list[tuple[str, str]] = []

    def one(question: str) -> None:
        found.append((question, search(server, question, k=1)["data"][0]["path"]))

    threads = [threading.Thread(target=one, args=(question,)) for question in list(questions) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(questions[question] == path for question, path in found)


def test_too_many_questions_at_once_are_refused(
    serving: Serving, indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 429, and when to come back."""
    from embatch.frontends.server.dashboard import searching

    monkeypatch.setattr(searching, "WAITING", 0)
    with serving(index=str(indexed)) as server:
        reply = ask(server, "POST", "/v1/search", {"query": "penguins"})
    assert (reply.status, reply.json["error"]["code"]) == (429, "queue_full")
    assert int(reply.headers["Retry-After"]) >= 1


def test_without_an_index_it_says_so(serving: Serving, tmp_path: Path) -> None:
    """Whether none was asked for, or it is not there yet; once it is, it is found without a restart."""
    with serving() as server:
        reply = ask(server, "POST", "/v1/search", {"query": "penguins"})
        assert (reply.status, reply.json["error"]["code"]) == (404, "index_not_found")
        assert "--index" in reply.json["error"]["message"]
    with serving(index=str(tmp_path / "later")) as server:
        reply = ask(server, "POST", "/v1/search", {"query": "penguins"})
        assert (reply.status, reply.json["error"]["code"]) == (404, "index_not_found")
        write_index(tmp_path / "later")
        assert places(search(server, "penguins", k=1)) == ["guide.md Guide"]


def test_what_is_published_meanwhile_is_found(serving: Serving, tmp_path: Path) -> None:
    """New files are found at once, and an index that was made anew with another model is opened anew."""
    from embatch.frontends.searching.index import Index

    root = write_index(tmp_path / "living")
    with serving(index=str(root)) as server:
        assert "news.md Owls" not in places(search(server, "owls at night"))
        (root / "news.md").write_text("# Owls\n\nOwls hunt at night.\n", "utf-8")
        with Index.open(root) as index:
            index.sync()
        assert places(search(server, "owls at night", k=1)) == ["news.md Owls"]
        with Index.open(root, model="hashing", dimensions=32, rebuild=True) as index:
            index.sync()
        before = computed(server)
        assert places(search(server, "owls at night", k=1)) == ["news.md Owls"]
        assert computed(server) == before, "the served model has other dimensions: the index's own was used"


def test_a_served_model_of_another_kind_is_not_used(serving: Serving, tmp_path: Path) -> None:
    """The same model with other dimensions would compare nothing; the index brings its own."""
    root = write_index(tmp_path / "other", dimensions=48)
    with serving(index=str(root)) as server:
        for _ in range(2):
            assert places(search(server, "wait for the server", k=1)) == ["src/tools.py wait_for_server"]
        assert computed(server) == 0


def test_a_providers_index_without_its_model_is_searched_by_words_only(
    serving: Serving, tmp_path: Path
) -> None:
    """Questions to a provider cost money, which only a served model counts."""
    root = write_index(tmp_path / "paid")
    pretend_made_by(root, "openai:text-embedding-3-small")
    with serving(index=str(root), models=(ServedModel(name="words", model="hashing"),)) as server:
        reply = ask(server, "POST", "/v1/search", {"query": "penguins"})
        assert reply.status == 400
        assert "does not serve" in reply.json["error"]["message"]
        assert places(search(server, "penguins", mode="text", k=1)) == ["guide.md Guide"]


def pretend_made_by(root: Path, model: str) -> None:
    """Have the index remember another model."""
    from contextlib import closing

    from embatch.frontends.searching.index import locate
    from embatch.storage.vectors import open_reader, open_writer

    location = locate(str(root))
    with closing(open_reader(location)) as reader:
        spec, about = reader.spec, dict(reader.about)
    with closing(open_writer(location, spec=spec)) as writer:
        writer.describe({**about, "model": json.dumps({"model": model})})
        writer.publish()


def test_a_key_is_needed_where_there_are_keys(serving: Serving, indexed: Path) -> None:
    """Without it nothing is told; with it, the tokens of questions count against its limit."""
    key = ApiKey(name="team", secret="correct horse", tokens_per_minute=20)
    headers = {"Authorization": "Bearer correct horse"}
    with serving(index=str(indexed), models=(WORDS,), keys=(key,)) as server:
        assert ask(server, "POST", "/v1/search", {"query": "penguins"}).status == 401
        long = {"query": "penguins that swim " * 40}
        assert ask(server, "POST", "/v1/search", long, headers).status == 200
        refused = ask(server, "POST", "/v1/search", {"query": "penguins"}, headers)
        assert (refused.status, refused.json["error"]["code"]) == (429, "tokens_per_minute")
        assert ask(server, "POST", "/v1/search", {"query": "owls", "mode": "text"}, headers).status == 200
